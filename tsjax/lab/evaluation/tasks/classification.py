"""Classification task: predict labels by a logistic regression trained on a few vectors of each label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import require_optional
from tsjax.lab.evaluation.copies import repeats
from tsjax.lab.evaluation.outcomes import Labels, Means
from tsjax.lab.evaluation.split import Split, by_label
from tsjax.lab.evaluation.tasks.labelled import Labelled
from tsjax.lab.evaluation.tasks.task import chosen_measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.lab.evaluation.outcomes import Outcome
    from tsjax.lab.evaluation.tasks.task import Encoder, Vectors


@dataclass(frozen=True)
class Classification(Labelled):
    """Texts with labels, classified by a logistic regression on their vectors as in MTEB (arXiv:2210.07316).

    Attributes:
        measure: accuracy, or macro-F1 (the mean of the labels' F1), of scikit-learn.
        samples_per_label: the number of distinct training texts of each label in a run; all of them if there are fewer.
        experiments: the number of runs, each with its own training sample; the score is their mean.
    """

    measure: str = "accuracy"
    samples_per_label: int = 8
    experiments: int = 10
    kind: str = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "measure", chosen_measure(self.measure, ("accuracy", "macro-F1"), self.kind))

    def split(self, seed: int) -> Split:
        """Split the texts in thirds by label: training, validation, held-out."""
        return by_label(self.labels, seed=seed, with_training=True, texts=self.texts)

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Outcome:
        """Return the predictions of each run's classifier, which has not been trained on any of the scored texts."""
        del embedder  # a classifier, not a similarity, compares the vectors
        linear_model = require_optional("sklearn.linear_model", extra="lab")
        metrics = require_optional("sklearn.metrics", extra="lab")
        exceptions = require_optional("sklearn.exceptions", extra="lab")
        threads = require_optional("threadpoolctl", extra="lab")
        asked = split.part("all")
        predicted = np.full((self.experiments, self.items), -1)
        with warnings.catch_warnings(), threads.threadpool_limits(1):  # see Clustering.outcome
            # MTEB takes the same number of steps, whether or not they suffice.
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            for run in range(self.experiments):
                sample = self._sample(split.training, run)
                classifier = linear_model.LogisticRegression(max_iter=100, random_state=run)
                classifier.fit(vectors.documents[sample], self.codes[sample])
                predicted[run, asked] = classifier.predict(vectors.documents[asked])
        if self.measure == "accuracy":
            return Means((predicted == self.codes).astype(np.float64), self.drawn)

        def macro_f1(wanted: NDArray[np.intp], found: NDArray[np.intp]) -> float:
            # A label that is neither present nor predicted has no F1. scikit-learn leaves it out.
            return float(metrics.f1_score(wanted, found, average="macro", zero_division=0))

        return Labels(self.codes, predicted, macro_f1, texts=self.drawn)

    def _sample(self, training: NDArray[np.intp], run: int) -> NDArray[np.intp]:
        """Return some distinct training texts of each label, the same ones for every candidate."""
        order = np.random.default_rng(run).permutation(training)
        chosen = []
        for label in np.unique(self.codes):
            own = order[self.codes[order] == label]
            chosen.append(own[~repeats(self.texts[own])][: self.samples_per_label])
        return np.concatenate(chosen)
