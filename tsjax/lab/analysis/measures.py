"""Measures of length collapse as pure functions of NumPy arrays, one function for each formula.

They compute in float64 and accept a model's output in any float type. They do not depend on a model.

Source, where no other is named: "Length-Induced Embedding Collapse in Transformer-based Models", arXiv:2410.24200. It
splits X ∈ R^{n×d} into the mean of its rows and the rest: DC[X] = (1/n)·11ᵀX and HC[X] = X − DC[X].

Shapes: n rows, which are texts or the tokens of one text; d features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tsjax.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Estimate(NamedTuple):
    """Mean over texts and its standard error."""

    value: float
    error: float


def mean_pairwise_cosine(vectors: ArrayLike) -> float:
    """Return the mean cosine of two different rows: ``(‖Σ uᵢ‖² − n) / (n·(n − 1))``, where uᵢ is xᵢ/‖xᵢ‖.

    It takes O(n·d): the squared norm of the sum holds every pair twice, and each row with itself once.

    Args:
        vectors: (n, d), n ≥ 2.

    Raises:
        InputError: fewer than two rows, or a row that is zero or not finite.
    """
    units = unit_rows(vectors, least=2)
    return float(_pair_mean(units.sum(axis=0), len(units)))


def pairwise_cosine(vectors: ArrayLike) -> Estimate:
    """Return `mean_pairwise_cosine` with its jackknife standard error, which leaves out one text at a time.

    The error is ``√((n − 1)/n · Σ (cᵢ − c̄)²)``, where cᵢ is the mean without text i. A plain standard error over pairs
    would assume that pairs are independent. They are not, but texts are (Efron & Stein 1981).

    Args:
        vectors: (n, d), n ≥ 3.

    Raises:
        InputError: fewer than three rows, or a row that is zero or not finite.
    """
    without = _without_one(vectors)
    return Estimate(mean_pairwise_cosine(vectors), _jackknife_error(without))


def pairwise_cosine_change(first: ArrayLike, last: ArrayLike) -> Estimate:
    """Return `mean_pairwise_cosine` of the last minus that of the first, where row i of both is the same text.

    The jackknife leaves one text at a time out of both. A text that is near to the others at one length mostly is so at
    the other, so the error of the change is far smaller than the combined errors of the two means.

    Args:
        first: (n, d), n ≥ 3.
        last: (n, d).

    Raises:
        InputError: fewer than three rows, unequal numbers of them, or a row that is zero or not finite.
    """
    _check_paired(first, last)
    change = mean_pairwise_cosine(last) - mean_pairwise_cosine(first)
    return Estimate(change, _jackknife_error(_without_one(last) - _without_one(first)))


def _without_one(vectors: ArrayLike) -> NDArray[np.float64]:
    """Return `mean_pairwise_cosine` without each row in turn: (n,)."""
    units = unit_rows(vectors, least=3)
    return _pair_mean(units.sum(axis=0) - units, len(units) - 1)


def _jackknife_error(without: NDArray[np.float64]) -> float:
    count = len(without)
    return math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())


def _check_paired(first: ArrayLike, second: ArrayLike) -> None:
    if np.shape(first)[:1] != np.shape(second)[:1]:
        raise InputError(
            f"pairs need as many rows on both sides, not {len(np.asarray(first))} and {len(np.asarray(second))}"
        )


def _pair_mean(total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the mean cosine of the pairs among ``count`` unit vectors with this sum."""
    return ((total**2).sum(axis=-1) - count) / (count * (count - 1))


def mean_cosine_between(first: ArrayLike, second: ArrayLike, *, paired: bool = False) -> float:
    """Return the mean cosine of a row of the first and a row of the second: ``(Σ uᵢ)·(Σ wⱼ) / (n·m)``.

    Args:
        first: (n, d).
        second: (m, d).
        paired: whether row i of both is the same text; such pairs are left out, so that a text is not compared with a
            piece of itself: ``((Σ uᵢ)·(Σ wⱼ) − Σ uᵢ·wᵢ) / (n·(n − 1))``.

    Raises:
        InputError: too few rows, a row that is zero or not finite, or with ``paired`` unequal numbers of rows.
    """
    u, w = unit_rows(first, least=1 + paired), unit_rows(second, least=1 + paired)
    product = float(u.sum(axis=0) @ w.sum(axis=0))
    if not paired:
        return product / (len(u) * len(w))
    _check_paired(u, w)
    return (product - float((u * w).sum())) / (len(u) * (len(u) - 1))


def distance_to_centroid(vectors: ArrayLike, centroid: ArrayLike | None = None) -> Estimate:
    """Return the mean Euclidean distance of the unit rows to a centroid, with its standard error.

    Args:
        vectors: (n, d), n ≥ 2; rows are divided by their norms.
        centroid: (d,); None for the mean of these unit rows.

    Raises:
        InputError: fewer than two rows, or a row that is zero or not finite.
    """
    return _mean_of_texts(_distances(vectors, centroid))


