"""Typed rows of a file, for data that are more than texts: pairs with scores, labels, judgements."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from tsjax.errors import InputError
from tsjax.jobs.input.columns import BadRowError, known, required_text
from tsjax.jobs.input.texts import open_file
from tsjax.validation.numbers import is_finite_number

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from tsjax.jobs.input.formats import Reading


class TypedRow(NamedTuple):
    """A row of a file; its methods raise an `InputError` that names the file and the row.

    Attributes:
        place: the file and the row, for messages.
        cells: the values by the names of their columns.
        texts_only: whether all values are stored as text, numbers included.
    """

    place: str
    cells: Mapping[str, Any]
    texts_only: bool = False

    def text(self, column: str) -> str:
        """Return a column's text."""
        try:
            return required_text(self.cells, column)
        except BadRowError as error:
            raise InputError(f"{self.place}: {error}") from error

    def name(self, column: str) -> str:
        """Return an id or a label as text; its value must be text or an integer."""
        value = self._value(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise InputError(f"{self.place}: {column!r} is {value!r:.40}, neither text nor a whole number")
        return str(value)

    def number(self, column: str) -> float:
        """Return a finite number."""
        value = self._value(column)
        if self.texts_only and isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if is_finite_number(value):
            return float(value)
        raise InputError(f"{self.place}: {column!r} is {value!r:.40}, not a finite number")

    def _value(self, column: str) -> Any:
        if column not in self.cells:
            raise InputError(f"{self.place}: no {column!r}{known(self.cells)}")
        return self.cells[column]


def read_typed_rows(file: str | os.PathLike[str], reading: Reading | None = None) -> Iterator[TypedRow]:
    """Yield the rows of a file in any format, read lazily.

    Args:
        file: a path, or ``-`` for standard input.
        reading: the user's options for reading; None to detect the format from the name and the first bytes.

    Raises:
        InputError: the file or one of its rows cannot be read.
        MissingExtraError: a package that the format needs is not installed.
    """
    with contextlib.closing(open_file(str(file), None, reading)) as reader:
        for cells in reader.cells():
            place = f"{file}, {reader.place}"
            if isinstance(cells, BadRowError):
                raise InputError(f"{place}: {cells}")
            yield TypedRow(place, cells, reader.texts_only)
