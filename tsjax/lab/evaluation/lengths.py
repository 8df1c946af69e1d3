"""Groups of items by the length of their relevant text."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float, Int, Shaped

    from tsjax.lab.evaluation.tasks.task import Encoder, Task

# Edges of a task's buckets in tokens, each twice the one before.
_EDGES = (0, *(32 << i for i in range(27)))


class LengthBucket(NamedTuple):
    """Items of at least ``start`` and less than ``end`` tokens.

    Attributes:
        start: the smallest length in tokens, special tokens included.
        end: the exclusive upper bound of the length in tokens.
        items: the indices of the items.
    """

    start: int
    end: int
    items: Int[np.ndarray, " items"]

    def __str__(self) -> str:
        return f"{self.start}-{self.end - 1}"


def item_lengths(task: Task, embedder: Encoder) -> Float[np.ndarray, " items"]:
    """Return the number of tokens of each item's relevant text, by the embedder's tokenizer and before truncation."""

    def count(texts: Sequence[str]) -> Int[np.ndarray, " n"]:
        return np.asarray(embedder.count_tokens(texts, task="document" if task.queries else None))

    return task.lengths(count)


def group_by_length(lengths: Shaped[np.ndarray, " items"], edges: Iterable[int]) -> tuple[LengthBucket, ...]:
    """Return a bucket, possibly empty, between each edge and the next; the edges are ascending."""
    return tuple(
        LengthBucket(start, end, np.flatnonzero((start <= lengths) & (lengths < end)))
        for start, end in itertools.pairwise(edges)
    )


def buckets(lengths: Float[np.ndarray, " items"], items: Int[np.ndarray, " some"]) -> tuple[LengthBucket, ...]:
    """Group some of the items by length into buckets that end at powers of two; empty buckets are omitted."""
    found = group_by_length(lengths[items], _EDGES)
    return tuple(bucket._replace(items=items[bucket.items]) for bucket in found if len(bucket.items))
