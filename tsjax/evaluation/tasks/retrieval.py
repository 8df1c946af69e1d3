"""Retrieval: for each query, the documents by similarity, and how high the relevant ones stand."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError
from tsjax.evaluation.outcomes import Means
from tsjax.evaluation.ranking import top
from tsjax.evaluation.split import Split, halves, same_text
from tsjax.reporting.lab import lab

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int

    from tsjax.evaluation.tasks.task import CountTokens, Encoder, Vectors

# By the names that people use; ir-measures has them under the second.
_MEASURES = {
    "mrr": "RR",
    "rr": "RR",
    "ndcg": "nDCG",
    "r": "R",
    "recall": "R",
    "p": "P",
    "map": "AP",
    "success": "Success",
}
_SHOWN = {"RR": "MRR", "AP": "MAP"}


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which document is relevant to which query.

    Attributes:
        documents: the corpus; all of it is searched, for every query.
        queries: one or more relevant documents each.
        relevant: for each query, the grade of each relevant document by its place in ``documents``, at least 1.
        measure: MRR@k, nDCG@k, R@k, P@k, MAP@k or Success@k, as ir-measures defines them (RR, nDCG, R, P, AP, Success).
        notes: what whoever reads the scores should know of the data.
        itself: for each query, the place of the document that it is, which is not searched for it, or -1; empty for
            none. BEIR's own evaluation leaves these out, too.

    Raises:
        InputError: fewer than two documents, a query without a relevant document, or an unknown measure.
    """

    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: tuple[Mapping[int, int], ...]
    measure: str = "MRR@10"
    notes: tuple[str, ...] = ()
    itself: tuple[int, ...] = ()
    kind: str = "retrieval"
    unit: str = "questions"

    def __post_init__(self) -> None:
        name, cutoff = _parsed(self.measure)
        object.__setattr__(self, "measure", f"{_SHOWN.get(name, name)}@{cutoff}")
        if not self.documents:
            raise InputError("the corpus is empty; there is nothing to find")
        if len(self.documents) == 1:
            raise InputError("a corpus of one document cannot be ranked; every model finds that one first")
        if len(self.queries) != len(self.relevant):
            raise InputError(
                f"{len(self.queries)} queries and the relevant documents of {len(self.relevant)} do not pair"
            )
        for query, grades in enumerate(self.relevant):
            if not grades:
                raise InputError(f"query {query} has no relevant document; leave it out")
            for place, grade in grades.items():
                if not 0 <= place < len(self.documents) or grade < 1:
                    raise InputError(
                        f"query {query}: document {place} with grade {grade}; places are 0 to "
                        f"{len(self.documents) - 1}, and the grade of a relevant document is at least 1"
                    )

    @property
    def items(self) -> int:
        return len(self.queries)

    def split(self, seed: int) -> Split:
        """Halves of the queries, those of one text together; each is tried on the whole corpus."""
        own = self._texts
        split = halves(len(np.unique(own)), seed=seed, least=2, what="different queries")
        validation, held_out = (np.flatnonzero(np.isin(own, part)) for part in (split.validation, split.held_out))
        return Split(validation, held_out, split.training)

    @functools.cached_property
    def _texts(self) -> Int[np.ndarray, " queries"]:
        """The number of each query's text; alike for queries of one text."""
        texts = [same_text(query) for query in self.queries]
        number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return np.array([number[text] for text in texts])

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Means:
        """The measure of every query."""
        del split  # nothing is learnt, so every query can be ranked
        name, cutoff = _parsed(self.measure)
        ranked = top(vectors.queries, vectors.documents, cutoff + bool(self.itself), embedder.similarity).tolist()
        for row, own in zip(ranked, self.itself, strict=False):
            if own in row:
                row.remove(own)
        measures = lab("ir_measures")
        wanted = {str(query): {str(d): int(g) for d, g in grades.items()} for query, grades in enumerate(self.relevant)}
        # Ranks in place of similarities, so that the order is ours also where similarities are equal: the evaluator
        # would order those by the documents' names.
        run = {
            str(query): {str(document): float(-rank) for rank, document in enumerate(row[:cutoff])}
            for query, row in enumerate(ranked)
        }
        values = np.zeros((1, self.items))
        for found in measures.iter_calc([measures.parse_measure(f"{name}@{cutoff}")], wanted, run):
            values[0, int(found.query_id)] = found.value
        texts = self._texts
        return Means(values, texts[:, None] if len(np.unique(texts)) < len(texts) else None)

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Tokens of the relevant document; the mean of those with the highest grade, where there are several."""
        places = sorted({place for grades in self.relevant for place in grades})
        tokens = dict(zip(places, count([self.documents[place] for place in places]), strict=True))
        highest = [max(grades.values()) for grades in self.relevant]
        return np.array(
            [
                np.mean([tokens[place] for place, grade in grades.items() if grade == high])
                for grades, high in zip(self.relevant, highest, strict=True)
            ],
            np.float64,
        )


def _parsed(measure: object) -> tuple[str, int]:
    """ir-measures' name and the cutoff of a measure."""
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,4})", measure.lower()) if isinstance(measure, str) else None
    if match is None or match[1] not in _MEASURES:
        raise InputError(
            f"retrieval has no measure {measure!r}; it has MRR@k, nDCG@k, R@k, P@k, MAP@k and Success@k, such as MRR@10"
        )
    return _MEASURES[match[1]], int(match[2])
