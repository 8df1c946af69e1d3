"""The rows of a file, one after the other, and over some of them without looking, whatever its format.

A row that cannot be embedded comes as a `Rejection` in its place; only a file that cannot be read is an error.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import lzma
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from tsjax.errors import InputError
from tsjax.jobs.input.columns import BadRowError, Columns, known
from tsjax.jobs.input.delimited import Delimited
from tsjax.jobs.input.formats import JSON, is_blank
from tsjax.jobs.input.json_array import JsonArray
from tsjax.jobs.input.reader import Found, RowReader
from tsjax.jobs.input.sources import Source, is_url, lines_of, open_raw, unpacked
from tsjax.jobs.input.tables import ArrowReader, ParquetReader, TableReader
from tsjax.wording import counted, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Rows of JSON, which has no header, and bytes of files, that are looked at for the names of columns.
_LOOK_ROWS, _LOOK_BYTES = 200_000, 1 << 28
# Stores that are asked at once.
_ASKED_AT_ONCE = 16


def open_rows(source: Source, columns: Columns | None, raw: BinaryIO | None = None) -> RowReader:
    """A reader at the first row of a file.

    Args:
        source: which.
        columns: what is read of it; None for all that there is.
        raw: its bytes, where it is open already.

    Raises:
        InputError: the file cannot be read, or lacks a column.
        MissingExtraError: Parquet or Arrow without pyarrow, .zst without zstandard, a URL without fsspec.
    """
    opened = open_raw(source.url) if raw is None else raw
    try:
        return _READERS[source.format](source, columns, opened)
    except BaseException:
        opened.close()
        raise


class _LineReader(RowReader):
    """One text a line, an empty line being an empty text. Only a line feed ends a line."""

    def __init__(self, source: Source, columns: Columns | None, raw: BinaryIO) -> None:
        super().__init__(source, columns, raw)
        self._read_lines = 0
        self._stream = unpacked(raw, source.compression, source.encoding)
        self._text = "text" if columns is None else columns.text
        self._begin()

    def _begin(self) -> None:
        columns = self._columns or Columns()
        # A template of the path's columns has to call the line something.
        own = [name for name in columns.fields if name in self._partitions]
        for name in columns.needed:
            if name not in self._partitions and (
                name != "text" or (columns.template is not None and not own) or name in (columns.id, *columns.keep)
            ):
                raise InputError(f"{self.source.url} is lines of text, which have no column {name!r}")
        self._lines = self._guarded(self._stream)

    def _guarded(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The lines, without a byte order mark."""
        with self._explaining():
            for line in lines_of(stream):
                self._read_lines += 1
                yield line

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say which file cannot be read, and how far it was."""
        try:
            yield
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise InputError(
                f"cannot read {self.source.url} beyond line {self._read_lines}: {reason(error)}"
            ) from error
        except Exception as error:
            # The packages of stores have exceptions of their own.
            if type(error).__name__ != "ZstdError" and not is_url(self.source.url):
                raise
            raise InputError(f"cannot read {self.source.url} beyond line {self._read_lines}: {error}") from error

    def skip(self, rows: int) -> int:
        skipped = sum(1 for _ in itertools.islice(self._records(), rows))
        self.next_row += skipped
        return skipped

    def _records(self) -> Iterator[Any]:
        return self._lines

    def _found(self) -> Iterator[Found]:
        name = self._text
        for line in self._records():
            self.next_row += 1
            self.line = self._read_lines
            try:
                yield {name: decoded(line).removesuffix("\n").removesuffix("\r")}
            except BadRowError as error:
                yield error

    def _with_partitions(self, cells: Found) -> Found:
        # The line has no name, so the path does not contradict it.
        return cells if isinstance(cells, BadRowError) else {**self._partitions, **cells}


class _JsonReader(_LineReader):
    """One JSON object a line; a blank line is no row."""

    def _begin(self) -> None:
        self._lines = self._guarded(self._stream)

    def _records(self) -> Iterator[bytes]:
        return (line for line in self._lines if not is_blank(line, "jsonl"))

    def _found(self) -> Iterator[Found]:
        for line in self._records():
            self.next_row += 1
            self.line = self._read_lines
            try:
                yield self._object(json.loads(decoded(line)))
            except BadRowError as error:
                yield error
            except (ValueError, RecursionError) as error:
                yield BadRowError(f"not JSON: {error}")

    def _object(self, value: Any) -> Found:
        if isinstance(value, dict):
            return value
        if isinstance(value, str) and self._columns is not None and self._columns.needed == ("text",):
            return {"text": value}
        if isinstance(value, BadRowError):
            return value
        return BadRowError(f"{value!r:.40} is not a JSON object")

    def _with_partitions(self, cells: Found) -> Found:
        return RowReader._with_partitions(self, cells)


class _JsonArrayReader(_JsonReader):
    """One JSON array of objects."""

    def _begin(self) -> None:
        self._array = JsonArray(self._stream)
        self._elements = self._array.elements()

    def _records(self) -> Iterator[Any]:
        with self._explaining():
            for element in self._elements:
                self._read_lines = self._array.line
                yield element

    def _found(self) -> Iterator[Found]:
        for element in self._records():
            self.next_row += 1
            self.line = self._read_lines
            yield self._object(element)


class CellReader(_LineReader):
    """CSV or TSV, with a header; a blank line is no row, unless there is one column only."""

    texts_only = True

    def _begin(self) -> None:
        assert self.source.dialect is not None
        self._lines = self._guarded(self._stream)
        try:
            self._delimited = Delimited(self._lines, self.source.dialect)
        except BadRowError as error:
            raise InputError(f"{self.source.url}, {error}") from error
        if header := self._delimited.header:
            other = next((mark for mark in ",;\t|" if len(header) == 1 and mark in header[0]), None)
            self._check_names(
                header, f"are its cells separated by {other!r}? --csv-delimiter" if other else "name one of them"
            )
        self._all = self._checked()

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return self._delimited.header

    def _checked(self) -> Iterator[Any]:
        """The records; at the end, an error if a line is in none."""
        yield from self._delimited.records()
        if (lost := self._delimited.line - self._delimited.accounted) != 0:
            raise InputError(
                f"{self.source.url} has {counted(self._delimited.line, 'line')}, of which {lost:,} in no row; "
                "please report this file"
            )

    def skip(self, rows: int) -> int:
        self._delimited.skipping = True
        skipped = super().skip(rows)
        self._delimited.skipping = False
        return skipped

    def _records(self) -> Iterator[Any]:
        return self._all

    def _found(self) -> Iterator[Found]:
        delimited = self._delimited
        names = delimited.header if self._columns is None else self._columns.needed
        wanted = [(name, delimited.header.index(name)) for name in names if name in delimited.header]
        for cells in self._all:
            self.next_row += 1
            self.line, self.lines = delimited.start, delimited.breaks + 1
            yield cells if isinstance(cells, BadRowError) else {name: cells[place] for name, place in wanted}

    def _with_partitions(self, cells: Found) -> Found:
        return RowReader._with_partitions(self, cells)


_READERS: dict[str, type[RowReader]] = {
    "txt": _LineReader,
    "jsonl": _JsonReader,
    "json": _JsonArrayReader,
    "csv": CellReader,
    "tsv": CellReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
}


def header_of(source: Source) -> list[str]:
    """The names of the columns of delimited text; none where there is no header."""
    assert source.dialect is not None
    with open_raw(source.url) as raw:
        lines = lines_of(unpacked(raw, source.compression, source.encoding))
        return Delimited(lines, source.dialect).header


def kept_types(source: Source, columns: Columns) -> list[Any] | None:
    """The Arrow types of the columns that a file has to keep; None for files without types, which have text."""
    with contextlib.closing(open_rows(source, columns)) as reader:
        return reader.kept_types() if isinstance(reader, TableReader) else None


def check_columns(sources: Sequence[Source], columns: Columns, *, named: bool = False) -> None:
    """Check at the first look, before anything is computed or written, that the columns are there.

    A file with a header or a schema must have all of them. Of JSON, some of the first rows of all its files must.

    Args:
        sources: the input.
        columns: what is read of it.
        named: whether the column of the text was named by the user, which lines of text have none of.

    Raises:
        InputError: a column that no row, or a file, has.
        MissingExtraError: a package that a format needs is not installed.
    """
    for source in sources:
        if named and source.format == "txt":
            raise InputError(f"{source.url} is lines of text, which have no column {columns.text!r}; leave it out")
    with_header = [source for source in sources if source.format not in JSON]
    local = [source for source in with_header if not is_url(source.url)]
    for source in local:
        open_rows(source, columns).close()
    if remote := [source for source in with_header if is_url(source.url)]:
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            list(pool.map(lambda source: open_rows(source, columns).close(), remote))
    _check_json([source for source in sources if source.format in JSON], columns)


def _check_json(sources: Sequence[Source], columns: Columns) -> None:
    """Check that each column is in one of the first rows at least."""
    missing = list(columns.needed)
    names: dict[str, None] = {}
    rows = size = 0
    cut = False  # whether there are rows that were not looked at
    for source in sources:
        missing = [name for name in missing if name not in dict(source.partitions)]
        if not missing:
            return
        with contextlib.closing(open_rows(source, columns)) as reader:
            for cells in itertools.islice(reader.cells(), _LOOK_ROWS - rows):
                rows += 1
                if not isinstance(cells, BadRowError):
                    names.update(dict.fromkeys(cells))
                    missing = [name for name in missing if name not in names]
                if not missing:
                    return
                if size + reader.position() > _LOOK_BYTES:
                    break
            size += reader.position()
        if cut := rows >= _LOOK_ROWS or size > _LOOK_BYTES:
            break
    if names:  # else there is no row that could say
        where = sources[0].url if len(sources) == 1 else f"{sources[0].url} and the files after it"
        raise InputError(
            f"no row of {where} has {missing[0]!r}{known(names)}"
            + (f" ({counted(rows, 'row')} looked at; give one of them the column, with null)" if cut else "")
        )


def decoded(line: bytes) -> str:
    """A line as text.

    Raises:
        BadRowError: it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})") from error
