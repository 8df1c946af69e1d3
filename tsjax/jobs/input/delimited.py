"""Delimited text, record by record: CSV and TSV in the dialects of `tsjax.jobs.input.formats.Dialect`.

A line is what ends with a line feed. Most records are one; a quoted cell may hold more. A quotation mark that is never
closed must not take the rows after it along, so a record of several lines that turns out to be none costs its first
line alone, and reading goes on at the next. What comes of a line follows from the file and the dialect alone, whether
the records before it are read or skipped.
"""

from __future__ import annotations

import collections
import csv
import itertools
import re
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tsjax.jobs.input.columns import BadRowError
from tsjax.jobs.input.formats import EMPTY_LINES
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tsjax.jobs.input.formats import Dialect

Cells: TypeAlias = "list[str | None]"

# Bytes of a record of several lines. One that has more has lost a quotation mark; its lines are kept until then.
MOST_RECORD = 1 << 26
# A cell may hold a whole document; Python's own limit is 131,072 characters.
_MOST_CELL = 1 << 30

# Lines from the file's beginning that say what its rows look like, and their bytes at most.
_SAMPLE_LINES, _SAMPLE_BYTES = 1000, 1 << 20
# A column of so few values is known by them, where each occurs so often on average; others by so few patterns.
_MOST_VALUES, _LEAST_REPEATS = 16, 3
_MOST_PATTERNS = 4
# The share of rows that have those.
_MOST = 0.8

_CARRIAGE_RETURN = "a carriage return outside of quotes; only a line feed ends a line"


