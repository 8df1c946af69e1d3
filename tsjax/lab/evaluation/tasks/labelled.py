"""What tasks of texts with labels share."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError
from tsjax.lab.evaluation.copies import groups, repeats, same_text
from tsjax.wording import counted

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from tsjax.lab.evaluation.tasks.task import CountTokens


@dataclass(frozen=True)
class Labelled:
    """Texts, each with a label.

    Equal texts (see `tsjax.lab.evaluation.copies.same_text`) are one text: all its copies are in one part of every
    split and are drawn together in every interval. In a score each copy counts.

    Attributes:
        documents: the texts.
        labels: one for each; copies of a text may have different ones.

    Raises:
        InputError: no texts, not one label for each, all the same label, or labels that differ only in white space or
            in how Unicode writes the same characters.
    """

    documents: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.documents:
            raise InputError("there are no texts")
        if len(self.documents) != len(self.labels):
            raise InputError(f"{counted(len(self.documents), 'text')} cannot have {counted(len(self.labels), 'label')}")
        if len(set(self.labels)) == 1:
            raise InputError(f"every text has the label {self.labels[0]!r}; there is nothing to tell apart")
        plain: dict[str, str] = {}
        for label in dict.fromkeys(self.labels):
            other = plain.setdefault(" ".join(unicodedata.normalize("NFC", label).split()), label)
            if other != label:
                raise InputError(
                    f"labels {other!r} and {label!r} differ only in white space or in how Unicode writes the same "
                    "characters; write them alike, or tell them apart by another name"
                )

    @property
    def queries(self) -> tuple[str, ...]:
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @cached_property
    def sharing(self) -> tuple[str, ...]:
        """How many texts are copies, and how many have several labels."""
        copies = int(repeats(self.texts).sum())
        labels = Counter(text for text, _ in set(zip(self.texts.tolist(), self.labels, strict=True)))
        several = sum(count > 1 for count in labels.values())
        said = []
        if copies:
            said.append(
                f"{copies:,} of the {self.items:,} texts repeat another; copies of a text are in one part and are "
                "drawn together"
            )
        if several:
            said.append(f"{several:,} of the different texts {'has' if several == 1 else 'have'} more than one label")
        return tuple(said)

    @cached_property
    def texts(self) -> Int[np.ndarray, " items"]:
        """The number of each item's text, the same for copies."""
        return groups([same_text(text)] for text in self.documents)

    @property
    def drawn(self) -> Int[np.ndarray, "items 1"] | None:
        """The texts that an interval draws in place of items; None if no text is there twice."""
        return self.texts[:, None] if repeats(self.texts).any() else None

    @property
    def unit(self) -> str:
        return "texts"

    @property
    def items(self) -> int:
        return len(self.documents)

    @cached_property
    def codes(self) -> Int[np.ndarray, " items"]:
        """The labels as numbers from 0, in alphabetical order."""
        number = {label: place for place, label in enumerate(sorted(set(self.labels)))}
        return np.array([number[label] for label in self.labels])

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Tokens of each text."""
        return np.asarray(count(self.documents), np.float64)
