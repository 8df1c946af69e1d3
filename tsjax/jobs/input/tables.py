"""Readers of files that store rows by column, with types: Parquet, and Arrow (Feather) as a file or a stream."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tsjax.errors import InputError, MissingExtraError, require_optional
from tsjax.jobs.input.columns import BadRowError, Columns
from tsjax.jobs.input.reader import Found, RowReader
from tsjax.jobs.input.sources import is_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.jobs.input.sources import Source

# Number of rows that are read at a time.
_BATCH = 1024
# Number of bytes of a Parquet column that are read at a time.
_PARQUET_BUFFER = 1 << 20
# Last bytes of a complete Arrow stream.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class TableReader(RowReader):
    """A reader of a file that stores rows by column."""

    _format = ""
    schema: Any

    def _open(self) -> None:
        """Check the columns of ``schema``, which must be set before."""
        names = self.schema.names
        self._check_names(names)
        needed = names if self._columns is None else self._columns.needed
        self._read_names = [name for name in needed if name in names]
        for name in self._read_names if self._columns is not None else ():
            # Python's times have microseconds, so nanoseconds would be lost silently.
            if "time64[ns]" in str(kind := self.schema.field(name).type):
                raise InputError(
                    f"{self.source.url} has {name!r} as {kind}; nanoseconds of time64[ns] would be lost: cast the "
                    "column to time64[us] or int64, or do not use it"
                )

    def _kept_names(self) -> list[str]:
        return [] if self._columns is None else [name for name in self._columns.keep if name in self._read_names]

    def kept_types(self) -> list[Any]:
        """Return the Arrow types of the columns that are kept."""
        import pyarrow  # noqa: PLC0415  # an optional dependency, installed where a table is read

        own = self._kept_names()
        keep = () if self._columns is None else self._columns.keep
        return [self.schema.field(name).type if name in own else pyarrow.string() for name in keep]

    def _as_kept(self, value: Any) -> Any:
        return value

    def _rows_of(self, batch: Any, start: int = 0) -> Iterator[Found]:
        """Yield the rows of a record batch and count each of them."""
        names = batch.schema.names
        if not names:  # all needed columns are in the path
            for _ in range(start, batch.num_rows):
                self.next_row += 1
                yield {}
            return
        for first in range(start, batch.num_rows, _BATCH):
            damaged: list[str] = []
            columns = [
                _values(column, name, damaged)
                for name, column in zip(names, batch.slice(first, _BATCH).columns, strict=True)
            ]
            for values in zip(*columns, strict=True):
                self.next_row += 1
                bad = next((value for value in values if isinstance(value, BadRowError)), None) if damaged else None
                yield dict(zip(names, values, strict=True)) if bad is None else bad

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn errors of pyarrow into an InputError that names the file; pyarrow raises OSError and its own types."""
        try:
            yield
        except (InputError, MissingExtraError):
            raise
        except Exception as error:
            what = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.source.url} cannot be read as {self._format}: {what}") from error


class ParquetReader(TableReader):
    """A reader of Parquet, a batch of rows at a time; row groups that are skipped are not read."""

    _format = "Parquet"

    def __init__(self, source: Source, columns: Columns | None, raw: BinaryIO) -> None:
        super().__init__(source, columns, raw)
        parquet = require_optional("pyarrow.parquet", extra="batch", feature=f"{source.url}: Parquet")
        if not raw.seekable():
            raise InputError("Parquet cannot be read from standard input or a pipe; give a file")
        with self._explaining():
            # The columns of a row group are read in pieces. Otherwise Arrow reads the complete row group before it
            # returns the first batch.
            self._file = parquet.ParquetFile(raw, pre_buffer=False, buffer_size=_PARQUET_BUFFER)
            self.schema = self._file.schema_arrow
        self._open()
        self._rows = int(self._file.metadata.num_rows)
        # The current row group, which is read up to the row before `_batch_end`, and the batch that ends there.
        self._batches: Iterator[Any] = iter(())
        self._group, self._group_end, self._batch_start, self._batch_end = -1, 0, 0, 0
        self._batch: Any = None

    def skip(self, rows: int) -> int:
        skipped = min(rows, self._rows - self.next_row)
        self.next_row += skipped
        return skipped

    def _found(self) -> Iterator[Found]:
        while self.next_row < self._rows:
            batch = self._batch_of_next_row()
            yield from self._rows_of(batch, self.next_row - self._batch_start)

    def _batch_of_next_row(self) -> Any:
        """Return the batch that has the next row.

        If the row is in the current row group, reading continues there, so that each row group is read only once.
        """
        while self._group_end <= self.next_row:
            self._group, self._batch_end = self._group + 1, self._group_end
            self._group_end += self._file.metadata.row_group(self._group).num_rows
            self._batches = self._file.iter_batches(_BATCH, [self._group], columns=self._read_names, use_threads=False)
        while self._batch_end <= self.next_row:
            with self._explaining():
                self._batch = next(self._batches, None)
            if self._batch is None:
                raise InputError(f"{self.source.url} has fewer rows than it says; it is damaged")
            self._batch_start, self._batch_end = self._batch_end, self._batch_end + self._batch.num_rows
        return self._batch

    def position(self) -> int:
        return self.source.size * self.next_row // max(1, self._rows)

    def close(self) -> None:
        self._file.close()
        super().close()


