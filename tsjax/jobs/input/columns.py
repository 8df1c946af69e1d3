"""Rows of the input: their text, their id, and the columns that are kept next to the vector."""

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

# Names of the columns that tsjax itself writes to shards.
RESERVED = ("id", "embedding", "chunk", "start", "end", "tokens")


class Row(NamedTuple):
    """A row that can be embedded.

    Attributes:
        file: name of the file.
        row: index of the row in the file, from 0.
        id: id of the row.
        text: text to embed.
        kept: values of the columns that are kept, in the order of the columns.
        line: line on which the row begins, from 1; None if the format has no lines.
        lines: number of lines, counted by the line breaks in the cells.
    """

    file: str
    row: int
    id: str
    text: str
    kept: tuple[Any, ...]
    line: int | None = None
    lines: int = 1


class RejectedRowError(InputError):
    """Error for a row that cannot be embedded, raised by readers that stop instead of rejecting rows."""


class Rejection(Struct, frozen=True, forbid_unknown_fields=True):
    """A row that cannot be embedded.

    Attributes:
        file: name of the file.
        row: index of the row in the file, from 0.
        line: line on which the row begins, from 1; None if the format has no lines.
        reason: description of the error.
        lines: number of lines. An invalid record of several lines has one, since only its first line is rejected.
    """

    file: str
    row: int
    line: int | None
    reason: str
    lines: int = 1

    @property
    def sentence(self) -> str:
        """Return a sentence with the position of the row and the reason."""
        return f"{self.file}, {place_of(self.row, self.line)}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the rejection as plain JSON values, without ``lines``, which can be counted in the input."""
        return {"file": self.file, "row": self.row, "line": self.line, "reason": self.reason}


def place_of(row: int, line: int | None) -> str:
    """Return the position of a row for messages: the line on which it begins, from 1, or else its index, from 0."""
    return f"row {row}" if line is None else f"line {line}"


class BadRowError(Exception):
    """The reason why a row cannot be embedded; it never leaves this package."""


@dataclass(frozen=True)
class Columns:
    r"""The columns that a job reads, by their purpose.

    Attributes:
        text: the column of the text.
        template: a text with column names in braces, ``"{title}\n{body}"``, used instead of ``text``. ``\n``, ``\t``
            and ``\\`` are a line feed, a tab and a backslash. A column that is null, or missing in a JSON line, counts
            as empty, unless all columns are. Values that are not text are formatted by `cell_text`.
        id: the column of the id, whose values are text or formatted by `cell_text`; None for ``file:row``.
        keep: columns that are written next to the vectors.

    Raises:
        InputError: the template has no columns or cannot be parsed; a column to keep is named twice, or has the name of
            a column that tsjax writes itself.
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
        """Return the template as literal texts, each with the column that follows it."""
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
        """Return the columns that make up the text."""
        if self.template is None:
            return (self.text,)
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    @property
    def needed(self) -> tuple[str, ...]:
        """Return all columns to read."""
        return tuple(dict.fromkeys([*self.fields, *([self.id] if self.id is not None else []), *self.keep]))

    def to_json(self) -> dict[str, Any]:
        """Return the columns as plain JSON values."""
        return {"text": None if self.template else self.text, "template": self.template, "id": self.id,
                "keep": list(self.keep)}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """Return the columns from the values of `to_json`."""
        return cls(data["text"] or "text", data["template"], data["id"], tuple(data["keep"]))


class RowBuilder:
    """A builder of rows from cells, prepared from `Columns` once for many rows.

    Args:
        columns: the columns, by their purpose.
        as_kept: conversion of the cells that are kept; it does not affect the text and the id.
    """

    def __init__(self, columns: Columns, as_kept: Callable[[Any], Any] = lambda value: value) -> None:
        self._columns, self._as_kept = columns, as_kept
        self._parts = None if columns.template is None else columns.parts

    def row(self, file: str, row: int, cells: Mapping[str, Any], line: int | None = None, lines: int = 1) -> Row:
        """Return a row; see `Row` for the arguments.

        Raises:
            BadRowError: the text or the id is missing or has another type, or text is not valid Unicode.
        """
        columns = self._columns
        text = self.text(cells)
        name = f"{file}:{row}" if columns.id is None else _id(cells, columns.id)
        kept = tuple([self._kept(cells.get(column), column) for column in columns.keep]) if columns.keep else ()
        return Row(file, row, name, text, kept, line, lines)

    def text(self, cells: Mapping[str, Any]) -> str:
        """Return the text to embed.

        Raises:
            BadRowError: see `row`.
        """
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
    """Return a row's text in a column.

    Raises:
        BadRowError: the row has no such column, or its value is not text or not valid Unicode.
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
    """Return the existing columns in words, for the end of a sentence about a missing one."""
    some = [repr(name) for name in itertools.islice(names, 9)]
    return f", only {', '.join(some[:8])}{', …' if len(some) > 8 else ''}" if some else ""


def cell_text(value: Any, column: str) -> str:
    """Return the text of a value in a template or an id; the same value has the same text in every file format.

    Text is unchanged. Integers, finite floats and decimals are written as in JSON. Booleans are ``true`` and ``false``.
    Dates, times and timestamps are written in ISO 8601.

    Raises:
        BadRowError: the value is a list, an object, bytes, a duration, or a float that is not finite.
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
    """Return a text unchanged if it is valid Unicode.

    Raises:
        BadRowError: the text has a lone surrogate, which was written as such or stands for a byte that could not be
            decoded.
    """
    place = lone_surrogate(text)
    if place is None:
        return text
    code = ord(text[place])
    if 0xDC80 <= code <= 0xDCFF:  # "surrogateescape" maps bytes to this range
        raise BadRowError(f"{column!r} is not UTF-8 (it has the byte 0x{code - 0xDC00:02x})")
    raise BadRowError(f"{column!r} has a lone surrogate at character {place}")


def as_text(value: Any) -> str | None:
    """Return a kept value of a JSON line as the text in its column: text unchanged, any other value as JSON.

    Raises:
        BadRowError: the value is nested too deeply to be written.
    """
    try:
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise BadRowError("a value that is kept is nested too deeply to be written as JSON") from error
