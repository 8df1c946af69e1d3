"""Measures of length collapse, as pure functions of NumPy arrays: the formulas, one function each.

They compute in float64 and take what a model gave in whatever float type. Nothing here knows a model.

Source, where none is named: "Length-Induced Embedding Collapse in Transformer-based Models", arXiv:2410.24200, which
splits X ∈ R^{n×d} into the mean of its rows and the rest: DC[X] = (1/n)·11ᵀX and HC[X] = X − DC[X].

Shapes: n rows, which are texts or the tokens of one; d features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tsjax.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Estimate(NamedTuple):
    """A mean over texts and its standard error."""

    value: float
    error: float


def mean_pairwise_cosine(vectors: ArrayLike) -> float:
    """The mean cosine of two different rows: ``(‖Σ uᵢ‖² − n) / (n·(n − 1))``, where uᵢ is xᵢ/‖xᵢ‖.

    It takes O(n·d): the norm of the sum holds every pair twice, and each row with itself once.

    Args:
        vectors: (n, d), n ≥ 2.

    Raises:
        InputError: fewer than two rows, or a row that is zero or not finite.
    """
    units = unit_rows(vectors, least=2)
    return float(_pair_mean(units.sum(axis=0), len(units)))


def pairwise_cosine(vectors: ArrayLike) -> Estimate:
    """`mean_pairwise_cosine` with a standard error: the jackknife's, which leaves out one text at a time.

    ``√((n − 1)/n · Σ (cᵢ − c̄)²)``, where cᵢ is the mean without text i. Pairs are not independent of each other, as a
    plain standard error over pairs would suppose, but texts are (Efron & Stein 1981).

    Args:
        vectors: (n, d), n ≥ 3.

    Raises:
        InputError: fewer than three rows, or a row that is zero or not finite.
    """
    without = _without_one(vectors)
    return Estimate(mean_pairwise_cosine(vectors), _jackknife_error(without))


def pairwise_cosine_change(first: ArrayLike, last: ArrayLike) -> Estimate:
    """How far `mean_pairwise_cosine` of the last is above that of the first, where row i of both is of the same text.

    The jackknife leaves a text out of both at a time: what makes a text near to the others at one length mostly does so
    at the other, so the error of the change is far less than those of the two means together would have it.

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
    """`mean_pairwise_cosine` without each row in turn: (n,)."""
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
    """The mean cosine of the pairs among ``count`` unit vectors with this sum."""
    return ((total**2).sum(axis=-1) - count) / (count * (count - 1))


def mean_cosine_between(first: ArrayLike, second: ArrayLike, *, paired: bool = False) -> float:
    """The mean cosine of a row of the first and a row of the second: ``(Σ uᵢ)·(Σ wⱼ) / (n·m)``.

    Args:
        first: (n, d).
        second: (m, d).
        paired: whether row i of both is of the same text; such pairs are left out, so that a text is not compared with
            a piece of itself: ``((Σ uᵢ)·(Σ wⱼ) − Σ uᵢ·wᵢ) / (n·(n − 1))``.

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
    """The mean Euclidean distance of the rows, divided by their norms, to a centroid, with its standard error.

    Args:
        vectors: (n, d), n ≥ 2.
        centroid: (d,); None for the mean of these very unit rows.

    Raises:
        InputError: fewer than two rows, or a row that is zero or not finite.
    """
    return _mean_of_texts(_distances(vectors, centroid))


def distance_to_centroid_change(first: ArrayLike, last: ArrayLike) -> Estimate:
    """How far the last's mean `distance_to_centroid` is above the first's, where row i of both is of the same text.

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
    """``exp(−Σ pₖ log pₖ)``, pₖ = σₖ/Σσ, of the singular values σ of the unit rows (Roy & Vetterli, EUSIPCO 2007).

    The rows are divided by their norms and *not* centred, so that it is 1 where all point one way, and min(n, d) where
    they are orthogonal. It grows with n, so compare it only between equal numbers of texts.

    Args:
        vectors: (n, d), n ≥ 1.

    Raises:
        InputError: no rows, or a row that is zero or not finite.
    """
    values = np.linalg.svd(unit_rows(vectors, least=1), compute_uv=False)
    return float(np.exp(_entropy(values / values.sum())))


def high_frequency_share(states: ArrayLike) -> float:
    """``‖HC[X]‖_F / ‖X‖_F``, 0 to 1: what of the tokens' vectors is not their common mean.

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
    """The mean over queries of ``−Σⱼ aᵢⱼ log aᵢⱼ / log n``: 1 for attention to all alike, 0 for attention to one token.

    Args:
        attention: (n, n), each row a distribution, n ≥ 2. Where attention is causal or local, a row has fewer than n
            tokens to go to, and yet is divided by log n.

    Raises:
        InputError: not such a matrix.
    """
    a = _square(attention)
    return float(np.mean([_entropy(row) for row in a]) / math.log(len(a)))


def filter_rate(attention: ArrayLike) -> float:
    """σ_a, the largest singular value of ``HC[A] = (I − 11ᵀ/n)·A``, by a full SVD.

    What is not the tokens' mean comes through attention multiplied by at most this: ``‖HC[A·X]‖ ≤ σ_a·‖HC[X]‖``, since
    the rows of A add up to 1. It is measured, and no bound of it. `tsjax.lab.analysis.probe` has it by power iteration.

    Args:
        attention: (n, n), each row a distribution, n ≥ 2.

    Raises:
        InputError: not such a matrix.
    """
    a = _square(attention)
    return float(np.linalg.svd(a - a.mean(axis=0), compute_uv=False)[0])


def unit_rows(vectors: ArrayLike, least: int = 1) -> NDArray[np.float64]:
    """The rows divided by their Euclidean norms: float64 (n, d).

    Raises:
        InputError: fewer than ``least`` rows, or a row that is zero or not finite.
    """
    x = _matrix(vectors, least)
    largest = np.abs(x).max(axis=1, keepdims=True)
    if (largest == 0).any():
        raise InputError(f"vector {int(np.argmin(largest[:, 0]))} is zero and has no direction")
    x = x / largest  # lest the squares leave the range of floats
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
