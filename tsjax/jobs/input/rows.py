"""Readers of a file's rows in any format, which read rows one after the other or skip them.

A row that cannot be embedded is returned as a `Rejection` in its place. Only a file that cannot be read is an error.
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

# Maximum rows and bytes of JSON, which has no header, that are read to find the names of columns.
_LOOK_ROWS, _LOOK_BYTES = 200_000, 1 << 28
# Number of remote files that are opened at once.
_ASKED_AT_ONCE = 16


def open_rows(source: Source, columns: Columns | None, raw: BinaryIO | None = None) -> RowReader:
    """Open a reader at the first row of a file.

    Args:
        source: the file to read.
        columns: the columns to read; None for all.
        raw: the stored bytes, if the file is already open.

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
    """A reader of one text per line. An empty line is an empty text. Only a line feed ends a line."""

    def __init__(self, source: Source, columns: Columns | None, raw: BinaryIO) -> None:
        super().__init__(source, columns, raw)
        self._read_lines = 0
        self._stream = unpacked(raw, source.compression, source.encoding)
        self._text = "text" if columns is None else columns.text
        self._begin()

    def _begin(self) -> None:
        columns = self._columns or Columns()
        # A template with columns of the path needs a name for the line, too.
        own = [name for name in columns.fields if name in self._partitions]
        for name in columns.needed:
            if name not in self._partitions and (
                name != "text" or (columns.template is not None and not own) or name in (columns.id, *columns.keep)
            ):
                raise InputError(f"{self.source.url} is lines of text, which have no column {name!r}")
        self._lines = self._guarded(self._stream)

    def _guarded(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines without a byte order mark."""
        with self._explaining():
            for line in lines_of(stream):
                self._read_lines += 1
                yield line

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn errors of reading into an InputError that names the file and the last line that was read."""
        try:
            yield
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise InputError(
                f"cannot read {self.source.url} beyond line {self._read_lines}: {reason(error)}"
            ) from error
        except Exception as error:
            # The packages of stores have their own exceptions.
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
        # The line has no column name, so the path cannot contradict it.
        return cells if isinstance(cells, BadRowError) else {**self._partitions, **cells}


class _JsonReader(_LineReader):
    """A reader of one JSON object per line; blank lines are skipped."""

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
    """A reader of one JSON array of objects."""

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
    """A reader of CSV or TSV with a header; blank lines are skipped, unless there is only one column."""

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
        """Return the names of the columns."""
        return self._delimited.header

    def _checked(self) -> Iterator[Any]:
        """Yield the records; raise an InputError at the end if a line belongs to no record."""
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
    """Return the names of the columns of delimited text; an empty list if there is no header."""
    assert source.dialect is not None
    with open_raw(source.url) as raw:
        lines = lines_of(unpacked(raw, source.compression, source.encoding))
        return Delimited(lines, source.dialect).header


def kept_types(source: Source, columns: Columns) -> list[Any] | None:
    """Return the Arrow types of a file's kept columns; None for formats without types, whose values are text."""
    with contextlib.closing(open_rows(source, columns)) as reader:
        return reader.kept_types() if isinstance(reader, TableReader) else None


def check_columns(sources: Sequence[Source], columns: Columns, *, named: bool = False) -> None:
    """Check that the columns exist, before anything is computed or written.

    A file with a header or a schema must have all columns. For JSON, each column must be in some of the first rows of
    all JSON files together.

    Args:
        sources: the input files.
        columns: the columns to read.
        named: whether the user named the column of the text; lines of text have no columns.

    Raises:
        InputError: a column is missing from a file, or from all rows of JSON.
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
    """Check that each column is in at least one of the first rows."""
    missing = list(columns.needed)
    names: dict[str, None] = {}
    rows = size = 0
    cut = False  # whether rows remain that were not examined
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
    if names:  # otherwise there is no valid row to judge by
        where = sources[0].url if len(sources) == 1 else f"{sources[0].url} and the files after it"
        raise InputError(
            f"no row of {where} has {missing[0]!r}{known(names)}"
            + (f" ({counted(rows, 'row')} looked at; give one of them the column, with null)" if cut else "")
        )


def decoded(line: bytes) -> str:
    """Decode a line to text.

    Raises:
        BadRowError: the line is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})") from error