class Delimited:
    """The records of delimited text.

    Args:
        lines: the file's lines, with their ends.
        dialect: how they are written.

    Attributes:
        header: the first record's cells; empty where there is none.
        skipping: whether records are only counted: one of a single line may then come without its cells.
        line: lines that are read.
        start: the line, from 1, that the current record begins in.
        breaks: line breaks within its cells.
        accounted: lines that are the header's, a record's, or blank: as many as are read, unless one was lost.

    Raises:
        BadRowError: the header cannot be read; says where it is.
    """

    def __init__(self, lines: Iterator[bytes], dialect: Dialect) -> None:
        csv.field_size_limit(_MOST_CELL)
        self.header: list[str] = []
        self.skipping = False
        self.line = self.start = self.breaks = self.accounted = 0
        self._dialect, self._parser = dialect, _parser(dialect)
        self._marks = [mark.encode() for mark in (dialect.quote, dialect.escape) if mark is not None]
        self._lines, self._waiting = lines, collections.deque[bytes]()
        self._sample = self._read_ahead()
        self._shape: Shape | None = None
        # A record of several lines that was none: where it began, and ended.
        self._broken = (0, 0)
        for cells in self.records():
            if isinstance(cells, BadRowError):
                raise BadRowError(f"line {self.start}: {cells}")
            self.header = [cell or "" for cell in cells]
            break

    def _read_ahead(self) -> list[bytes]:
        """The first lines, which wait to be read."""
        size = 0
        for line in itertools.islice(self._lines, _SAMPLE_LINES):
            self._waiting.append(line)
            size += len(line)
            if size > _SAMPLE_BYTES:
                break
        return list(self._waiting)

    def records(self) -> Iterator[Cells | BadRowError]:
        """The records from here on: their cells, as many as the header has, or what is wrong with them."""
        # Lines without these are split at the delimiters, and are a record each.
        first, second = [*self._marks, None, None][:2]
        waiting, lines, delimiter = self._waiting, self._lines, self._dialect.delimiter
        parser = self._parser
        width = len(self.header)
        while True:
            line = waiting.popleft() if waiting else next(lines, None)
            if line is None:
                return
            self.line += 1
            self.start, self.breaks = self.line, 0
            if line in EMPTY_LINES and width != 1:
                self.accounted += 1  # with one column it is an empty cell, and otherwise no row
                continue
            marked = first is not None and (first in line or (second is not None and second in line))
            if self.skipping and (not marked or parser.is_record(line)):
                self.accounted += 1
                yield []
                continue
            if marked:
                cells = parser.parse(line)
                if cells is None:
                    yield self._long_record(line)
                    continue
            else:
                text = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
                cells = [*text.split(delimiter)] if "\r" not in text else BadRowError(_CARRIAGE_RETURN)
            self.accounted += 1
            if width and isinstance(cells, list) and len(cells) != width:
                cells = self._miscounted(len(cells))
            yield cells if self.start > self._broken[1] else self._unless_broken(cells)

    def _long_record(self, first: bytes) -> Cells | BadRowError:
        """The record that begins with this line, and goes on in the next."""
        cells: Cells | BadRowError | None = None
        lines, size = [first], len(first)
        while cells is None and size <= MOST_RECORD:
            line = self._waiting.popleft() if self._waiting else next(self._lines, None)
            if line is None:
                break
            self.line += 1
            lines.append(line)
            size += len(line)
            if self._parser.may_close(line):
                cells = self._parser.parse(b"".join(lines))
        self.accounted += 1
        if (error := self._fault(cells, lines)) is None:
            assert isinstance(cells, list)
            # By what the cells hold, so that a line that is lost is missed. (Without quotes, \n is a line break, too.)
            inside = sum(cell.count("\n") for cell in cells if cell is not None)
            self.breaks = inside if self._dialect.quote else len(lines) - 1
            self.accounted += self.breaks
            return cells
        self._broken = (self.start, max(self._broken[1], self.line))
        self._waiting.extendleft(reversed(lines[1:]))
        self.line = self.start
        return error

    def _fault(self, cells: Cells | BadRowError | None, lines: Sequence[bytes]) -> BadRowError | None:
        """What is wrong with a record of several lines; None for nothing."""
        if cells is None:
            return self._never_closed()
        opened = f"a quotation mark opened in line {self.start}"
        if isinstance(cells, BadRowError):
            hint = "" if self._dialect.escape else _escape_hint(b"".join(lines), self._marks[0])
            return BadRowError(
                f"{opened} is not closed: the text from there to line {self.line} makes no quoted cell{hint}"
            )
        if self.header and len(cells) != len(self.header):
            if self._dialect.quote is None:
                return self._miscounted(len(cells))
            return BadRowError(
                f"{opened} is not closed where it should be: closed in line {self.line} it makes a row of "
                f"{counted(len(cells), 'cell')}, and the header has {len(self.header)}"
            )
        if self._dialect.quote and not self._dialect.trusted and self._rows_shape().is_swallowed(lines, self._dialect):
            return BadRowError(
                f"{opened} is closed in line {self.line}, and the lines between look like rows; if they are one text, "
                "--csv-quote '\"' takes them for one"
            )
        return None

    def _never_closed(self) -> BadRowError:
        if self._dialect.quote is None:
            return BadRowError("an escape character before the end of the file")
        return BadRowError(
            f"a quotation mark opened in line {self.start} is never closed (within {MOST_RECORD >> 20} MiB)"
        )

    def _miscounted(self, cells: int) -> BadRowError:
        why = "a delimiter not in quotes" if self._dialect.quote else "are cells in quotes (--csv-quote '\"')"
        return BadRowError(f"the row has {counted(cells, 'cell')} and the header {len(self.header)}; {why}?")

    def _unless_broken(self, cells: Cells | BadRowError) -> Cells | BadRowError:
        """A record, unless it does not look like a row: its line was within one of several lines that was none."""
        if isinstance(cells, BadRowError) or not (shape := self._rows_shape()).is_known or shape.fits(cells):
            return cells
        return BadRowError(
            f"does not look like the other rows, and may be part of the quoted cell that line {self._broken[0]} begins"
        )

    def _is_marked(self, line: bytes) -> bool:
        return any(mark in line for mark in self._marks)

    def _rows_shape(self) -> Shape:
        if self._shape is None:
            rows = [
                self._parser.parse(line) if self._is_marked(line) else _split(line, self._dialect)
                for line in self._sample[1:]
            ]
            self._shape = Shape([cells for cells in rows if isinstance(cells, list)], len(self.header))
        return self._shape


