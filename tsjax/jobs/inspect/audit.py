"""A check that every line of a job's input is in a row. The lines are read once more, without any parser."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tsjax.jobs.input.formats import DELIMITED, is_blank
from tsjax.jobs.input.rows import header_of
from tsjax.jobs.input.sources import lines_of, open_raw, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tsjax.jobs.input.columns import Rejection, Row
    from tsjax.jobs.input.sources import Source
    from tsjax.jobs.inspect.verdict import Verdict

_WITH_LINES = ("txt", "jsonl", *DELIMITED)
_MOST_LOST = 100


class LineAudit:
    """A search for lost lines: lines of some files that are in no row, not blank and not in the header.

    A row covers the line that it begins on and the lines that the line breaks in its cells add. This holds for
    rejected rows too.

    Args:
        sources: the files, in order.
        verdict: the verdict that the lost lines are added to.
    """

    def __init__(self, sources: Sequence[Source], verdict: Verdict) -> None:
        self._verdict = verdict
        self._waiting = list(sources)[::-1]
        self._current: _FileAudit | None = None

    def see(self, row: Row | Rejection) -> None:
        """Count the lines of the next row.

        Raises:
            ValueError: the row's file is not among the files, or came before.
        """
        while self._current is None or self._current.name != row.file:
            if not self._waiting:
                raise ValueError(f"a row of {row.file}, which is not among the files that are left")
            self._next_file()
        if row.line is not None:
            self._current.cover(row.line, row.lines)

    def finish(self) -> None:
        """Add the lines that are left after the last row to the verdict."""
        while self._waiting or self._current is not None:
            self._next_file()

    def close(self) -> None:
        """Close the open file."""
        if self._current is not None:
            self._current.close()
            self._current = None

    def _next_file(self) -> None:
        if self._current is not None:
            for first, last in self._current.finish():
                where = f"line {first}" if first == last else f"lines {first} to {last}"
                self._verdict.add(f"{where} of {self._current.name} {'is' if first == last else 'are'} in no row")
            self.close()
        if self._waiting:
            self._current = _FileAudit(self._waiting.pop())


class _FileAudit:
    """The lines of one file, with those that are in no row."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        header = header_of(source) if source.format in DELIMITED else []
        self._format, self._width = source.format, len(header)
        self._raw = open_raw(source.url)
        try:
            stream = unpacked(self._raw, source.compression, source.encoding)
            self._lines = enumerate(lines_of(stream) if source.format in _WITH_LINES else (), start=1)
            self._taken = 0
            self._lost: list[list[int]] = []
            if header:
                self._taken = next(number for number, line in self._lines if not is_blank(line, source.format))
                self._take(self._taken + sum(name.count("\n") for name in header), lost=False)
        except BaseException:
            self._raw.close()
            raise

    def cover(self, line: int, lines: int) -> None:
        """Count the lines of a row."""
        self._take(line - 1, lost=True)
        self._take(line + lines - 1, lost=False)

    def finish(self) -> Iterator[tuple[int, int]]:
        """Return the first and the last line of each run of consecutive lines that are in no row."""
        self._take(None, lost=True)
        return ((first, last) for first, last in self._lost)

    def close(self) -> None:
        self._raw.close()

    def _take(self, last: int | None, *, lost: bool) -> None:
        """Read the lines up to ``last``, or all remaining lines; record those that are lost."""
        for number, line in itertools.islice(self._lines, None if last is None else max(0, last - self._taken)):
            self._taken = number
            if not lost or is_blank(line, self._format, self._width):
                continue
            if self._lost and self._lost[-1][1] == number - 1:
                self._lost[-1][1] = number
            elif len(self._lost) < _MOST_LOST:
                self._lost.append([number, number])
