"""What is made of a row: its text, its id, and the columns that are kept beside the vector."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import math
import re
import string
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from tsjax.errors import InputError
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}

# Names that the shards' own columns have.
RESERVED = ("id", "embedding", "chunk", "start", "end", "tokens")


class Row(NamedTuple):
    """A row that can be embedded.

    Attributes:
        file: the name of its file.
        row: its place among the file's rows, from 0.
        id: what it is called.
        text: what is embedded.
        kept: the values of the columns that are kept, in their order.
        line: the line it begins on, from 1; None where files have no lines.
        lines: how many it has, by the line breaks in its cells.
    """

    file: str
    row: int
    id: str
    text: str
    kept: tuple[Any, ...]
    line: int | None = None
    lines: int = 1


class RejectedRowError(InputError):
    """A row that cannot be embedded, for readers that reject no rows and end there."""


class Rejection(Struct, frozen=True, forbid_unknown_fields=True):
    """A row that cannot be embedded.

    Attributes:
        file: the name of its file.
        row: its place among the file's rows, from 0.
        line: the line it begins on, from 1; None where files have no lines.
        reason: what is wrong with it.
        lines: how many it has; one where a record of several was none, of which only its first line is rejected.
    """

    file: str
    row: int
    line: int | None
    reason: str
    lines: int = 1

    @property
    def sentence(self) -> str:
        """Where it is, and what is wrong with it."""
        return f"{self.file}, {place_of(self.row, self.line)}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what is listed of it, where the input says how many lines it has."""
        return {"file": self.file, "row": self.row, "line": self.line, "reason": self.reason}


def place_of(row: int, line: int | None) -> str:
    """Name a row for people: by the line it begins on, from 1, where it has one, and else by its number from 0."""
    return f"row {row}" if line is None else f"line {line}"


class BadRowError(Exception):
    """Why a row cannot be embedded; never leaves this package."""