class Shape:
    """What a file's rows look like, to tell rows from lines of a text.

    A column tells, if its cells are few values, or numbers and the like of few patterns.

    Args:
        sample: cells of the file's first lines, each taken by itself.
        width: cells of a row; others do not count.
    """

    def __init__(self, sample: Sequence[Cells], width: int) -> None:
        rows = [cells for cells in sample if len(cells) == width]
        self._width = width
        self._values: dict[int, set[str | None]] = {}
        self._patterns: dict[int, set[str]] = {}
        self._rising: list[int] = []
        if len(rows) < 2 or width < 2:
            return
        for place, column in enumerate(zip(*rows, strict=True)):
            patterns = collections.Counter(map(_pattern, column)).most_common(_MOST_PATTERNS)
            telling = {pattern: count for pattern, count in patterns if "9" in pattern}
            values = {value: count for value, count in collections.Counter(column).items() if count > 1}
            # Lines of texts may be among them.
            if sum(telling.values()) >= _MOST * len(column):
                self._patterns[place] = set(telling)
                numbers = [int(cell) for cell in column if cell is not None and _pattern(cell) == "9"]
                rises = [a < b for a, b in itertools.pairwise(numbers)]
                if set(telling) == {"9"} and sum(rises) >= _MOST * len(rises):
                    self._rising.append(place)
            elif len(values) <= _MOST_VALUES and sum(values.values()) >= max(
                _MOST * len(column), _LEAST_REPEATS * len(values)
            ):
                self._values[place] = set(values)

    @property
    def is_known(self) -> bool:
        """Whether there is a column that tells."""
        return bool(self._values or self._patterns)

    def fits(self, cells: Cells) -> bool:
        """Whether these may be the cells of a row."""
        return (
            len(cells) == self._width
            and all(cells[place] in values for place, values in self._values.items())
            and all(_pattern(cells[place]) in patterns for place, patterns in self._patterns.items())
        )

    def is_swallowed(self, lines: Sequence[bytes], dialect: Dialect) -> bool:
        """Return whether most lines of a record look like rows; where numbers rise, whether they go on so.

        A stray quotation mark stands in a line that is a row by itself. The first line of a cell with line breaks lacks
        the cells that follow; its last line may look like a row, of any text and the true label.
        """
        first, *after = [_split(line, dialect) for line in lines if line not in EMPTY_LINES]
        if not self.is_known or not self.fits(first):
            return False
        fitting = [cells for cells in after if self.fits(cells)]
        if 2 * len(fitting) <= len(after):
            return False
        return all(
            int(a[place]) < int(b[place])  # type: ignore[arg-type]
            for place in self._rising
            for a, b in itertools.pairwise([first, *fitting])
        )


def _split(line: bytes, dialect: Dialect) -> Cells:
    text = line.decode("utf-8", "surrogateescape")
    return [*text.removesuffix("\n").removesuffix("\r").split(dialect.delimiter)]


def _pattern(cell: str | None) -> str:
    """A cell with each of its numbers as 9 and each word as a; nothing where it has white space, or is long."""
    if cell is None or len(cell) > 64 or cell.split() != [cell]:
        return ""
    return re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell))


class _Parser(Protocol):
    """Finds the cells of a record that has a quotation mark or an escape character."""

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        """The cells, or what is wrong; None where the record goes on in the next line."""

    def may_close(self, line: bytes) -> bool:
        """Whether a record that was open before a line may end in it."""

    def is_record(self, line: bytes) -> bool:
        """Whether a line is surely a record, which says it sooner than `parse`."""


def _parser(dialect: Dialect) -> _Parser:
    if dialect.quote is None:
        return _Escaped(dialect.delimiter, dialect.escape or "\0")  # which is not asked where nothing escapes
    if dialect.escape is None:
        return _Quoted(dialect.delimiter, dialect.quote)
    return _EscapedInQuotes(dialect.delimiter, dialect.quote, dialect.escape)


