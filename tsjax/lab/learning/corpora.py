"""Corpora to learn from, read from files and split into training, validation and held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError
from tsjax.jobs.input.formats import stem
from tsjax.jobs.input.typed_rows import TypedRow, read_typed_rows
from tsjax.lab.evaluation.copies import groups
from tsjax.lab.evaluation.readers import read_retrieval
from tsjax.lab.evaluation.tasks import Retrieval
from tsjax.lab.learning.pairs import Pairs
from tsjax.wording import counted

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from tsjax.jobs.input.formats import Reading


@dataclass(frozen=True)
class Corpus:
    """Queries and texts, as a task to score on and as pairs to learn from.

    Attributes:
        name: the name in reports.
        task: the retrieval task with all queries and texts.
        negatives: the hard negatives of each query, by its place in the task.
    """

    name: str
    task: Retrieval
    negatives: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def half(self, seed: int, scored: Collection[str] = ()) -> NDArray[np.intp]:
        """Return the indices of the queries to learn from: the half that `sweep` chooses τ on, without scored texts.

        Args:
            seed: the seed of the halves.
            scored: texts, by `same_text`, that temperatures will be scored on; see `scored_texts`.

        Raises:
            InputError: there are too few queries.
        """
        half = self.task.split(seed).validation  # this checks the seed
        kept = self._without(half, scored)
        if len(kept) < min(2, len(half)):
            raise InputError(
                f"{self.name}: of {counted(len(half), 'query', 'queries')} to learn from, {len(half) - len(kept)} "
                "are held out in another "
                "corpus or are in one that is to be unseen, by their text or by one that answers them, which leaves "
                "too few; leave that corpus out, or compare nothing (--no-compare)"
            )
        return kept

    def _without(self, places: NDArray[np.intp], texts: Collection[str]) -> NDArray[np.intp]:
        """Return the indices of those queries that share no text with ``texts``."""
        apart = frozenset(texts).isdisjoint
        return np.array([place for place in places.tolist() if apart(self.task.shared_texts[place])], np.intp)

    def split(self, seed: int, validation: float = 0.2, scored: Collection[str] = ()) -> tuple[Pairs, Pairs | None]:
        """Split the queries of `half` into training pairs and validation pairs.

        Queries that `sweep` holds out with the same seed are in neither. Queries that share texts, among themselves or
        their answers, are all in the same part (see `Retrieval`). Hard negatives may be any texts: they are like the
        rest of the corpus, all of which is searched for every query.

        Args:
            seed: the seed of the halves and of the choice of validation queries.
            validation: the fraction of the half that validates, from 0 to below 1; with 0 no pairs validate.
            scored: see `half`.

        Raises:
            InputError: there are too few queries, or the fraction is invalid.
        """
        ((learning, validating),) = split_all([self], seed, validation, scored)
        return learning, validating

    def _places(
        self, seed: int, validation: float, scored: Collection[str]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the training queries and those of the validation queries."""
        if not 0 <= validation < 1:
            raise InputError(f"the share that validates is from 0 to below 1, not {validation!r}")
        chosen = np.random.default_rng(seed).permutation(self.half(seed, scored))
        if not validation:
            return chosen, np.zeros(0, np.intp)
        group = groups(self.task.shared_texts[place] for place in chosen.tolist())
        alike = iter([chosen[group == one].tolist() for one in range(1 + group.max(initial=-1))])
        validating: list[int] = []
        while len(validating) < max(2, round(validation * len(chosen))):
            validating += next(alike)
        learning = [place for together in alike for place in together]
        if len(learning) < 2:
            raise InputError(
                f"{self.name} has {counted(self.task.items, 'query', 'queries')}: half are held out, "
                f"{len(validating)} of the other "
                f"{len(chosen)} validate, and {len(learning)} are left to learn from; learning needs at least two, so "
                "give more queries or let fewer validate (--validation)"
            )
        return np.array(learning), np.array(validating)

    def _pairs(self, places: NDArray[np.intp]) -> Pairs:
        task = self.task
        both = [(query, document) for query in places.tolist() for document in task.relevant[query]]
        return Pairs(
            self.name,
            tuple(task.queries[query] for query, _ in both),
            tuple(task.documents[document] for _, document in both),
            tuple(self.negatives.get(query, ()) for query, _ in both),
        )


