"""Protocols of a task and of the embedder that it requires."""

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
    """Interface that a task requires of an embedder, such as `tsjax.Embedder` or `tsjax.RoutedEmbedder`."""

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
    """Vectors of a task's texts.

    Attributes:
        documents: float32 (documents, D).
        queries: float32 (queries, D); without rows if the task has only one kind of text.
    """

    documents: Float[np.ndarray, "C D"]
    queries: Float[np.ndarray, "Q D"]


class Task(Protocol):
    """Texts, with a measure of the quality of their vectors for a purpose."""

    @property
    def kind(self) -> str:
        """Return the kind of the task, such as ``retrieval``."""

    @property
    def measure(self) -> str:
        """Return the name of the measure, such as ``MRR@10``; higher is better."""

    @property
    def unit(self) -> str:
        """Return the plural noun for the items, such as ``questions``."""

    @property
    def items(self) -> int:
        """Return the number of items."""

    @property
    def documents(self) -> Sequence[str]:
        """Return the texts to embed; they are embedded as documents where there are queries."""

    @property
    def queries(self) -> Sequence[str]:
        """Return the texts to embed as queries; empty where the task has one kind of text."""

    @property
    def notes(self) -> Sequence[str]:
        """Return sentences about the data that a reader of the scores should know."""

    @property
    def sharing(self) -> Sequence[str]:
        """Return sentences on the items that share texts, and on the effect on the split and the interval."""

    def split(self, seed: int) -> Split:
        """Split the items in parts."""

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Outcome:
        """Return the outcome of the vectors for every item of the validation and held-out parts."""

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Return the number of tokens of the relevant text of each item."""


def chosen_measure(asked: str, known: Iterable[str], task: str) -> str:
    """Return the proper name of a measure; the case and punctuation of the requested name do not matter.

    Raises:
        InputError: the task does not have the measure.
    """
    known = list(known)
    by_letters = {_letters(name): name for name in known}
    if not isinstance(asked, str) or _letters(asked) not in by_letters:
        raise InputError(f"{task} has no measure {asked!r}; it has {', '.join(known)}")
    return by_letters[_letters(asked)]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
