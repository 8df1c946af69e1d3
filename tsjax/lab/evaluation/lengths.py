"""Items by the length of the text that matters for them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float, Int, Shaped

    from tsjax.lab.evaluation.tasks.task import Encoder, Task

# The ends of a task's buckets in tokens, each twice the one before.
_EDGES = (0, *(32 << i for i in range(27)))


class LengthBucket(NamedTuple):
    """The items of at least ``start`` and less than ``end`` tokens.

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


def group_by_length(lengths: Shaped[np.ndarray, " items"], edges: Iterable[int]) -> tuple[LengthBucket, ...]:
    """Return a bucket between each edge and the next, maybe an empty one; the edges rise."""
    return tuple(
        LengthBucket(start, end, np.flatnonzero((start <= lengths) & (lengths < end)))
        for start, end in itertools.pairwise(edges)
    )


def buckets(lengths: Float[np.ndarray, " items"], items: Int[np.ndarray, " some"]) -> tuple[LengthBucket, ...]:
    """Group some of the items by length, in buckets that end at powers of two; those without items are left out."""
    found = group_by_length(lengths[items], _EDGES)
    return tuple(bucket._replace(items=items[bucket.items]) for bucket in found if len(bucket.items))
