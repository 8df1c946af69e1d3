"""What every task has, and what it asks of an embedder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tsjax.engine.statistics import Statistics
    from tsjax.lab.evaluation.outcomes import Outcome
    from tsjax.lab.evaluation.split import Split

    CountTokens = Callable[[Sequence[str]], Int[np.ndarray, " n"]]


class Encoder(Protocol):
    """What is asked of an embedder: a `tsjax.Embedder`, a `tsjax.RoutedEmbedder`, or something alike."""

    @property
    def encode(self) -> Callable[..., Any]: ...
    @property
    def encode_query(self) -> Callable[..., Any]: ...
    @property
    def encode_document(self) -> Callable[..., Any]: ...
    @property
    def similarity(self) -> Callable[..., Any]: ...
    @property
    def similarity_pairwise(self) -> Callable[..., Any]: ...
    @property
    def count_tokens(self) -> Callable[..., Any]: ...
    @property
    def statistics(self) -> Statistics: ...
    @property
    def max_seq_length(self) -> Any: ...


@dataclass(frozen=True)
class Vectors:
    """What an embedder made of a task's texts.

    Attributes:
        documents: float32 (documents, D).
        queries: float32 (queries, D); of no rows where the task has one kind of text only.
    """

    documents: Float[np.ndarray, "C D"]
    queries: Float[np.ndarray, "Q D"]


class Task(Protocol):
    """Texts, and how well vectors of them serve a purpose."""

    @property
    def kind(self) -> str:
        """What kind of task it is, such as ``retrieval``."""

    @property
    def measure(self) -> str:
        """What is measured, such as ``MRR@10``; more is better."""

    @property
    def unit(self) -> str:
        """What its items are, such as ``questions``."""

    @property
    def items(self) -> int:
        """How many items it has."""

    @property
    def documents(self) -> Sequence[str]:
        """The texts to embed, as documents where there are queries."""

    @property
    def queries(self) -> Sequence[str]:
        """The texts to embed as queries; none where the task has one kind of text."""

    @property
    def notes(self) -> Sequence[str]:
        """What whoever reads the scores should know of the data, in sentences."""

    @property
    def sharing(self) -> Sequence[str]:
        """Which items share texts, and what follows for the split and the interval, in sentences."""

    def split(self, seed: int) -> Split:
        """The items in parts."""

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Outcome:
        """What the vectors give for every item of the validation and held-out parts."""

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """How long the text is that matters for each item, in tokens."""


def chosen_measure(asked: str, known: Iterable[str], task: str) -> str:
    """The measure under its proper name, whatever case and punctuation it was asked for in.

    Raises:
        InputError: the task has no such measure.
    """
    known = list(known)
    by_letters = {_letters(name): name for name in known}
    if not isinstance(asked, str) or _letters(asked) not in by_letters:
        raise InputError(f"{task} has no measure {asked!r}; it has {', '.join(known)}")
    return by_letters[_letters(asked)]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
