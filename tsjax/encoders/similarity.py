"""Similarity of embeddings: the four functions of sentence-transformers; larger means more similar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

Similarity: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]


def similarity(a: ArrayLike, b: ArrayLike, name: Similarity) -> NDArray[np.float32]:
    """Compare every row of ``a`` with every row of ``b``.

    Args:
        a: (n, D), or (D,) for one.
        b: (m, D), or (D,) for one.
        name: ``cosine``, ``dot``, or the negated ``euclidean`` or ``manhattan`` distance.

    Returns:
        float32 (n, m).
    """
    left, right = _rows(a), _rows(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(f"embeddings of {left.shape[1]} and of {right.shape[1]} dimensions cannot be compared")
    match name:
        case "cosine":
            return normalize(left) @ normalize(right).T
        case "dot":
            return left @ right.T
        case "euclidean":
            return -_distances(left, right, lambda difference: np.sqrt((difference**2).sum(axis=-1)))
        case "manhattan":
            return -_distances(left, right, lambda difference: np.abs(difference).sum(axis=-1))


def similarity_pairwise(a: ArrayLike, b: ArrayLike, name: Similarity) -> NDArray[np.float32]:
    """Compare each row of ``a`` with the row of ``b`` at the same index: float32 (n,)."""
    left, right = _rows(a), _rows(b)
    if left.shape != right.shape:
        raise InputError(f"embeddings of shapes {left.shape} and {right.shape} do not pair")
    match name:
        case "cosine":
            return (normalize(left) * normalize(right)).sum(axis=-1)
        case "dot":
            return (left * right).sum(axis=-1)
        case "euclidean":
            return -np.sqrt(((left - right) ** 2).sum(axis=-1))
        case "manhattan":
            return -np.abs(left - right).sum(axis=-1)


def normalize(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide by the Euclidean norm of the last axis; a zero vector stays zero."""
    norm: NDArray[np.float32] = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))
    return x / norm


def top_indices(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Return the indices of the k highest scores, the highest first.

    Equal scores are ordered by index, and NaN comes last. Every top-k of tsjax uses this order.

    Args:
        scores: (n,).
        k: number of indices, at least 1; all if there are fewer.
    """
    negated = -scores
    if k >= len(negated):
        return np.argsort(negated, kind="stable")
    limit = np.partition(negated, k - 1)[k - 1]
    candidates = np.flatnonzero(~(negated > limit))  # includes ties with the k-th; no comparison with NaN is true
    return candidates[np.argsort(negated[candidates], kind="stable")[:k]]


def _rows(x: ArrayLike) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(x, np.float32))
    if rows.ndim != 2:
        raise InputError(f"embeddings are (n, D) or (D,), not of shape {rows.shape}")
    return rows


def _distances(
    a: NDArray[np.float32], b: NDArray[np.float32], measure: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    # One row at a time: all differences at once would take n · m · D floats.
    return np.stack([measure(row - b) for row in a]) if len(a) else np.zeros((0, len(b)), np.float32)
