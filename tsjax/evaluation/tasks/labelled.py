"""What tasks of texts with labels share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from tsjax.evaluation.tasks.task import CountTokens


@dataclass(frozen=True)
class Labelled:
    """Texts, each with a label.

    Attributes:
        documents: the texts.
        labels: one for each.

    Raises:
        InputError: no texts, not one label for each, or all the same label.
    """

    documents: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.documents:
            raise InputError("there are no texts")
        if len(self.documents) != len(self.labels):
            raise InputError(f"there are {len(self.documents)} texts and {len(self.labels)} labels")
        if len(set(self.labels)) == 1:
            raise InputError(f"every text has the label {self.labels[0]!r}; there is nothing to tell apart")

    @property
    def queries(self) -> tuple[str, ...]:
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def unit(self) -> str:
        return "texts"

    @property
    def items(self) -> int:
        return len(self.documents)

    @cached_property
    def codes(self) -> Int[np.ndarray, " items"]:
        """The labels as numbers from 0, in alphabetical order."""
        return np.unique(np.asarray(self.labels), return_inverse=True)[1]

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Tokens of each text."""
        return np.asarray(count(self.documents), np.float64)
