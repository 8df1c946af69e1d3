"""Confidence intervals by the paired bootstrap, which scores two outcomes on the same resampled items."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.errors import require_optional
from tsjax.lab.evaluation.outcomes import Outcome, score

if TYPE_CHECKING:
    from jaxtyping import Int

CONFIDENCE = 0.95

# With fewer independent items, or fewer that differ, no draws can tell a gain from noise. If five items differ,
# all in one direction, a sign test still gives a probability of 1/16.
_LEAST_ITEMS = 10
_LEAST_DIFFERING = 6

_RESAMPLES = 9_999
_RESAMPLES_IF_COSTLY = 999
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Difference of two scores with its 95 % confidence interval, as fractions of 1.

    Attributes:
        difference: the difference on the items themselves.
        low: the lower end of the interval.
        high: the upper end of the interval.
        telling: whether there were enough items for a reliable interval (see `paired_difference`).
    """

    difference: float
    low: float
    high: float
    telling: bool = True

    @property
    def verdict(self) -> int:
        """Return 1 for a gain beyond noise, -1 for a loss beyond noise, and 0 for neither or for too few items."""
        return (int(self.low > 0) - int(self.high < 0)) * self.telling

    def to_json(self) -> dict[str, float | bool | None]:
        """Return the fields as JSON values; an infinite end is null."""
        difference, low, high = (x if math.isfinite(x) else None for x in (self.difference, self.low, self.high))
        return {"difference": difference, "low": low, "high": high, "telling": self.telling}

    def points(self, of: str) -> str:
        """Return the interval in points of a hundred, for the measure ``of``.

        For ``MRR@10 points`` it reads "+1.9 MRR@10 points (95 % interval +0.4 to +3.4)".
        """
        return f"{100 * self.difference:+.1f} {of} ({100 * CONFIDENCE:g} % interval {self.ends})"

    @property
    def ends(self) -> str:
        """Return the ends of the interval in points, such as "+0.4 to +3.4"."""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"


def paired_difference(
    candidate: Outcome, baseline: Outcome, items: Int[np.ndarray, " items"], *, seed: int
) -> Interval:
    """Return the candidate's score minus the baseline's on some items, with a percentile bootstrap interval.

    Items are drawn with replacement. Runs are drawn too where there are several, so that the interval also covers the
    choice of, for example, training samples. Both outcomes are measured on the same draws (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993).

    Where items share texts, texts are drawn, because such items are not independent. Copies and connected items are
    then drawn together. A pair of two texts is repeated as often as the product of the counts of its texts (the vertex
    bootstrap of Snijders and Borgatti, "Non-Parametric Standard Errors and Tests for Network Statistics", 1999).

    Percentiles are used because the better-founded BCa interval is undefined where no item differs. Percentile
    intervals of ten items are too narrow, so they are widened by the ratio of Student's t to the normal distribution
    (the expanded percentile interval of Hesterberg, "What Teachers Should Know About the Bootstrap", 2015).

    Args:
        candidate: the outcome of interest.
        baseline: the outcome to compare with; it has as many runs.
        items: the indices of the items to score; with fewer than two items, or two texts, the interval is infinite.
        seed: the seed of the draws.

    Returns:
        the interval; it is telling if at least ten items are independent (see `independent`), and at least six of those
        that the two outcomes score differently.
    """
    if candidate is baseline:
        return Interval(0.0, 0.0, 0.0)
    difference = score(candidate, items) - score(baseline, items)
    assert candidate.runs == baseline.runs  # both are outcomes of the same task

    drawn_from = _drawn_from(candidate, items)

    def difference_of(*drawn: Int[np.ndarray, "choices _"], axis: int) -> Any:
        assert axis in (-1, drawn[0].ndim - 1)
        some, *runs = map(np.atleast_2d, drawn)
        chosen = runs[0] if runs else np.zeros((len(some), 1), np.intp)
        if drawn_from is None:
            return candidate.statistic(some, chosen) - baseline.statistic(some, chosen)
        often = np.stack([np.bincount(choice, minlength=len(samples[0])) for choice in some])
        often = np.pad(often, ((0, 0), (0, 1)), constant_values=1)  # text -1 counts once
        times = often[:, drawn_from].prod(axis=2)
        return candidate.repeated(items, times, chosen) - baseline.repeated(items, times, chosen)

    samples = [items if drawn_from is None else np.arange(1 + drawn_from.max(initial=-1))]
    if candidate.runs > 1:
        samples.append(np.arange(candidate.runs))
    if min(map(len, samples)) < 2:
        return Interval(difference, -np.inf, np.inf, telling=False)
    stats = require_optional("scipy.stats", extra="lab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # draws without a value are dropped below
        resampled = stats.bootstrap(
            samples,
            difference_of,
            n_resamples=_RESAMPLES_IF_COSTLY if candidate.costly else _RESAMPLES,
            batch=max(1, _NUMBERS_AT_ONCE // (len(items) * candidate.runs)),
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    # A draw may hold items of one label only. V-measure is undefined for these, so they are dropped.
    drawn = resampled.bootstrap_distribution
    usable = drawn[np.isfinite(drawn)]
    if not len(usable):
        return Interval(difference, -np.inf, np.inf, telling=False)
    enough = max(2.0, independent(candidate, items))
    tail = 100 * stats.norm.cdf(np.sqrt(enough / (enough - 1)) * stats.t.ppf((1 - CONFIDENCE) / 2, enough - 1))
    low, high = np.percentile(usable, [tail, 100 - tail])
    differing = items[candidate.differing(baseline)[items]]
    telling = enough >= _LEAST_ITEMS and independent(candidate, differing) >= _LEAST_DIFFERING
    return Interval(difference, float(low), float(high), telling)


def independent(outcome: Outcome, items: Int[np.ndarray, " items"]) -> float:
    """Return the effective number of independent items: all of them, or the number of texts where items share texts.

    A text that occurs in more items than others counts for less than one: texts of sizes s are worth ``(Σs)²/Σs²``
    (Kish, "Survey Sampling", 1965). One text with a hundred copies next to ten other texts is worth little more
    than one.
    """
    texts = _drawn_from(outcome, items)
    if texts is None:
        return float(len(items))
    if not len(texts):
        return 0.0
    sizes = np.bincount(texts[texts >= 0]).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _drawn_from(outcome: Outcome, items: Int[np.ndarray, " items"]) -> Int[np.ndarray, "items texts"] | None:
    """Return the texts of some items, renumbered from 0; the second of two equal texts of an item is -1."""
    if outcome.texts is None:
        return None
    own = outcome.texts[items]
    number = np.unique(own, return_inverse=True)[1].reshape(own.shape)
    if own.shape[1] == 2:  # a pair of a text and its copy is repeated as often as the text
        number[own[:, 0] == own[:, 1], 1] = -1
    return number
