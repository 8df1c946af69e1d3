"""The rows of a file, one after the other, and over some of them without looking: lines, JSONL, CSV, TSV, Parquet.

A row that cannot be embedded comes as a `Rejection` in its place; only a file that cannot be read is an error.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from tsjax.errors import InputError, MissingExtraError
from tsjax.jobs.columns import BadRowError, Columns, Maker, Rejection, Row, as_text
from tsjax.jobs.inputs import Source, open_raw, unpacked
from tsjax.jobs.texts import LARGEST_CELL

if TYPE_CHECKING:
    from collections.abc import Iterator

# Rows of Parquet that are read at a time.
_BATCH = 1024
# Bytes of a column of Parquet that are read at a time.
_PARQUET_BUFFER = 1 << 20


class RowReader(Protocol):
    """A file, read from its start. ``source`` says which; ``next_row`` is the place of the row that comes next."""

    source: Source
    next_row: int

    def skip(self, rows: int) -> int:
        """Pass over rows; gives how many there were."""

    def read(self) -> Iterator[Row | Rejection]:
        """The rows from here on, as they are asked for."""

    def position(self) -> int:
        """About how many of the file's bytes are read."""

    def close(self) -> None:
        """Close the file."""


def open_rows(source: Source, columns: Columns) -> RowReader:
    """A reader at the first row of a file.

    Raises:
        InputError: the file cannot be read, or lacks a column.
        MissingExtraError: Parquet without pyarrow, .zst without zstandard, a URL without fsspec.
    """
    if source.format == "parquet":
        return _ParquetReader(source, columns)
    return {"txt": _LineReader, "jsonl": _JsonReader, "csv": _CellReader, "tsv": _CellReader}[source.format](
        source, columns
    )