def distance_to_centroid_change(first: ArrayLike, last: ArrayLike) -> Estimate:
    """Return the mean `distance_to_centroid` of the last minus that of the first, where row i of both is the same text.

    Args:
        first: (n, d), n ≥ 2.
        last: (n, d).

    Raises:
        InputError: fewer than two rows, unequal numbers of them, or a row that is zero or not finite.
    """
    _check_paired(first, last)
    return _mean_of_texts(_distances(last) - _distances(first))


def _distances(vectors: ArrayLike, centroid: ArrayLike | None = None) -> NDArray[np.float64]:
    units = unit_rows(vectors, least=2)
    middle = units.mean(axis=0) if centroid is None else np.asarray(centroid, np.float64)
    return np.asarray(np.linalg.norm(units - middle, axis=1))


def _mean_of_texts(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def effective_rank(vectors: ArrayLike) -> float:
    """Return the effective rank of the unit rows, ``exp(−Σ pₖ log pₖ)`` (Roy & Vetterli, EUSIPCO 2007).

    Here pₖ = σₖ/Σσ, where σ are the singular values. The rows are divided by their norms and *not* centred, so that it
    is 1 where all point in one direction, and min(n, d) where they are orthogonal. It grows with n, so compare it only
    between equal numbers of texts.

    Args:
        vectors: (n, d), n ≥ 1.

    Raises:
        InputError: no rows, or a row that is zero or not finite.
    """
    values = np.linalg.svd(unit_rows(vectors, least=1), compute_uv=False)
    return float(np.exp(_entropy(values / values.sum())))


def high_frequency_share(states: ArrayLike) -> float:
    """Return ``‖HC[X]‖_F / ‖X‖_F``, 0 to 1: the share of the tokens' vectors that is not their common mean.

    ``‖X‖² = ‖HC[X]‖² + ‖DC[X]‖²``, so the share of the mean is ``√(1 − share²)``.

    Args:
        states: (n, d), n ≥ 1.

    Raises:
        InputError: no rows, all of them zero, or one that is not finite.
    """
    x = _matrix(states, least=1)
    norm = np.linalg.norm(x)
    if norm == 0:
        raise InputError("the matrix is zero, and what share of it is of high frequency is undefined")
    return float(np.linalg.norm(x - x.mean(axis=0)) / norm)


def attention_entropy(attention: ArrayLike) -> float:
    """Return the mean over queries of ``−Σⱼ aᵢⱼ log aᵢⱼ / log n``.

    It is 1 for uniform attention to all tokens, and 0 for attention to a single token.

    Args:
        attention: (n, n), each row a distribution, n ≥ 2. Where attention is causal or local, a row can attend to fewer
            than n tokens, but is still divided by log n.

    Raises:
        InputError: the matrix does not have this form.
    """
    a = _square(attention)
    return float(np.mean([_entropy(row) for row in a]) / math.log(len(a)))


def filter_rate(attention: ArrayLike) -> float:
    """Return σ_a, the largest singular value of ``HC[A] = (I − 11ᵀ/n)·A``, by a full SVD.

    Attention multiplies the part that is not the tokens' mean by at most this: ``‖HC[A·X]‖ ≤ σ_a·‖HC[X]‖``, because the
    rows of A add up to 1. It is the measured value, not a bound of it. `tsjax.lab.analysis.probe` computes it by power
    iteration.

    Args:
        attention: (n, n), each row a distribution, n ≥ 2.

    Raises:
        InputError: the matrix does not have this form.
    """
    a = _square(attention)
    return float(np.linalg.svd(a - a.mean(axis=0), compute_uv=False)[0])


def unit_rows(vectors: ArrayLike, least: int = 1) -> NDArray[np.float64]:
    """Return the rows divided by their Euclidean norms: float64 (n, d).

    Raises:
        InputError: fewer than ``least`` rows, or a row that is zero or not finite.
    """
    x = _matrix(vectors, least)
    largest = np.abs(x).max(axis=1, keepdims=True)
    if (largest == 0).any():
        raise InputError(f"vector {int(np.argmin(largest[:, 0]))} is zero and has no direction")
    x = x / largest  # keeps the squares within the range of floats
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _matrix(values: ArrayLike, least: int) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or len(x) < least or x.shape[1] == 0:
        raise InputError(f"at least {least} {'vector is' if least == 1 else 'vectors are'} needed, not shape {x.shape}")
    if not np.isfinite(x).all():
        raise InputError("a vector is not finite")
    return x


def _square(attention: ArrayLike) -> NDArray[np.float64]:
    a = _matrix(attention, least=2)
    if a.shape[0] != a.shape[1]:
        raise InputError(f"attention is a square matrix, not {a.shape}")
    if (a < 0).any() or not np.allclose(a.sum(axis=1), 1, atol=1e-4):
        raise InputError("a row of attention is a distribution: no weight below 0, and all of them add up to 1")
    return a


def _entropy(distribution: NDArray[np.float64]) -> float:
    positive = distribution[distribution > 0]
    return float(-(positive * np.log(positive)).sum())
