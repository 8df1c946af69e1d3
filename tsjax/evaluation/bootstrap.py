"""Confidence intervals by the paired bootstrap: two outcomes on the same resampled items, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.evaluation.lab import lab
from tsjax.evaluation.outcomes import Outcome, score

if TYPE_CHECKING:
    from jaxtyping import Int

CONFIDENCE = 0.95

_RESAMPLES = 9_999
_RESAMPLES_IF_COSTLY = 999
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A difference of scores and where it lies with 95 % confidence, as fractions of 1.

    Attributes:
        difference: on the items themselves.
        low: the lower end.
        high: the upper end.
    """

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> int:
        """1 for a gain beyond noise, -1 for a loss beyond noise, 0 for neither."""
        return int(self.low > 0) - int(self.high < 0)

    def points(self, of: str) -> str:
        """As points of a hundred: "+1.9 MRR@10 points (95 % interval +0.4 to +3.4)", if of ``MRR@10 points``."""
        return (
            f"{100 * self.difference:+.1f} {of} "
            f"({100 * CONFIDENCE:g} % interval {100 * self.low:+.1f} to {100 * self.high:+.1f})"
        )


def paired_difference(
    candidate: Outcome, baseline: Outcome, items: Int[np.ndarray, " items"], *, seed: int
) -> Interval:
    """How much the candidate scores above the baseline on some items, with a percentile bootstrap interval.

    Items are drawn with replacement, and so are runs where there are several: the interval then covers the choice of
    texts and, say, of training samples. Both outcomes are measured on the same draws (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993). Percentiles, since the better-founded BCa has no value where no item differs.

    Args:
        candidate: the one of interest.
        baseline: the other; it has as many runs.
        items: the items that count, at least two.
        seed: of the draws.
    """
    difference = score(candidate, items) - score(baseline, items)
    assert candidate.runs == baseline.runs  # of the same task

    def statistic(*drawn: Int[np.ndarray, "choices _"], axis: int) -> Any:
        assert axis in (-1, drawn[0].ndim - 1)
        some = np.atleast_2d(drawn[0])
        runs = np.atleast_2d(drawn[1]) if len(drawn) > 1 else np.zeros((len(some), 1), np.intp)
        return candidate.statistic(some, runs) - baseline.statistic(some, runs)

    samples = [items] if candidate.runs == 1 else [items, np.arange(candidate.runs)]
    resampled = lab("scipy.stats").bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES_IF_COSTLY if candidate.costly else _RESAMPLES,
        batch=max(1, _NUMBERS_AT_ONCE // (len(items) * candidate.runs)),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    # A draw may hold items of one label only, which have no V-measure: those say nothing.
    drawn = resampled.bootstrap_distribution
    tail = 100 * (1 - CONFIDENCE) / 2
    usable = drawn[np.isfinite(drawn)]
    if not len(usable):
        return Interval(difference, -np.inf, np.inf)
    low, high = np.percentile(usable, [tail, 100 - tail])
    return Interval(difference, float(low), float(high))
