"""Counts of an engine's work."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """Counts of an embedder's work so far, including batches in progress when their caller was interrupted.

    Attributes:
        texts: embedded texts.
        tokens: their tokens, special ones included, after truncation.
        truncated: texts that were truncated.
        computed_tokens: computed tokens, padding included.
        batches: calls of a compiled program.
        compilations: programs of the network that JAX traced for calls of this embedder, to compile them or to fetch
            them from the compilation cache. A program that another embedder of the same architecture compiled earlier
            in this process is shared and not counted.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    computed_tokens: int = 0
    batches: int = 0
    compilations: int = 0

    @property
    def padding_share(self) -> float:
        """Return the share of the computed tokens that was padding, 0 to 1."""
        return 1 - self.tokens / self.computed_tokens if self.computed_tokens else 0.0


class Counter:
    """Statistics to which several threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced and never modified, so that a reader gets one consistent state without the lock, which a fork may
        # leave held.
        self.statistics = Statistics()

    def add(self, **more: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            done = self.statistics
            added = {name: getattr(done, name) + count for name, count in more.items()}
            self.statistics = dataclasses.replace(done, **added)
