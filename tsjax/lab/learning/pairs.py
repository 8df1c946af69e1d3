"""Training pairs of a query and a text that answers it, and the order in which they are used."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tsjax.errors import InputError
from tsjax.lab.evaluation.copies import same_text
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """Queries, each with a text that answers it and optionally with texts that do not.

    A query with several answers occurs in several pairs.

    Attributes:
        name: the name of the corpus in reports.
        queries: the queries.
        documents: the answer of each query.
        negatives: the hard negatives of each query, which are texts that look like answers but are not.

    Raises:
        InputError: fewer than two different documents, or parts of different lengths.
    """

    name: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.negatives:
            object.__setattr__(self, "negatives", ((),) * len(self.queries))
        if not len(self.queries) == len(self.documents) == len(self.negatives):
            raise InputError(f"{self.name}: queries, documents and negatives must be equally many")
        if (different := len(set(self._keys[1]))) < 2:
            raise InputError(
                f"{self.name} has {counted(different, 'different text')} to answer queries; learning needs at "
                "least two, since one's answer is the other's negative"
            )

    def __len__(self) -> int:
        return len(self.queries)

    def __add__(self, other: Pairs) -> Pairs:
        """Return the pairs of both, in order, as one corpus with this name."""
        return Pairs(
            self.name,
            self.queries + other.queries,
            self.documents + other.documents,
            self.negatives + other.negatives,
        )

    def texts(self, chosen: Sequence[int] | NDArray[np.intp]) -> tuple[list[str], list[str]]:
        """Return the queries of some pairs, and their documents followed by the hard negatives."""
        hard = itertools.chain.from_iterable(self.negatives[i] for i in chosen)
        return [self.queries[i] for i in chosen], [*(self.documents[i] for i in chosen), *hard]

    def excluded(self, chosen: Sequence[int] | NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return a mask of `texts`' documents that are not negatives of a query, although they are not its own.

        These are texts that are equal, by `same_text`, to the query or to a text that answers it.

        Returns:
            bool (queries, documents).
        """
        queries, answers, negatives = self._keys
        documents = [*(answers[i] for i in chosen), *itertools.chain.from_iterable(negatives[i] for i in chosen)]
        number = {document: i for i, document in enumerate(dict.fromkeys(documents))}
        columns = np.array([number[document] for document in documents])
        excluded = np.zeros((len(chosen), len(documents)), np.bool_)
        for row, pair in enumerate(chosen):
            query = queries[pair]
            excluded[row] = np.isin(columns, [number.get(text, -1) for text in (query, *self._answers[query])])
            excluded[row, row] = False
        return excluded

    @functools.cached_property
    def _keys(self) -> tuple[list[str], list[str], list[list[str]]]:
        """Return the queries, documents and negatives by `same_text`."""
        queries, documents = ([same_text(text) for text in texts] for texts in (self.queries, self.documents))
        return queries, documents, [[same_text(text) for text in hard] for hard in self.negatives]

    @functools.cached_property
    def _answers(self) -> dict[str, set[str]]:
        """Return the texts that answer each query, by `same_text`."""
        answers = defaultdict(set)
        for query, document in zip(*self._keys[:2], strict=True):
            answers[query].add(document)
        return dict(answers)


class Step(NamedTuple):
    """Pairs of one optimizer step, all of one corpus."""

    corpus: int
    chosen: NDArray[np.intp]


def schedule(sizes: Sequence[int], batch_size: int, seed: int) -> Iterator[Step]:
    """Yield batches without end, each of one corpus: every epoch yields all full batches in an order set by the seed.

    A corpus occurs as often as it has batches. The pairs that do not fill a batch differ from epoch to epoch. A corpus
    smaller than a batch is one batch.
    """
    for epoch in itertools.count():
        rng = np.random.default_rng([seed, epoch])
        steps = []
        for corpus, size in enumerate(sizes):
            order = rng.permutation(size)
            full = max(size // batch_size * batch_size, min(size, batch_size))
            steps += [Step(corpus, order[i : i + batch_size]) for i in range(0, full, batch_size)]
        for place in rng.permutation(len(steps)):
            yield steps[place]