class _Quoted:
    """RFC 4180."""

    def __init__(self, delimiter: str, quote: str) -> None:
        self._quote = quote.encode()
        d, q = re.escape(delimiter), re.escape(quote)
        cell = rf"(?:{q}[^{q}]*+(?:{q}{q}[^{q}]*+)*+{q}|[^{d}{q}\r\n][^{d}\r\n]*+|)"
        self._record = re.compile(rf"(?:{cell}{d})*+{cell}\r?\n?\Z".encode())
        self._dialect = csv.reader([], delimiter=delimiter, quotechar=quote, strict=True).dialect
        self._text: str | None = None
        self._asked = False
        self._reader = csv.reader(self._texts(), self._dialect)

    def _texts(self) -> Iterator[str]:
        """The record that is to be parsed; the reader asks for more where a quotation mark is open at its end."""
        while self._text is not None:
            text, self._text = self._text, None
            yield text
        self._asked = True

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        self._text = record.decode("utf-8", "surrogateescape")
        try:
            return next(self._reader)  # type: ignore[return-value]  # of which none is null
        except csv.Error as error:
            if not self._asked:
                # Of the csv module's sentences only this one is about quotation marks.
                undoubled = "a quotation mark within a quoted cell is not doubled"
                reason = undoubled if "expected after" in str(error) else str(error)
                return BadRowError(reason + _escape_hint(record, self._quote))
            self._asked, self._reader = False, csv.reader(self._texts(), self._dialect)
            return None

    def may_close(self, line: bytes) -> bool:
        return self._quote in line and self._quote in line.replace(self._quote * 2, b"")

    def is_record(self, line: bytes) -> bool:
        return self._record.match(line) is not None


def _escape_hint(record: bytes, quote: bytes) -> str:
    """Return a question to add to a reason where a likely escape character stands before a quotation mark."""
    found = re.search(rb"([\\^])" + re.escape(quote), record)
    return "" if found is None else f"; are quotation marks escaped (--csv-escape '{found[1].decode()}')?"


class _EscapedInQuotes:
    """Quoted cells with an escape character, as Spark writes them: it has no meaning outside of quotes."""

    def __init__(self, delimiter: str, quote: str, escape: str) -> None:
        self._delimiter, self._quote = delimiter, quote.encode()
        d, q, e = map(re.escape, (delimiter, quote, escape))
        inner = rf"(?:[^{q}{e}]|{e}(?s:.)|{q}{q})*+"
        self._cell = re.compile(rf"{q}(?P<quoted>{inner}){q}|(?P<plain>(?!{q})[^{d}\r\n]*+)")
        self._open = re.compile(rf"{q}{inner}{e}?\Z")
        self._end = re.compile(r"\r?\n?\Z")
        self._pair = re.compile(rf"{e}([{q}{e}])|{q}({q})")
        self._hidden = re.compile(rf"{e}(?s:.)|{q}{q}".encode())

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        text, place = record.decode("utf-8", "surrogateescape"), 0
        cells: Cells = []
        while found := self._cell.match(text, place):
            quoted, place = found["quoted"], found.end()
            cells.append(found["plain"] if quoted is None else self._pair.sub(r"\1\2", quoted))
            if self._end.match(text, place):
                return cells
            if text[place] != self._delimiter:
                return BadRowError(f"{text[place]!r} where a cell should end, at character {place}")
            place += 1
        return None if self._open.match(text, place) else BadRowError(f"a quotation mark at character {place}")

    def may_close(self, line: bytes) -> bool:
        return self._quote in self._hidden.sub(b"", line)

    def is_record(self, line: bytes) -> bool:
        return False  # only `parse` knows


class _Escaped:
    r"""Cells without quotes, as Hive writes them: an escape character before a delimiter, a line break or itself.

    ``\n``, ``\r`` and ``\t`` are what they usually are, and a cell ``\N`` is null.
    """

    def __init__(self, delimiter: str, escape: str) -> None:
        e = re.escape(escape)
        self._null = escape + "N"
        self._cell = re.compile(rf"(?s:{e}.|[^{re.escape(delimiter)}])*+")
        self._pair = re.compile(rf"{e}((?s:.))")
        self._goes_on = re.compile(rf"(?<!{e})(?:{e}{e})*{e}\r?\n\Z".encode())

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        if not self.may_close(record):
            return None
        text = record.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        cells: Cells = []
        place = -1
        while place < len(text):
            found = self._cell.match(text, place + 1)
            assert found is not None  # an empty cell at least
            cells.append(None if found[0] == self._null else self._pair.sub(_unescaped, found[0]))
            place = found.end()
        return cells

    def may_close(self, line: bytes) -> bool:
        return self._goes_on.search(line) is None

    def is_record(self, line: bytes) -> bool:
        return self.may_close(line)


def _unescaped(pair: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r", "t": "\t"}.get(pair[1], pair[1])
