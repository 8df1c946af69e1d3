"""Items by the length of the text that matters for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int

    from tsjax.lab.evaluation.tasks.task import Encoder, Task

_SHORTEST = 32  # tokens; the first bucket's end, and each following one's end is twice the last one's


@dataclass(frozen=True)
class Bucket:
    """The items whose text has from ``start`` up to, but without, ``end`` tokens.

    Attributes:
        start: tokens, special ones included.
        end: tokens.
        items: the places of the items.
    """

    start: int
    end: int
    items: Int[np.ndarray, " items"]

    def __str__(self) -> str:
        return f"{self.start}-{self.end - 1}"


def item_lengths(task: Task, embedder: Encoder) -> Float[np.ndarray, " items"]:
    """Tokens of the text that matters for each item, by the embedder's tokenizer, before anything is cut."""

    def count(texts: Sequence[str]) -> Int[np.ndarray, " n"]:
        return np.asarray(embedder.count_tokens(texts, task="document" if task.queries else None))

    return task.lengths(count)


def buckets(lengths: Float[np.ndarray, " items"], items: Int[np.ndarray, " some"]) -> tuple[Bucket, ...]:
    """Some of the items by length, in buckets that end at powers of two; those without items are left out."""
    own = lengths[items]
    result = []
    start, end = 0, _SHORTEST
    while start <= own.max(initial=-1):
        inside = items[(own >= start) & (own < end)]
        if len(inside):
            result.append(Bucket(start, end, inside))
        start, end = end, 2 * end
    return tuple(result)
