"""Embedding of a task's texts at many temperatures, each side once for each of its temperatures."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError, TruncationWarning
from tsjax.lab.evaluation.tasks.task import Encoder, Task, Vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Float

    from tsjax.temperature import Temperature


@dataclass(frozen=True)
class Truncated:
    """Numbers of distinct texts that were truncated to the model's length.

    Attributes:
        documents: the number of documents, or of texts where a task has one kind of text.
        queries: the number of queries.
    """

    documents: int = 0
    queries: int = 0


class Embedding:
    """Embedding of a task's texts at one temperature after another, each distinct text once.

    Query vectors are kept for every query temperature. Document vectors are kept for one temperature at a time, so that
    memory is bounded. `pairs` yields the temperatures in an order that embeds nothing twice.

    Args:
        embedder: the model that computes the vectors.
        task: the task whose texts are embedded.
        report: called with a message before each embedding.
        show_progress_bar: passed to the embedder.
    """

    def __init__(
        self, embedder: Encoder, task: Task, *, report: Callable[[str], object], show_progress_bar: bool
    ) -> None:
        self._embedder, self._task = embedder, task
        self._report, self._show = report, show_progress_bar
        self._queries: dict[Temperature, Float[np.ndarray, "Q D"]] = {}
        self._cut = {"documents": 0, "queries": 0}

    @property
    def truncated(self) -> Truncated:
        """Return how many texts were truncated; it is complete once the texts have been embedded."""
        return Truncated(**self._cut)

    def pairs(self, temperatures: Sequence[Temperature]) -> Iterator[tuple[int, Vectors]]:
        """Yield the index of each temperature with the task's vectors, grouped by document temperature."""
        places: dict[Temperature, list[int]] = {}
        for place, temperature in enumerate(temperatures):
            places.setdefault(temperature.for_task("document"), []).append(place)
        for of_documents, some in places.items():
            documents = self._documents(of_documents)
            for place in some:
                yield place, Vectors(documents, self._kept_queries(temperatures[place].for_task("query"), documents))

    def _documents(self, temperature: Temperature) -> Float[np.ndarray, "C D"]:
        texts, what = self._task.documents, "documents" if self._task.queries else "texts"
        encode = self._embedder.encode_document if self._task.queries else self._embedder.encode
        return self._embed(encode, texts, temperature, "documents", what)

    def _kept_queries(self, temperature: Temperature, documents: Float[np.ndarray, "C D"]) -> Float[np.ndarray, "Q D"]:
        if not self._task.queries:
            return documents[:0]
        if temperature not in self._queries:
            found = self._embed(self._embedder.encode_query, self._task.queries, temperature, "queries", "queries")
            self._queries[temperature] = found
        return self._queries[temperature]

    def _embed(
        self,
        encode: Callable[..., np.ndarray],
        texts: Sequence[str],
        temperature: Temperature,
        side: str,
        what: str,
    ) -> Float[np.ndarray, "n D"]:
        # Copies share one vector. In different batches their last bits would differ, and so would their ranks.
        number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._report(f"embedding {len(number):,} {what} at τ = {temperature}")
        before = self._embedder.statistics.truncated
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # counted, and stated in the report
            vectors = np.asarray(encode(list(number), temperature=temperature, show_progress_bar=self._show))
        self._cut[side] = self._embedder.statistics.truncated - before
        if not np.isfinite(vectors).all():
            raise InputError(f"at τ = {temperature} some vectors are not finite; leave this temperature out")
        return vectors if len(number) == len(texts) else vectors[[number[text] for text in texts]]
