"""What every reader of rows does alike: checks its columns, adds those of the path, and makes rows of cells."""

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

# A row's cells by their columns' names, or why it has none.
Found: TypeAlias = "Mapping[str, Any] | BadRowError"


class RowReader(abc.ABC):
    """A file, read from its start.

    Args:
        source: which.
        columns: what is read of it; None for all that there is.
        raw: its bytes as they are stored.

    Attributes:
        source: as given.
        next_row: the number, from 0, of the row that comes next.
        line: the line, from 1, that the current row begins on; None where files have no lines.
        lines: how many lines it has.
        texts_only: whether the values of columns are text, whatever they stand for.

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
        """Pass over rows; gives how many there were."""

    @abc.abstractmethod
    def _found(self) -> Iterator[Found]:
        """The rows from here on, without the columns of the path; counts them, and sets ``line`` and ``lines``."""

    def cells(self) -> Iterator[Found]:
        """The cells of the rows from here on, or what is wrong with a row."""
        return map(self._with_partitions, self._found()) if self._partitions else self._found()

    def read(self) -> Iterator[Row | Rejection]:
        """The rows from here on, as they are asked for."""
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
        """The texts of the rows from here on; a `RejectedRowError` at a row that has none."""
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
        """The current row, for messages."""
        return place_of(self.next_row - 1, self.line)

    def position(self) -> int:
        """About how many of the file's bytes are read."""
        return self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _as_kept(self, value: Any) -> Any:
        """A value as it is kept."""
        return as_text(value)

    def _check_names(self, names: Sequence[str], advice: str = "name one of them") -> None:
        """Raise an InputError if a column that is needed is not there, or is there twice."""
        for name in self._columns.needed if self._columns is not None else dict.fromkeys(names):
            times = names.count(name)
            if times > 1 or (not times and name not in self._partitions):
                what = "no column" if not times else f"{times} columns"
                raise InputError(f"{self.source.url} has {what} {name!r}; it has {', '.join(names)}; {advice}")

    def _with_partitions(self, cells: Found) -> Found:
        """A row's cells with the columns of the file's path; where both have one, they must say the same."""
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