class _LineReader:
    """One text a line, an empty line being an empty text. Only a line feed ends a line."""

    def __init__(self, source: Source, columns: Columns) -> None:
        self.source, self.next_row, self._line = source, 0, 0
        self._columns, self._maker = columns, Maker(columns, as_text)
        self._raw = open_raw(source.url)
        with _closed_on_error(self._raw):
            self._lines = self._guarded(unpacked(self._raw, source.compression))
            self._check_columns()

    def _check_columns(self) -> None:
        if extra := [name for name in self._columns.needed if name != self._columns.text or self._columns.template]:
            raise InputError(f"{self.source.url} is lines of text, which have no column {extra[0]!r}")

    def _guarded(self, stream: BinaryIO) -> Iterator[bytes]:
        """The lines, with an error that names the file where they cannot be read."""
        try:
            for line in stream:
                self._line += 1
                yield line.removeprefix(b"\xef\xbb\xbf") if self._line == 1 else line
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise InputError(f"cannot read {self.source.url} beyond line {self._line}: {error}") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise InputError(f"cannot read {self.source.url} beyond line {self._line}: {error}") from error

    def _records(self) -> Iterator[bytes]:
        return self._lines

    def skip(self, rows: int) -> int:
        skipped = sum(1 for _ in itertools.islice(self._records(), rows))
        self.next_row += skipped
        return skipped

    def read(self) -> Iterator[Row | Rejection]:
        for record in self._records():
            row, self.next_row = self.next_row, self.next_row + 1
            try:
                yield self._maker.row(self.source.name, row, self._cells(record))
            except BadRowError as error:
                yield Rejection(self.source.name, row, self._line, str(error))

    def _cells(self, record: bytes) -> dict[str, Any]:
        return {self._columns.text: decoded(record).removesuffix("\n").removesuffix("\r")}

    def position(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._raw.close()


class _JsonReader(_LineReader):
    """One JSON object a line; a blank line is no row."""

    def _check_columns(self) -> None:
        pass  # each line has its own

    def _records(self) -> Iterator[bytes]:
        return (line for line in self._lines if line.strip())

    def _cells(self, record: bytes) -> dict[str, Any]:
        line = decoded(record)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRowError(f"not JSON: {error}") from error
        if isinstance(row, str) and self._columns.needed == (self._columns.text,):
            return {self._columns.text: row}
        if not isinstance(row, dict):
            raise BadRowError("not a JSON object")
        return row


class _CellReader(_LineReader):
    """CSV or TSV, with a header; a blank line is no row."""

    def _check_columns(self) -> None:
        csv.field_size_limit(LARGEST_CELL)
        delimiter = "," if self.source.format == "csv" else "\t"
        # Undecodable bytes are found in the cell that has them, if that is wanted at all.
        lines = (line.decode("utf-8", "surrogateescape") for line in self._lines)
        self._cells_of_rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            self._header: list[str] = next(filter(None, self._cells_of_rows), [])
        except csv.Error as error:
            raise InputError(f"{self.source.url}, line {self._line}: {error}") from error
        for name in self._columns.needed if self._header else ():
            if (times := self._header.count(name)) != 1:
                what = "no column" if not times else f"{times} columns"
                raise InputError(f"{self.source.url} has {what} {name!r}; it has {', '.join(self._header)}")

    def _rows(self) -> Iterator[list[str] | csv.Error]:
        while True:
            try:
                cells = next(self._cells_of_rows, None)
            except csv.Error as error:
                yield error
                continue
            if cells is None:
                return
            if cells:
                yield cells

    def skip(self, rows: int) -> int:
        skipped = sum(1 for _ in itertools.islice(self._rows(), rows))
        self.next_row += skipped
        return skipped

    def read(self) -> Iterator[Row | Rejection]:
        header = self._header
        for cells in self._rows():
            row, self.next_row = self.next_row, self.next_row + 1
            try:
                if isinstance(cells, csv.Error):
                    raise BadRowError(str(cells))
                if len(cells) != len(header):
                    raise BadRowError(
                        f"the row has {len(cells)} cells and the header {len(header)}; a comma not in quotes?"
                    )
                yield self._maker.row(self.source.name, row, dict(zip(header, cells, strict=True)))
            except BadRowError as error:
                yield Rejection(self.source.name, row, self._line, str(error))


class _ParquetReader:
    """Parquet, a batch of rows at a time; row groups that are passed over are not read."""

    def __init__(self, source: Source, columns: Columns) -> None:
        parquet = import_parquet(source.url)
        self.source, self.next_row = source, 0
        self._columns, self._maker = columns, Maker(columns)
        self._raw = open_raw(source.url)
        with _closed_on_error(self._raw):
            self._open(parquet)

    def _open(self, parquet: Any) -> None:
        source, columns = self.source, self._columns
        try:
            # By pieces of a row group's columns; else Arrow reads all of a row group before it gives the first batch.
            self._file = parquet.ParquetFile(self._raw, pre_buffer=False, buffer_size=_PARQUET_BUFFER)
        except Exception as error:  # pyarrow raises OSError and its own kinds for damage
            raise InputError(f"{source.url} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        names = self._file.schema_arrow.names
        for name in columns.needed:
            if names.count(name) != 1:
                what = "no column" if name not in names else f"{names.count(name)} columns"
                raise InputError(f"{source.url} has {what} {name!r}; it has {', '.join(names)}")
        for name in columns.keep:
            # Python's times have microseconds, and the rest would be lost without a word.
            if "time64[ns]" in str(kind := self._file.schema_arrow.field(name).type):
                raise InputError(
                    f"{source.url} has {name!r} as {kind}; nanoseconds of time64[ns] cannot be kept: cast the column "
                    "to time64[us] or int64, or do not keep it"
                )
        self._rows = int(self._file.metadata.num_rows)
        # The row group that is being read, up to the row before `_batch_end`, and the batch that ends there.
        self._batches: Iterator[Any] = iter(())
        self._group, self._group_end, self._batch_start, self._batch_end = -1, 0, 0, 0
        self._batch: Any = None

    def skip(self, rows: int) -> int:
        skipped = min(rows, self._rows - self.next_row)
        self.next_row += skipped
        return skipped

    def read(self) -> Iterator[Row | Rejection]:
        names: list[str] = []
        columns: list[list[Any]] = []
        start = end = 0
        while self.next_row < self._rows:
            if not start <= self.next_row < end:
                batch = self._batch_of_next_row()
                start, end = self._batch_start, self._batch_end
                names, columns = list(batch.schema.names), [_values(column) for column in batch.columns]
            row, self.next_row = self.next_row, self.next_row + 1
            yield self._row(row, names, [column[row - start] for column in columns])

    def _batch_of_next_row(self) -> Any:
        """The batch that has the next row: on in the row group where it is there, so that each is read only once."""
        while self._group_end <= self.next_row:
            self._group, self._batch_end = self._group + 1, self._group_end
            self._group_end += self._file.metadata.row_group(self._group).num_rows
            self._batches = self._batches_of(self._group)
        while self._batch_end <= self.next_row:
            self._batch = next(self._batches, None)
            if self._batch is None:
                raise InputError(f"{self.source.url} has fewer rows than it says; it is damaged")
            self._batch_start, self._batch_end = self._batch_end, self._batch_end + self._batch.num_rows
        return self._batch

    def _row(self, row: int, names: list[str], values: list[Any]) -> Row | Rejection:
        try:
            for name, value in zip(names, values, strict=True):
                if isinstance(value, BadRowError):
                    raise BadRowError(f"{name!r} {value}")
            return self._maker.row(self.source.name, row, dict(zip(names, values, strict=True)))
        except BadRowError as error:
            return Rejection(self.source.name, row, None, str(error))

    def _batches_of(self, group: int) -> Iterator[Any]:
        batches = self._file.iter_batches(_BATCH, [group], columns=list(self._columns.needed), use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # pyarrow raises OSError and its own kinds for a damaged page
                what = str(error).splitlines()[0]
                raise InputError(f"{self.source.url} cannot be read as Parquet: {what}") from error
            if batch is None:
                return
            yield batch

    def kept_types(self) -> list[Any]:
        """The Arrow types of the columns that are kept."""
        return [self._file.schema_arrow.field(name).type for name in self._columns.keep]

    def position(self) -> int:
        return self.source.size * self.next_row // max(1, self._rows)

    def close(self) -> None:
        self._file.close()
        self._raw.close()


@contextlib.contextmanager
def _closed_on_error(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def _values(column: Any) -> list[Any]:
    """A column's values; as errors those that Python has not, such as text that is not UTF-8, or the year 12345."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(value) for value in column]


def _value(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return BadRowError(f"is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})")
    except (ValueError, OverflowError) as error:  # pyarrow's own kinds are ValueErrors
        return BadRowError(f"cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}")


def kept_types(source: Source, columns: Columns) -> list[Any] | None:
    """The Arrow types of the columns that a Parquet file has to keep; None for other files, which have text."""
    if source.format != "parquet":
        return None
    reader = _ParquetReader(source, columns)
    try:
        return reader.kept_types()
    finally:
        reader.close()


def import_parquet(what: str) -> Any:
    """The module pyarrow.parquet.

    Raises:
        MissingExtraError: pyarrow is not installed; ``what`` needs it.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise MissingExtraError(
            f"{what}: Parquet needs pyarrow; install it with: pip install 'tsjax[batch]'"
        ) from error
    return pyarrow.parquet


def decoded(line: bytes) -> str:
    """A line as text.

    Raises:
        BadRowError: it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})") from error
