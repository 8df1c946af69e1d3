"""Progress of a job: a line that is updated on a terminal, one line a minute elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tsjax.engine.statistics import Statistics
    from tsjax.jobs.run.compute import Embedded

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 60.0


class Reporter:
    """A reporter of a job's progress and events.

    Args:
        stream: the stream to write to.
        as_json: write one JSON object a line, for programs.
        terminal: update one line in place, for an interactive terminal.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        as_json: bool = False,
        terminal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._json, self._terminal, self._clock = as_json, terminal and not as_json, clock
        self._every = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        self._statistics: Callable[[], Statistics] | None = None
        self._first: Statistics | None = None
        self._shown = self._start = clock()
        self._read: float = 0
        self._left: float = 0
        self._rejected = self._shards = 0
        self._share = 1.0
        self._width = 0

    def start(self, statistics: Callable[[], Statistics], share: float = 1.0) -> None:
        """Start counting.

        Args:
            statistics: function that returns the statistics, with the number of tokens done.
            share: the share of the remaining input that this worker embeds.
        """
        self._statistics, self._first, self._share = statistics, statistics(), share
        self._shown = self._start = self._clock()

    def tick(self, texts: int = 0) -> None:
        """Report the progress if the interval has passed. Call this often."""
        del texts
        now = self._clock()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(self.figures())

    def embedded(self, block: Embedded) -> None:
        """Count a finished block."""
        self._read += block.block.read
        self._left = block.block.left
        self._rejected += len(block.rejected)

    def shard_done(self) -> None:
        """Count a published shard."""
        self._shards += 1

    def told(self, *, read: float, left: float, shards: int, rejected: int) -> None:
        """Set the counts to those of other processes, whose blocks and shards are not counted here."""
        self._read, self._left, self._shards, self._rejected = read, left, shards, rejected

    def figures(self) -> dict[str, Any]:
        """Return the figures of the progress report."""
        seconds = max(self._clock() - self._start, 1e-9)
        figures: dict[str, Any] = {"seconds": round(seconds, 3), "shards": self._shards, "rejected": self._rejected}
        if self._statistics is not None and self._first is not None:
            now, first = self._statistics(), self._first
            tokens, computed = now.tokens - first.tokens, now.computed_tokens - first.computed_tokens
            figures |= {
                "texts": now.texts - first.texts,
                "tokens": tokens,
                "texts_per_second": round((now.texts - first.texts) / seconds, 2),
                "tokens_per_second": round(tokens / seconds, 1),
                "padding_share": round(1 - tokens / computed, 4) if computed else 0.0,
            }
        figures["eta_seconds"] = round(self._left * self._share / self._read * seconds) if self._read else None
        return figures

    def say(self, event: str, text: str, **facts: Any) -> None:
        """Report an event."""
        if self._json:
            self._write(json.dumps({"event": event, "message": text, **facts}, ensure_ascii=False) + "\n")
        else:
            self._write(f"{self._clear()}tsjax: {text}\n")

    def _show(self, figures: dict[str, Any]) -> None:
        if self._json:
            self._write(json.dumps({"event": "progress", "time": round(time.time(), 3), **figures}) + "\n")
            return
        line = (
            f"{counted(figures.get('texts', 0), 'text')}, {figures.get('texts_per_second', 0):,.0f} texts/s, "
            f"{figures.get('tokens_per_second', 0):,.0f} tokens/s, {figures.get('padding_share', 0):.0%} padding, "
            f"{counted(figures['shards'], 'shard')}, {figures['rejected']:,} rejected, {_left(figures['eta_seconds'])}"
        )
        if self._terminal:
            clear, self._width = self._clear(), len(line) + 7
            self._write(f"{clear}tsjax: {line}")
        else:
            self._write(f"tsjax: {line}\n")

    def _clear(self) -> str:
        clear = f"\r{' ' * self._width}\r" if self._width else ""
        self._width = 0
        return clear

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def _left(seconds: int | None) -> str:
    if seconds is None:
        return "end unknown yet"
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"about {hours}:{minutes:02d} h left" if hours else f"about {minutes}:{seconds % 60:02d} min left"