class ArrowReader(TableReader):
    """A reader of Arrow, one record batch at a time.

    It reads files (Feather) and streams, such as those that Hugging Face datasets write.
    """

    _format = "Arrow"

    def __init__(self, source: Source, columns: Columns | None, raw: BinaryIO) -> None:
        super().__init__(source, columns, raw)
        arrow = require_optional("pyarrow", extra="batch", feature=f"{source.url}: Arrow")
        with self._explaining():
            local = raw.seekable() and not is_url(source.url)
            # The file is mapped into memory, so that a batch of any size costs only the memory of the rows that are
            # taken from it.
            self._handle = arrow.memory_map(source.url) if local else arrow.PythonFile(raw, "r")
            self._is_file = raw.seekable() and self._handle.read(6) == b"ARROW1"
            opener = arrow.ipc.open_file if self._is_file else arrow.ipc.open_stream
            if raw.seekable():
                self._handle.seek(0)
            self._batches_of = opener(self._handle)
            self.schema = self._batches_of.schema
        self._open()
        if raw.seekable() and self._read_names:
            with self._explaining():
                self._handle.seek(0)
                places = [self.schema.get_field_index(name) for name in self._read_names]
                options = arrow.ipc.IpcReadOptions(included_fields=places)
                self._batches_of = opener(self._handle, options=options)
        self._batches = self._record_batches()
        self._batch: Any = None
        self._batch_start = 0

    def _record_batches(self) -> Iterator[Any]:
        with self._explaining():
            if self._is_file:
                for place in range(self._batches_of.num_record_batches):
                    yield self._batches_of.get_batch(place)
                return
            yield from self._batches_of
            if self._raw.seekable():
                end = self._handle.tell()
                self._handle.seek(max(0, end - len(_END_OF_STREAM)))
                whole = self._handle.read(len(_END_OF_STREAM)) == _END_OF_STREAM
                if not whole or self._handle.size() != end:
                    raise InputError(
                        f"{self.source.url} {'has more after the end of its stream' if whole else 'was cut'}: it is "
                        "no whole Arrow stream"
                    )

    def _next_batch(self) -> bool:
        """Load the batch of the next row; return False if there is no further row."""
        while self._batch is None or self._batch_start + self._batch.num_rows <= self.next_row:
            if self._batch is not None:
                self._batch_start += self._batch.num_rows
            self._batch = next(self._batches, None)
            if self._batch is None:
                return False
        return True

    def skip(self, rows: int) -> int:
        before = self.next_row
        while self.next_row < before + rows and self._next_batch():
            self.next_row = min(before + rows, self._batch_start + self._batch.num_rows)
        return self.next_row - before

    def _found(self) -> Iterator[Found]:
        while self._next_batch():
            batch = self._batch.select(self._read_names)
            yield from self._rows_of(batch, self.next_row - self._batch_start)

    def position(self) -> int:
        return int(self._handle.tell())

    def close(self) -> None:
        self._handle.close()
        super().close()


def _values(column: Any, name: str, damaged: list[str]) -> list[Any]:
    """Return a column's values, with errors in place of those that Python cannot represent.

    Such values are, for example, text that is not UTF-8 and the year 12345. If there are any, the name of the column is
    added to ``damaged``.
    """
    if str(column.type) in ("float", "halffloat"):
        # The shortest decimal that identifies the number is used, not the digits of its conversion to double.
        kind = np.float32 if str(column.type) == "float" else np.float16
        return [None if value is None else float(str(kind(value))) for value in column.to_pylist()]
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        damaged.append(name)
        return [_value(value, name) for value in column]


def _value(value: Any, name: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return BadRowError(f"{name!r} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})")
    except (ValueError, OverflowError) as error:  # pyarrow's own types derive from ValueError
        return BadRowError(f"{name!r} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}")
