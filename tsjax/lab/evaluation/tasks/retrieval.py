"""Retrieval task: rank the documents for each query by similarity and score the ranks of the relevant ones."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError, require_optional
from tsjax.lab.evaluation.copies import entangled, groups, repeats, same_text
from tsjax.lab.evaluation.outcomes import Means
from tsjax.lab.evaluation.ranking import top
from tsjax.lab.evaluation.split import Split, split_groups_in_half
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int

    from tsjax.lab.evaluation.tasks.task import CountTokens, Encoder, Vectors

# Common names of the measures, and the names that ir-measures has for them.
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
    """Queries, documents, and the relevant documents of each query.

    Equal texts are one text. Documents with exactly the same text are searched as one, which is relevant where any of
    them is, with the highest grade. Queries that have the same text (see `tsjax.lab.evaluation.copies.same_text`), or
    share a relevant one, directly or through other queries, are in one part of every split and are drawn together in
    every interval. Where nearly all queries are connected in this way, only those with the same text are kept together.

    Attributes:
        documents: the corpus; all of it is searched for every query.
        queries: the queries, each with one or more relevant documents.
        relevant: for each query, the grade of each relevant document by its place in ``documents``, at least 1.
        measure: MRR@k, nDCG@k, R@k, P@k, MAP@k or Success@k, as ir-measures defines them (RR, nDCG, R, P, AP, Success).
        notes: facts about the data that a reader of the scores should know.
        itself: for each query, the place of the document that is the query itself, or -1; empty if no query has one.
            That document is not searched for the query unless it is relevant. BEIR's own evaluation does the same.

    Raises:
        InputError: there are fewer than two distinct documents, a query lacks text or a relevant document, or the
            measure is unknown.
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
        if len(set(self.documents)) == 1:
            raise InputError("a corpus of one document cannot be ranked; every model finds that one first")
        if len(self.queries) != len(self.relevant):
            raise InputError(
                f"{counted(len(self.queries), 'query', 'queries')} and the relevant documents of "
                f"{len(self.relevant)} do not pair"
            )
        for query, grades in enumerate(self.relevant):
            if not self.queries[query].strip():
                raise InputError(f"query {query} has no text; leave it out")
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
        """Split the queries in halves that share no texts; each half is scored on the complete corpus."""
        return split_groups_in_half(self._groups, seed=seed, min_items=2, item_name="different queries")

    @functools.cached_property
    def shared_texts(self) -> tuple[frozenset[str], ...]:
        """Return the keys, by `same_text`, of each query's texts that no other part may have.

        These are the query and its relevant documents. They are the query alone where queries share relevant texts so
        much that they cannot be split in two parts.
        """
        queries = [frozenset([same_text(query)]) for query in self.queries]
        # A document may be relevant to many queries.
        texts = {place: same_text(self.documents[place]) for place in {p for grades in self.relevant for p in grades}}
        everything = [
            own.union(texts[place] for place in grades) for own, grades in zip(queries, self.relevant, strict=True)
        ]
        return tuple(queries if entangled(groups(everything)) else everything)

    @functools.cached_property
    def _groups(self) -> Int[np.ndarray, " queries"]:
        return groups(self.shared_texts)

    @functools.cached_property
    def sharing(self) -> tuple[str, ...]:
        """Return sentences with the numbers of copied documents and queries, and of queries that share texts."""
        said = []
        if copies := len(self.documents) - len(set(self.documents)):
            said.append(
                f"{copies:,} of the {len(self.documents):,} documents repeat another; such are searched as one, which "
                "is relevant where any of them is"
            )
        if together := int(repeats(self._groups).sum()):
            said.append(
                f"{self.items:,} questions make {counted(self.items - together, 'group')} without a common text, of "
                "a question or "
                "of what is relevant to it; a group is in one part and is drawn whole"
            )
        relevant = [place for grades in self.relevant for place in grades]
        if all(len(own) == 1 for own in self.shared_texts) and len(set(relevant)) < len(relevant):
            said.append("questions share relevant documents so much that both parts know the same ones")
        return tuple(said)

    @functools.cached_property
    def _first(self) -> Int[np.ndarray, " documents"]:
        """Return, for each document, the index of the first document with exactly the same text."""
        first: dict[str, int] = {}
        return np.array([first.setdefault(text, place) for place, text in enumerate(self.documents)])

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Means:
        """Return the measure of every query."""
        del split  # nothing is learned, so every query can be ranked
        name, cutoff = _parsed(self.measure)
        different = np.unique(self._first)
        documents = vectors.documents if len(different) == len(self._first) else vectors.documents[different]
        ranked = different[top(vectors.queries, documents, cutoff + bool(self.itself), embedder.similarity)].tolist()
        wanted: dict[str, dict[str, int]] = {str(query): {} for query in range(self.items)}
        for own, grades in zip(wanted.values(), self.relevant, strict=True):
            for place, grade in grades.items():
                document = str(self._first[place])
                own[document] = max(int(grade), own.get(document, 0))
        for row, own, itself in zip(ranked, wanted.values(), self.itself, strict=False):
            if itself >= 0 and (first := int(self._first[itself])) in row and str(first) not in own:
                row.remove(first)
        measures = require_optional("ir_measures", extra="lab")
        # Ranks replace similarities so that tsjax's order holds among equal similarities too. The evaluator would order
        # those by the documents' names.
        run = {
            str(query): {str(document): float(-rank) for rank, document in enumerate(row[:cutoff])}
            for query, row in enumerate(ranked)
        }
        values = np.zeros((1, self.items))
        for found in measures.iter_calc([getattr(measures, name) @ cutoff], wanted, run):
            values[0, int(found.query_id)] = found.value
        return Means(values, self._groups[:, None] if repeats(self._groups).any() else None)

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Return the number of tokens of each query's relevant document.

        With several relevant documents it is the mean of those with the highest grade.
        """
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
    """Return the name that ir-measures has for a measure, and the cutoff."""
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,4})", measure.lower()) if isinstance(measure, str) else None
    if match is None or match[1] not in _MEASURES:
        raise InputError(
            f"retrieval has no measure {measure!r}; it has MRR@k, nDCG@k, R@k, P@k, MAP@k and Success@k, such as MRR@10"
        )
    return _MEASURES[match[1]], int(match[2])
