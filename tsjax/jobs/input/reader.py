"""Base class of the readers of rows: it checks columns, adds those of the path, and builds rows from cells."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from tsjax.errors import InputError
from tsjax.jobs.input.columns import (
    BadRowError,
    Columns,
    RejectedRowError,
    Rejection,
    Row,
    RowBuilder,
    as_text,
    cell_text,
    place_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsjax.jobs.input.sources import Source

# The cells of a row by column name, or the error of an invalid row.
Found: TypeAlias = "Mapping[str, Any] | BadRowError"


class RowReader(abc.ABC):
    """A reader of a file's rows, from its start.

    Args:
        source: the file to read.
        columns: the columns to read; None for all.
        raw: the stored bytes of the file.

    Attributes:
        source: the file to read.
        next_row: index of the next row, from 0.
        line: line on which the current row begins, from 1; None if the format has no lines.
        lines: number of lines of the current row.
        texts_only: whether all values are text, those of numbers and dates included.

    Raises:
        InputError: the file cannot be read, or lacks a column.
        MissingExtraError: a package that its format needs is not installed.
    """

    texts_only = False

    def __init__(self, source: Source, columns: Columns | None, raw: BinaryIO) -> None:
        self.source, self.next_row = source, 0
        self.line: int | None = None
        self.lines = 1
        self._columns, self._raw = columns, raw
        self._partitions = dict(source.partitions)

    @abc.abstractmethod
    def skip(self, rows: int) -> int:
        """Skip rows; return the number of rows skipped, which is smaller at the end of the file."""

    @abc.abstractmethod
    def _found(self) -> Iterator[Found]:
        """Yield the remaining rows without the columns of the path; count them, and set ``line`` and ``lines``."""

    def cells(self) -> Iterator[Found]:
        """Return an iterator over the cells of the remaining rows, or the error of an invalid row."""
        return map(self._with_partitions, self._found()) if self._partitions else self._found()

    def read(self) -> Iterator[Row | Rejection]:
        """Yield the remaining rows lazily."""
        make, file = RowBuilder(self._columns or Columns(), self._as_kept).row, self.source.name
        for cells in self.cells():
            row = self.next_row - 1
            try:
                if isinstance(cells, BadRowError):
                    raise cells
                yield make(file, row, cells, self.line, self.lines)
            except BadRowError as error:
                yield Rejection(file, row, self.line, str(error), self.lines)

    def texts(self) -> Iterator[str]:
        """Yield the texts of the remaining rows; raise a `RejectedRowError` at a row without a valid text."""
        make = RowBuilder(self._columns or Columns()).text
        for cells in self.cells():
            try:
                if isinstance(cells, BadRowError):
                    raise cells
                text = make(cells)
            except BadRowError as error:
                raise RejectedRowError(f"{self.source.url}, {self.place}: {error}") from error
            yield text

    @property
    def place(self) -> str:
        """Return the position of the current row for messages."""
        return place_of(self.next_row - 1, self.line)

    def position(self) -> int:
        """Return the approximate number of the file's bytes that have been read."""
        return self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _as_kept(self, value: Any) -> Any:
        """Convert a value of a kept column to the value that is stored."""
        return as_text(value)

    def _check_names(self, names: Sequence[str], advice: str = "name one of them") -> None:
        """Raise an InputError if a needed column is missing or occurs twice."""
        for name in self._columns.needed if self._columns is not None else dict.fromkeys(names):
            times = names.count(name)
            if times > 1 or (not times and name not in self._partitions):
                what = "no column" if not times else f"{times} columns"
                raise InputError(f"{self.source.url} has {what} {name!r}; it has {', '.join(names)}; {advice}")

    def _with_partitions(self, cells: Found) -> Found:
        """Return a row's cells with the columns of the file's path; an error if both have a column and disagree."""
        if isinstance(cells, BadRowError):
            return cells
        try:
            for name, value in self._partitions.items():
                if (own := cells.get(name)) is not None and value != cell_text(own, name):
                    return BadRowError(f"{name!r} is {own!r:.40}, and {value!r} in the file's path")
        except BadRowError as error:
            return error
        own_cells = {name: cell for name, cell in cells.items() if cell is not None or name not in self._partitions}
        return {**self._partitions, **own_cells}