def scored_texts(corpora: Sequence[Corpus], unseen: Sequence[Corpus], seed: int) -> set[str]:
    """Return the texts, by `same_text`, that `compare_learned` scores on, from the held-out and all unseen queries.

    They are the queries and their answers. Corpora may overlap, and a text that is held out in one must not be learned
    from in another.
    """
    held_out = [(corpus, corpus.task.split(seed).held_out.tolist()) for corpus in corpora]
    everything = [(corpus, range(corpus.task.items)) for corpus in unseen]
    return {
        text for corpus, places in held_out + everything for place in places for text in corpus.task.shared_texts[place]
    }


def split_all(
    corpora: Sequence[Corpus], seed: int, validation: float, scored: Collection[str]
) -> list[tuple[Pairs, Pairs | None]]:
    """Split several corpora by `Corpus.split`; texts that validate in one are not learned from in another either.

    Raises:
        InputError: see `Corpus.split`; also if the validation texts of the others leave a corpus too few to learn from.
    """
    places = [corpus._places(seed, validation, scored) for corpus in corpora]
    validates = {
        text
        for corpus, (_, validating) in zip(corpora, places, strict=True)
        for place in validating.tolist()
        for text in corpus.task.shared_texts[place]
    }
    parts: list[tuple[Pairs, Pairs | None]] = []
    for corpus, (learning, validating) in zip(corpora, places, strict=True):
        kept = corpus._without(learning, validates)
        parts.append((corpus._pairs(kept), corpus._pairs(validating) if validation else None))
    return parts


def read_corpus(
    path: str | os.PathLike[str], *, measure: str = "MRR@10", qrels: str = "test", reading: Reading | None = None
) -> Corpus:
    """Read a corpus from a folder in BEIR's layout, or from a file of pairs.

    Args:
        path: a folder as `read_retrieval` reads it; or a file with ``query`` (or ``anchor``), ``positive`` and, if
            there are hard negatives, ``negative`` (one text or a list) in each row; JSON lines, one JSON array, CSV,
            TSV, Parquet or Arrow.
        measure: see `Retrieval`.
        qrels: the name of the file under ``qrels`` of such a folder, without its suffix.
        reading: how to read a file; None infers it from the file's name and first bytes.

    Raises:
        InputError: something is missing or damaged; the message says where.
    """
    source = Path(path)
    name = stem(source.name) or str(source)
    if source.is_dir():
        return Corpus(name, read_retrieval(source, measure=measure, qrels=qrels))
    documents: dict[str, int] = {}
    relevant: dict[str, dict[int, int]] = {}
    negatives: dict[str, list[str]] = {}
    for row in read_typed_rows(source, reading):
        query = row.text("anchor" if "anchor" in row.cells and "query" not in row.cells else "query")
        positive = row.text("positive")
        for column, text in (("query", query), ("positive", positive)):
            if not text.strip():
                raise InputError(f"{row.place}: the {column} has no text; leave the line out")
        relevant.setdefault(query, {})[documents.setdefault(positive, len(documents))] = 1
        for negative in _negatives(row):
            documents.setdefault(negative, len(documents))
            negatives.setdefault(query, []).append(negative)
    if not relevant:
        raise InputError(f"{source} holds no pair of a query and a text")
    if len(documents) < 2:
        raise InputError(f"{source}: every query has the same text, so there is nothing to tell apart")
    task = Retrieval(tuple(documents), tuple(relevant), tuple(relevant.values()), measure)
    return Corpus(name, task, {place: tuple(negatives[q]) for place, q in enumerate(relevant) if q in negatives})


def _negatives(row: TypedRow) -> list[str]:
    """Return the hard negatives of a row, given as one text, a list, or not at all."""
    given = row.cells.get("negative")
    if given is None:
        return []
    if isinstance(given, list):
        return [TypedRow(row.place, {"negative": text}).text("negative") for text in given]
    return [row.text("negative")]
