"""Clustering task: recover the groups that the labels name by k-means on the vectors."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import require_optional
from tsjax.lab.evaluation.outcomes import Labels
from tsjax.lab.evaluation.split import Split, by_label
from tsjax.lab.evaluation.tasks.labelled import Labelled
from tsjax.lab.evaluation.tasks.task import chosen_measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.lab.evaluation.tasks.task import Encoder, Vectors


@dataclass(frozen=True)
class Clustering(Labelled):
    """Texts with labels, grouped by mini-batch k-means into as many clusters as there are labels.

    k-means and V-measure are those of MTEB (arXiv:2210.07316). MTEB repeats them on random subsets. Here each run has
    another start of k-means on the complete part, which allows an interval over the texts, and scores by length.

    Attributes:
        measure: V-measure, of scikit-learn.
        experiments: the number of runs, each with its own start; the score is their mean.
    """

    measure: str = "V-measure"
    experiments: int = 10
    kind: str = "clustering"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "measure", chosen_measure(self.measure, ("V-measure",), self.kind))

    def split(self, seed: int) -> Split:
        """Split the texts in halves by label; each half is clustered separately."""
        return dataclasses.replace(by_label(self.labels, seed=seed, with_training=False, texts=self.texts), apart=True)

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Labels:
        """Return the cluster of each text; the two parts are clustered separately."""
        del embedder  # k-means, not a similarity, compares the vectors
        cluster = require_optional("sklearn.cluster", extra="lab")
        metrics = require_optional("sklearn.metrics", extra="lab")
        exceptions = require_optional("sklearn.exceptions", extra="lab")
        threads = require_optional("threadpoolctl", extra="lab")
        predicted = np.full((self.experiments, self.items), -1)
        # On few texts, threads that wait for each other are a hundred times slower than a single thread.
        with warnings.catch_warnings(), threads.threadpool_limits(1):
            # With fewer distinct vectors than clusters, there are fewer clusters.
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            for run, part in itertools.product(range(self.experiments), (split.validation, split.held_out)):
                labels = len(np.unique(self.codes[part]))
                k_means = cluster.MiniBatchKMeans(labels, batch_size=500, n_init="auto", random_state=run)
                predicted[run, part] = k_means.fit_predict(vectors.documents[part])

        def v_measure(wanted: NDArray[np.intp], found: NDArray[np.intp]) -> float:
            return float(metrics.v_measure_score(wanted, found))

        return Labels(self.codes, predicted, v_measure, texts=self.drawn)