@dataclass(frozen=True)
class Columns:
    r"""Which columns a job reads, and what for.

    Attributes:
        text: the column of the text.
        template: a text with columns in braces, ``"{title}\n{body}"``, instead of ``text``; ``\n``, ``\t`` and
            ``\\`` are a line's end, a tab and a backslash. A column that is null, or missing in a JSON line, counts
            as empty, unless all are. Values that are not text are written as `cell_text` has them.
        id: the column of the id, text or what `cell_text` makes text; None for ``file:row``.
        keep: columns that are written beside the vectors.

    Raises:
        InputError: a template without columns, or one that cannot be read; a column to keep that is named twice or as
            one of the shards' own.
    """

    text: str = "text"
    template: str | None = None
    id: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.template is not None and not self.fields:
            raise InputError(f"the template {self.template!r} names no column; one is named in braces: {{title}}")
        for name in self.keep:
            if name in RESERVED:
                raise InputError(f"a kept column cannot be named {name!r}, since the shards have one of their own")
            if self.keep.count(name) > 1:
                raise InputError(f"the column {name!r} is to be kept twice")

    @property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """The template as literal texts, each with the column that follows it."""
        assert self.template is not None
        unescaped = re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], self.template)
        try:
            parsed = list(string.Formatter().parse(unescaped))
        except ValueError as error:
            raise InputError(f"the template {self.template!r} cannot be read: {error}") from error
        for _, name, form, conversion in parsed:
            if name is not None and (not name or form or conversion):
                raise InputError(
                    f"the template {self.template!r} has braces that hold more or less than a column's name"
                )
        return tuple((literal, name) for literal, name, _, _ in parsed)

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the text is made of."""
        if self.template is None:
            return (self.text,)
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    @property
    def needed(self) -> tuple[str, ...]:
        """All columns that are read."""
        return tuple(dict.fromkeys([*self.fields, *([self.id] if self.id is not None else []), *self.keep]))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"text": None if self.template else self.text, "template": self.template, "id": self.id,
                "keep": list(self.keep)}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """The inverse of `to_json`."""
        return cls(data["text"] or "text", data["template"], data["id"], tuple(data["keep"]))


class RowBuilder:
    """Makes rows of cells: `Columns`, ready to be used many times.

    Args:
        columns: which cells are for what.
        as_kept: what is made of a cell that is kept, which leaves what is made of it as text or id alone.
    """

    def __init__(self, columns: Columns, as_kept: Callable[[Any], Any] = lambda value: value) -> None:
        self._columns, self._as_kept = columns, as_kept
        self._parts = None if columns.template is None else columns.parts

    def row(self, file: str, row: int, cells: Mapping[str, Any], line: int | None = None, lines: int = 1) -> Row:
        """One row; see `Row` for the arguments.

        Raises:
            BadRowError: no text, or one that is none; no id; text that no encoding has.
        """
        columns = self._columns
        text = self.text(cells)
        name = f"{file}:{row}" if columns.id is None else _id(cells, columns.id)
        kept = tuple([self._kept(cells.get(column), column) for column in columns.keep]) if columns.keep else ()
        return Row(file, row, name, text, kept, line, lines)

    def text(self, cells: Mapping[str, Any]) -> str:
        """The text that is embedded; raises as `row`."""
        return required_text(cells, self._columns.text) if self._parts is None else self._filled(cells)

    def _kept(self, value: Any, column: str) -> Any:
        kept = self._as_kept(value)
        return checked(kept, column) if isinstance(kept, str) else kept

    def _filled(self, cells: Mapping[str, Any]) -> str:
        assert self._parts is not None
        filled, some = [], False
        for literal, name in self._parts:
            filled.append(literal)
            if name is not None and cells.get(name) is not None:
                filled.append(cell_text(cells[name], name))
                some = True
        if not some:
            raise BadRowError(f"{', '.join(map(repr, self._columns.fields))} are all null")
        return "".join(filled)


def required_text(cells: Mapping[str, Any], column: str) -> str:
    """Return a row's text of a column.

    Raises:
        BadRowError: the row has no such column, or its value is not text, or no Unicode.
    """
    value = cells.get(column)
    if not isinstance(value, str):
        if column not in cells:
            raise BadRowError(f"no {column!r}{known(cells)}")
        raise BadRowError(f"{column!r} is null" if value is None else f"{column!r} is {value!r:.40}, not text")
    return checked(value, column)


def _id(cells: Mapping[str, Any], column: str) -> str:
    value = cells.get(column)
    if value is None:
        raise BadRowError(f"the id {column!r} is null" if column in cells else f"no id {column!r}{known(cells)}")
    return cell_text(value, column)


def known(names: Iterable[str]) -> str:
    """What columns there are, for the end of a sentence that one is not."""
    some = [repr(name) for name in itertools.islice(names, 9)]
    return f", only {', '.join(some[:8])}{', …' if len(some) > 8 else ''}" if some else ""


def cell_text(value: Any, column: str) -> str:
    """A value in a template or an id as text: the same for the same value, whatever the file's format.

    Text is as it is; whole numbers, finite floats and decimals as JSON writes them; booleans are ``true`` and
    ``false``; dates, times and timestamps as ISO 8601.

    Raises:
        BadRowError: it is a list, an object, bytes, a duration, or a float that is not finite.
    """
    if isinstance(value, str):
        return checked(value, column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise BadRowError(f"{column!r} is {value!r:.40}, which is neither text nor a number, a boolean, a date or a time")


def checked(text: str, column: str) -> str:
    """The text, if it is Unicode.

    Raises:
        BadRowError: it has a lone surrogate: one that was written so, or a byte that could not be decoded.
    """
    place = lone_surrogate(text)
    if place is None:
        return text
    code = ord(text[place])
    if 0xDC80 <= code <= 0xDCFF:  # what "surrogateescape" makes of a byte
        raise BadRowError(f"{column!r} is not UTF-8 (it has the byte 0x{code - 0xDC00:02x})")
    raise BadRowError(f"{column!r} has a lone surrogate at character {place}")


def as_text(value: Any) -> str | None:
    """Return a kept value of a JSON line as the text that its column holds: text as it is, anything else as JSON.

    Raises:
        BadRowError: it is nested too deeply to be written.
    """
    try:
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise BadRowError("a value that is kept is nested too deeply to be written as JSON") from error
