"""The most similar documents of each query: exact, in blocks, so that memory is bounded whatever the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int

    Compare = Callable[[Float[np.ndarray, "q D"], Float[np.ndarray, "d D"]], Float[np.ndarray, "q d"]]

_QUERIES, _DOCUMENTS = 512, 8192


def top(
    queries: Float[np.ndarray, "Q D"],
    documents: Float[np.ndarray, "C D"],
    k: int,
    similarity: Compare,
) -> Int[np.ndarray, "Q k"]:
    """The k most similar documents of each query, the most similar first.

    Of documents that are equally similar, the one that stands first in the corpus comes first. Nothing looks at which
    document is relevant, so a model that finds all alike scores what chance would give, not 1.

    Args:
        queries: float32 (Q, D).
        documents: float32 (C, D).
        k: how many; all if there are fewer.
        similarity: compares each query with each document; larger is more similar.

    Returns:
        int (Q, min(k, C)), places in ``documents``.
    """
    k = min(k, len(documents))
    result = np.empty((len(queries), k), np.intp)
    for start in range(0, len(queries), _QUERIES):
        some = queries[start : start + _QUERIES]
        best = np.zeros((len(some), 0), np.float32)
        places = np.zeros((len(some), 0), np.intp)
        for first in range(0, len(documents), _DOCUMENTS):
            block = similarity(some, documents[first : first + _DOCUMENTS])
            found = np.broadcast_to(np.arange(first, first + block.shape[1]), block.shape)
            # What was found before stands first in the corpus, so it goes first.
            best, places = _best(np.hstack([best, block]), np.hstack([places, found]), k)
        result[start : start + len(some)] = places
    return result


def _best(
    scores: Float[np.ndarray, "q n"], places: Int[np.ndarray, "q n"], k: int
) -> tuple[Float[np.ndarray, "q m"], Int[np.ndarray, "q m"]]:
    """The k highest scores of each row, descending, and their places; equal ones in the order they stand in."""
    width = scores.shape[1]
    k = min(k, width)
    least = np.partition(scores, width - k, axis=1)[:, width - k]
    chosen = np.empty((len(scores), k), np.intp)
    for row, (values, limit) in enumerate(zip(scores, least, strict=True)):
        enough = np.flatnonzero(values >= limit)
        chosen[row] = enough[np.argsort(-values[enough], kind="stable")[:k]]
    return np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(places, chosen, axis=1)
