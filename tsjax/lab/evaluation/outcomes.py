"""What a task makes of a model's vectors: something of every item, and a statistic over any choice of items.

An outcome knows its items (questions, pairs, texts) and its runs. A run is one repetition with a seed of its own, such
as one training sample of a classifier; where nothing is random there is one. The statistic takes choices of items and
runs, so that a score, a score by length and a bootstrap are all the same call, and two outcomes can be compared on the
same choices.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from tsjax.errors import require_optional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Outcome(Protocol):
    """What one model's vectors gave on a task."""

    @property
    def runs(self) -> int:
        """How many repetitions there are; 1 where nothing is random."""

    @property
    def costly(self) -> bool:
        """Whether each choice is computed by itself, so that a bootstrap does with fewer of them."""

    @property
    def texts(self) -> Int[np.ndarray, "items texts"] | None:
        """The texts of each item, as numbers, where items share texts and so are not independent; else None.

        A group of items that are kept together counts as one text.
        """

    def differing(self, other: Any) -> Bool[np.ndarray, " items"]:
        """Return which items another outcome of the same task is about to score otherwise."""

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        """The score on each choice of items, which may hold an item more than once, and of runs."""

    def repeated(
        self,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        """Return `statistic` on choices that hold each of some items so many times."""


class _OneByOne:
    """An outcome whose choices are computed one after the other."""

    def repeated(
        self: Any,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        choices = zip(times, runs, strict=True)
        return np.concatenate([self.statistic(np.repeat(items, often)[None], own[None]) for often, own in choices])


def score(outcome: Outcome, items: Int[np.ndarray, " items"]) -> float:
    """The score on some items, over all runs; NaN where it has no meaning there (see the outcomes)."""
    return float(outcome.statistic(items[None], np.arange(outcome.runs)[None])[0])


@dataclass(frozen=True)
class Means:
    """A value for each item, of which the score is the mean: MRR, nDCG, recall, accuracy.

    Attributes:
        values: float (runs, items).
        texts: the group of each item where several items are of one, int (items, 1); see `tsjax.lab.evaluation.copies`.
    """

    values: Float[np.ndarray, "runs items"]
    texts: Int[np.ndarray, "items 1"] | None = None
    costly: bool = False

    @property
    def runs(self) -> int:
        return len(self.values)

    def differing(self, other: Means) -> Bool[np.ndarray, " items"]:
        return np.asarray((self.values != other.values).any(axis=0))

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        if not items.shape[1]:
            return np.full(len(items), np.nan)
        if self.runs == 1:
            return self.values[0][items].mean(axis=1)
        return self.values[runs[:, :, None], items[:, None, :]].mean(axis=(1, 2))

    def repeated(
        self,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        drawn = np.stack([np.bincount(own, minlength=self.runs) for own in runs]) / runs.shape[1]
        return np.asarray((drawn @ self.values[:, items] * times).sum(axis=1) / times.sum(axis=1))


@dataclass(frozen=True)
class Correlation(_OneByOne):
    """How well what a model says of each item follows what people say: Pearson's or Spearman's correlation.

    Attributes:
        predicted: the model's value of each item, float (items,).
        wanted: people's.
        ranked: Spearman's, which is Pearson's of the ranks; else Pearson's.
        texts: where items share texts, the group of each, int (items, 1), or its two texts, int (items, 2).

    The score is 0 where one of the two is constant: it then follows nothing. Of fewer than three items it is NaN.
    """

    predicted: Float[np.ndarray, " items"]
    wanted: Float[np.ndarray, " items"]
    ranked: bool
    texts: Int[np.ndarray, "items texts"] | None = None
    runs: int = 1

    @property
    def costly(self) -> bool:
        return self.texts is not None

    def differing(self, other: Correlation) -> Bool[np.ndarray, " items"]:
        return self.predicted != other.predicted

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        del runs  # nothing is random
        if items.shape[1] < 3:
            return np.full(len(items), np.nan)
        stats = require_optional("scipy.stats", extra="lab")
        x, y = (np.asarray(values, np.float64)[items] for values in (self.predicted, self.wanted))
        constant: Bool[np.ndarray, " choices"] = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
        if self.ranked:
            x, y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # that a choice is constant is seen to here
            result = stats.pearsonr(x, y, axis=1).statistic
        return np.where(constant, 0.0, result)


@dataclass(frozen=True)
class Labels(_OneByOne):
    """A label or a cluster for each item, and a measure of all of them together: macro F1, V-measure.

    Attributes:
        wanted: the true label of each item, int (items,).
        predicted: what each run says, int (runs, items).
        measure: of true and predicted labels, as scikit-learn has them.
        texts: as for `Means`.

    The score of no items, or of items of one label, is NaN.
    """

    wanted: Int[np.ndarray, " items"]
    predicted: Int[np.ndarray, "runs items"]
    measure: Callable[[NDArray[np.intp], NDArray[np.intp]], float]
    costly: bool = True
    texts: Int[np.ndarray, "items 1"] | None = None

    @property
    def runs(self) -> int:
        return len(self.predicted)

    def differing(self, other: Labels) -> Bool[np.ndarray, " items"]:
        return np.asarray((self.predicted != other.predicted).any(axis=0))

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        result = np.full(len(items), np.nan)
        for choice, (some, repeated) in enumerate(zip(items, runs, strict=True)):
            wanted = self.wanted[some]
            if len(some) and np.ptp(wanted):
                # A run that was drawn more than once is measured once.
                drawn, times = np.unique(repeated, return_counts=True)
                each = [self.measure(wanted, self.predicted[run, some]) for run in drawn]
                result[choice] = np.average(each, weights=times)
        return result
