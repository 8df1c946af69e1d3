"""Exact search for the most similar documents of each query, in blocks so that memory does not grow with the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tsjax.encoders.similarity import top_indices

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
    """Return the k most similar documents of each query, the most similar first.

    Ties are broken as in `top_indices`: the document that comes first in the corpus wins. Relevance plays no part, so
    a model that finds all documents equally similar scores what chance would give, not 1.

    Args:
        queries: float32 (Q, D).
        documents: float32 (C, D).
        k: the number of documents per query; all if there are fewer.
        similarity: a function that compares each query with each document; larger is more similar.

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
            # Earlier results come first in the corpus, so they go first.
            scores, places = np.hstack([best, block]), np.hstack([places, found])
            chosen = np.stack([top_indices(row, k) for row in scores])
            best, places = (np.take_along_axis(x, chosen, axis=1) for x in (scores, places))
        result[start : start + len(some)] = places
    return result
