"""Shared base of the tasks on texts with labels."""

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
        labels: the label of each text; copies of a text may have different labels.

    Raises:
        InputError: there are no texts, the numbers of texts and labels differ, all labels are the same, or labels
            differ only in white space or in how Unicode writes the same characters.
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
        """Return sentences with the number of copies and the number of texts with several labels."""
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
        """Return the number of each item's text, the same for copies."""
        return groups([same_text(text)] for text in self.documents)

    @property
    def drawn(self) -> Int[np.ndarray, "items 1"] | None:
        """Return the texts that an interval draws in place of items; None if no text is repeated."""
        return self.texts[:, None] if repeats(self.texts).any() else None

    @property
    def unit(self) -> str:
        return "texts"

    @property
    def items(self) -> int:
        return len(self.documents)

    @cached_property
    def codes(self) -> Int[np.ndarray, " items"]:
        """Return the labels as numbers from 0, in alphabetical order."""
        number = {label: place for place, label in enumerate(sorted(set(self.labels)))}
        return np.array([number[label] for label in self.labels])

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Return the number of tokens of each text."""
        return np.asarray(count(self.documents), np.float64)
