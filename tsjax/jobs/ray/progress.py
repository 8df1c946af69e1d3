"""Progress of a job's actors: sent to a board, read by the driver, and shown in Ray's dashboard as metrics."""

from __future__ import annotations

import contextlib
import io
import threading
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from tsjax.engine.statistics import Statistics
from tsjax.jobs.run.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTED = ("texts", "tokens", "computed_tokens", "shards", "rejected")

# Seconds between two reads of the board, and the timeout of a read.
_EVERY, _PATIENCE = 0.5, 10.0


class Told(NamedTuple):
    """The progress of an actor on a piece: counts, bytes of the input that were read, and bytes that are left."""

    texts: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    shards: int = 0
    rejected: int = 0
    read: float = 0.0
    left: float = 0.0


class Board:
    """A board that collects the progress of the actors. Each job has one, which is itself an actor.

    Args:
        sizes: approximate number of input bytes of each piece.
    """

    def __init__(self, sizes: list[float]) -> None:
        self._left = sizes
        self._told: dict[str, Told] = {}

    def tell(self, piece: int, attempt: str, told: Told) -> None:
        """Record the progress of one attempt at a piece. The latest report of an attempt replaces earlier ones."""
        self._told[attempt] = told
        self._left[piece] = told.left

    def read(self) -> Told:
        """Return the total progress of all attempts."""
        sums = [sum(numbers) for numbers in zip(*self._told.values(), strict=True)] or Told()
        return Told(*sums)._replace(left=sum(self._left))


class Teller(Reporter):
    """A reporter that sends the progress of a `JobRunner` to a board twice a second, and counts it for Ray's metrics.

    Args:
        board: the actor of the board.
    """

    def __init__(self, board: Any) -> None:
        super().__init__(io.StringIO(), terminal=True)  # the interval of a terminal
        from ray.util.metrics import Counter  # noqa: PLC0415  # an extra

        self._board = board
        self._counters = [Counter(f"tsjax_{name}", f"{name.replace('_', ' ')} of tsjax's jobs") for name in _COUNTED]
        self._piece, self._attempt, self._shown_last = 0, "", Told()

    def begin(self, piece: int) -> None:
        """Start counting for a piece."""
        self._piece, self._attempt, self._shown_last = piece, uuid.uuid4().hex, Told()
        self._statistics = self._first = None
        self.told(read=0, left=0, shards=0, rejected=0)

    def end(self) -> None:
        """Report that the piece is finished."""
        self._left = 0
        self._show(self.figures())

    def say(self, event: str, text: str, **facts: Any) -> None:
        """Ignore the event: events of an actor are not displayed."""

    def _show(self, figures: dict[str, Any]) -> None:
        now, first = Statistics(), Statistics()
        if self._statistics is not None and self._first is not None:
            now, first = self._statistics(), self._first
        told = Told(
            now.texts - first.texts,
            now.tokens - first.tokens,
            now.computed_tokens - first.computed_tokens,
            figures["shards"],
            figures["rejected"],
            self._read,
            self._left * self._share,
        )
        for counter, new, old in zip(self._counters, told, self._shown_last, strict=False):
            if new > old:
                counter.inc(new - old)
        self._shown_last = told
        self._board.tell.remote(self._piece, self._attempt, told)


@contextlib.contextmanager
def watching(ray: Any, board: Any, reporter: Reporter) -> Iterator[None]:
    """Report the progress on the board with a reporter, for the duration of the block."""
    latest = Told()
    stop = threading.Event()

    def look() -> None:
        nonlocal latest
        # The board may be lost with its node. Only the shards matter, so the error is ignored.
        with contextlib.suppress(ray.exceptions.RayError):
            latest = Told(*ray.get(board.read.remote(), timeout=_PATIENCE))
        reporter.told(read=latest.read, left=latest.left, shards=latest.shards, rejected=latest.rejected)

    def statistics() -> Statistics:
        return Statistics(texts=latest.texts, tokens=latest.tokens, computed_tokens=latest.computed_tokens)

    def watch() -> None:
        while not stop.wait(_EVERY):
            look()
            reporter.tick()

    reporter.start(statistics)
    thread = threading.Thread(target=watch, name="tsjax-watch", daemon=True)
    thread.start()
    try:
        yield
        look()
    finally:
        stop.set()
        thread.join()
