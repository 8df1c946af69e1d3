"""Seeded splits of a task's items into parts to choose τ on, to report on, and to train a classifier on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tsjax.errors import InputError
from tsjax.validation.numbers import whole_number
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int

Part: TypeAlias = Literal["validation", "held-out", "all"]


@dataclass(frozen=True)
class Split:
    """Sorted indices of a task's items in each part; no item is in two parts.

    Attributes:
        validation: the items that τ is chosen on.
        held_out: the items that results are reported on.
        training: the items that a classifier is trained on; empty for other tasks.
        apart: whether outcomes of the two parts cannot be combined, such as clusters found in each part separately.
        between: the items in neither of the first two, because they share a text with both; empty for most tasks.
    """

    validation: Int[np.ndarray, " v"]
    held_out: Int[np.ndarray, " h"]
    training: Int[np.ndarray, " t"]
    apart: bool = False
    between: Int[np.ndarray, " b"] = field(default_factory=lambda: np.zeros(0, np.intp))

    def part(self, name: Part) -> Int[np.ndarray, " items"]:
        """Return the items of a part; ``all`` is both parts and the items between them, without the training items.

        Raises:
            InputError: the part is unknown, or ``all`` is requested and the parts are apart.
        """
        match name:
            case "validation":
                return self.validation
            case "held-out":
                return self.held_out
            case "all" if self.apart:
                raise InputError("there is no score over all, since the two parts mean nothing together; choose one")
            case "all":
                return np.sort(np.concatenate([self.validation, self.held_out, self.between]))
        raise InputError(f"there is no part {name!r}; there are validation, held-out and all")


def whole(items: int) -> Split:
    """Return a split with all items held out, for a score on all of them."""
    none = np.zeros(0, np.intp)
    return Split(none, np.arange(items), none)


def split_in_half(items: int, *, seed: int, min_items: int, item_name: str) -> Split:
    """Split items in two halves; of an odd number, the held-out half has one more.

    Args:
        items: the number of items.
        seed: the seed of the choice.
        min_items: the number of items that each half must have.
        item_name: the plural noun for the items in the error.

    Raises:
        InputError: there are too few.
    """
    whole_number("seed", seed, at_least=0)
    if items < 2 * min_items:
        raise InputError(
            f"{items} {item_name} cannot be split: the part that τ is chosen on and the part it is reported on need "
            f"at least {min_items} each"
        )
    order = np.random.default_rng(seed).permutation(items)
    return Split(np.sort(order[: items // 2]), np.sort(order[items // 2 :]), np.zeros(0, np.intp))


def split_groups_in_half(group: Int[np.ndarray, " items"], *, seed: int, min_items: int, item_name: str) -> Split:
    """Split items in two halves by their groups; each group is entirely in one of them.

    Args:
        group: the number of each item's group, from 0; see `tsjax.lab.evaluation.copies.groups`.
        seed: the seed of the choice.
        min_items: the number of groups that each half must have.
        item_name: the plural noun for the items in the error.

    Raises:
        InputError: there are too few groups.
    """
    split = split_in_half(1 + group.max(initial=-1), seed=seed, min_items=min_items, item_name=item_name)
    validation, held_out = (np.flatnonzero(np.isin(group, part)) for part in (split.validation, split.held_out))
    return Split(validation, held_out, split.training)


def by_label(
    labels: Sequence[str], *, seed: int, with_training: bool, texts: Int[np.ndarray, " items"] | None = None
) -> Split:
    """Split items so that every label is in every part, in equal shares: halves, or thirds with a part for training.

    Args:
        labels: the labels of the items.
        seed: the seed of the choice.
        with_training: whether there is a part for training.
        texts: the number of each item's text; items of one text are all in one part. None if no text is repeated.

    Raises:
        InputError: a label has fewer texts than there are parts, or is missing from a part because its texts have other
            labels too.
    """
    whole_number("seed", seed, at_least=0)
    parts = ("validation", "held-out", *(["training"] if with_training else []))
    rng = np.random.default_rng(seed)
    texts = np.arange(len(labels)) if texts is None else texts
    having: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for label, text in zip(labels, texts.tolist(), strict=True):
        having[label].append(text)
    # A text of several labels is split with the rarest of them, which has the fewest other texts.
    split_with: dict[int, str] = {}
    for label in sorted(having, key=lambda label: -len(set(having[label]))):
        split_with.update(dict.fromkeys(having[label], label))
    part_of = np.zeros(1 + texts.max(), np.intp)
    for label, own in having.items():
        if (count := len(set(own))) < len(parts):
            different = "different " if len(own) > count else ""
            raise InputError(
                f"label {label!r} has {counted(count, different + 'text')}; each needs at least "
                f"{len(parts)}, one for each part: {', '.join(parts)}; add some or leave the label out"
            )
        # If the texts do not divide evenly, the part that gets more is random, so that no part collects all remainders.
        some = [text for text in dict.fromkeys(own) if split_with[text] == label]
        pieces = np.array_split(rng.permutation(some), len(parts))
        for part, piece in zip(rng.permutation(len(parts)), pieces, strict=True):
            part_of[piece.astype(np.intp)] = part
    for label, own in having.items():
        if missing := set(range(len(parts))) - set(part_of[own].tolist()):
            raise InputError(
                f"with seed {seed}, no {parts[min(missing)]} text has the label {label!r}, since texts with it have "
                "other labels too; choose another seed, or give each text one label"
            )
    validation, held_out, training = (np.flatnonzero(part_of[texts] == part) for part in range(3))
    return Split(validation, held_out, training)
