"""Reader of delimited text, record by record: CSV and TSV in the dialects of `tsjax.jobs.input.formats.Dialect`.

A line ends with a line feed. Most records are one line; a quoted cell may contain several. A quotation mark that is
never closed must not swallow the rows after it. Therefore an invalid record of several lines costs only its first line,
and reading continues at the next line. The result for a line depends only on the file and the dialect, not on whether
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

# Maximum bytes of a record of several lines, which are held in memory. A longer record lacks a closing quotation mark.
MOST_RECORD = 1 << 26
# A cell may hold a complete document; Python's default limit is 131,072 characters.
_MOST_CELL = 1 << 30

# Number of lines from the beginning of the file that show the shape of its rows, and their maximum bytes.
_SAMPLE_LINES, _SAMPLE_BYTES = 1000, 1 << 20
# A column with at most `_MOST_VALUES` values that occur `_LEAST_REPEATS` times each on average is recognised by its
# values; other columns are recognised by at most `_MOST_PATTERNS` patterns.
_MOST_VALUES, _LEAST_REPEATS = 16, 3
_MOST_PATTERNS = 4
# Minimum share of rows that have these values or patterns.
_MOST = 0.8

_CARRIAGE_RETURN = "a carriage return outside of quotes; only a line feed ends a line"


class Delimited:
    """A reader of the records of delimited text.

    Args:
        lines: the lines of the file, with their line ends.
        dialect: the dialect of the file.

    Attributes:
        header: the cells of the first record; empty if there is no record.
        skipping: whether records are only counted; a record of a single line may then come without its cells.
        line: number of lines read.
        start: line on which the current record begins, from 1.
        breaks: number of line breaks in the cells of the current record.
        accounted: number of lines that belong to the header or a record or are blank. It equals the number of lines
            read, unless a line was lost.

    Raises:
        BadRowError: the header cannot be read; the message gives its line.
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
        # First and last line of the last invalid record of several lines.
        self._broken = (0, 0)
        for cells in self.records():
            if isinstance(cells, BadRowError):
                raise BadRowError(f"line {self.start}: {cells}")
            self.header = [cell or "" for cell in cells]
            break

    def _read_ahead(self) -> list[bytes]:
        """Read the first lines into the queue and return them."""
        size = 0
        for line in itertools.islice(self._lines, _SAMPLE_LINES):
            self._waiting.append(line)
            size += len(line)
            if size > _SAMPLE_BYTES:
                break
        return list(self._waiting)

    def records(self) -> Iterator[Cells | BadRowError]:
        """Yield the remaining records: their cells, as many as the header has, or the error of a record."""
        # A line without these marks is one record and is split at the delimiters.
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
                self.accounted += 1  # with one column an empty line would be an empty cell; otherwise it is no row
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
        """Read the record that begins with a line and continues on the next."""
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
            # The line breaks in the cells are counted, so that a lost line is noticed. Without quotes this does not
            # work, because the escape sequence \n gives a line break, too.
            inside = sum(cell.count("\n") for cell in cells if cell is not None)
            self.breaks = inside if self._dialect.quote else len(lines) - 1
            self.accounted += self.breaks
            return cells
        self._broken = (self.start, max(self._broken[1], self.line))
        self._waiting.extendleft(reversed(lines[1:]))
        self.line = self.start
        return error

    def _fault(self, cells: Cells | BadRowError | None, lines: Sequence[bytes]) -> BadRowError | None:
        """Return the error of a record of several lines; None if it is valid."""
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
        """Return a record, or an error if it does not look like a row.

        The line of the record was part of an invalid record of several lines.
        """
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
    """The shape of a file's rows, which distinguishes rows from lines of a text.

    A column is distinctive if its cells have few different values, or if they are numbers, dates and the like with few
    different patterns.

    Args:
        sample: cells of the first lines of the file, each line parsed by itself.
        width: number of cells in a row; lines with another number are ignored.
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
            # Not all cells have to match, since lines of texts may be among them.
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
        """Tell whether there is a distinctive column."""
        return bool(self._values or self._patterns)

    def fits(self, cells: Cells) -> bool:
        """Tell whether cells may be those of a row."""
        return (
            len(cells) == self._width
            and all(cells[place] in values for place, values in self._values.items())
            and all(_pattern(cells[place]) in patterns for place, patterns in self._patterns.items())
        )

    def is_swallowed(self, lines: Sequence[bytes], dialect: Dialect) -> bool:
        """Tell whether most lines of a record look like rows.

        In columns with rising numbers, the numbers must also rise from line to line.

        A stray quotation mark stands in a line that is a row by itself. The first line of a cell with line breaks lacks
        the cells that follow. Its last line may look like a row, of any text and the true label.
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
    """Return a cell with each number replaced by 9 and each word by a; empty if the cell is long or has white space."""
    if cell is None or len(cell) > 64 or cell.split() != [cell]:
        return ""
    return re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell))


class _Parser(Protocol):
    """A parser of records that have a quotation mark or an escape character."""

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        """Return the cells or the error of a record; None if the record continues on the next line."""

    def may_close(self, line: bytes) -> bool:
        """Tell whether a record that was open before a line may end in it."""

    def is_record(self, line: bytes) -> bool:
        """Tell whether a line is certainly a complete record; this is faster than `parse`."""


def _parser(dialect: Dialect) -> _Parser:
    if dialect.quote is None:
        return _Escaped(dialect.delimiter, dialect.escape or "\0")  # not used without an escape character
    if dialect.escape is None:
        return _Quoted(dialect.delimiter, dialect.quote)
    return _EscapedInQuotes(dialect.delimiter, dialect.quote, dialect.escape)


class _Quoted:
    """A parser of quoted cells without an escape character (RFC 4180)."""

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
        """Yield the record to parse; the reader asks for more if a quotation mark is open at its end."""
        while self._text is not None:
            text, self._text = self._text, None
            yield text
        self._asked = True

    def parse(self, record: bytes) -> Cells | BadRowError | None:
        self._text = record.decode("utf-8", "surrogateescape")
        try:
            return next(self._reader)  # type: ignore[return-value]  # csv gives no null cells
        except csv.Error as error:
            if not self._asked:
                # The only message of the csv module about quotation marks contains "expected after".
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
    """Return a question to add to a reason if a likely escape character stands before a quotation mark."""
    found = re.search(rb"([\\^])" + re.escape(quote), record)
    return "" if found is None else f"; are quotation marks escaped (--csv-escape '{found[1].decode()}')?"


class _EscapedInQuotes:
    """A parser of quoted cells with an escape character, as Spark writes them; it has no meaning outside of quotes."""

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
        return False  # only `parse` can tell


class _Escaped:
    r"""A parser of cells without quotes, as Hive writes them.

    An escape character stands before a delimiter, a line break or itself. ``\n``, ``\r`` and ``\t`` have their usual
    meaning, and a cell ``\N`` is null.
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
            assert found is not None  # the pattern matches an empty cell, too
            cells.append(None if found[0] == self._null else self._pair.sub(_unescaped, found[0]))
            place = found.end()
        return cells

    def may_close(self, line: bytes) -> bool:
        return self._goes_on.search(line) is None

    def is_record(self, line: bytes) -> bool:
        return self.may_close(line)


def _unescaped(pair: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r", "t": "\t"}.get(pair[1], pair[1])
