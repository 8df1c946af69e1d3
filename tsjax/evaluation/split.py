"""A seeded split of a task's items: what τ is chosen on, what it is reported on, and what a classifier learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tsjax.errors import InputError
from tsjax.settings import check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int

Part: TypeAlias = Literal["validation", "held-out", "all"]


@dataclass(frozen=True)
class Split:
    """The places of a task's items in each part, sorted; no item is in two parts.

    Attributes:
        validation: what τ is chosen on.
        held_out: what it is reported on.
        training: what a classifier learns from; empty for other tasks.
        apart: whether outcomes of the two parts mean nothing together, as clusters that were found in each by itself.
    """

    validation: Int[np.ndarray, " v"]
    held_out: Int[np.ndarray, " h"]
    training: Int[np.ndarray, " t"]
    apart: bool = False

    def part(self, name: Part) -> Int[np.ndarray, " items"]:
        """The items of a part; ``all`` are both, without those that a classifier learns from.

        Raises:
            InputError: there is no such part, or none of all.
        """
        match name:
            case "validation":
                return self.validation
            case "held-out":
                return self.held_out
            case "all" if self.apart:
                raise InputError("there is no score over all, since the two parts mean nothing together; choose one")
            case "all":
                return np.sort(np.concatenate([self.validation, self.held_out]))
        raise InputError(f"there is no part {name!r}; there are validation, held-out and all")


def whole(items: int) -> Split:
    """All items held out, for a score on all of them."""
    none = np.zeros(0, np.intp)
    return Split(none, np.arange(items), none)


def halves(items: int, *, seed: int, least: int, what: str) -> Split:
    """Split items in two halves; of an odd number, the held-out half has one more.

    Args:
        items: how many there are.
        seed: of the choice.
        least: how many each half must have.
        what: what the items are, for the error.

    Raises:
        InputError: there are too few.
    """
    check_seed(seed)
    if items < 2 * least:
        raise InputError(
            f"{items} {what} cannot be split: the part that τ is chosen on and the part it is reported on need "
            f"at least {least} each"
        )
    order = np.random.default_rng(seed).permutation(items)
    return Split(np.sort(order[: items // 2]), np.sort(order[items // 2 :]), np.zeros(0, np.intp))


def by_label(labels: Sequence[str], *, seed: int, with_training: bool) -> Split:
    """Split items so that every label is in every part, in like shares: halves, or thirds with a part for training.

    Raises:
        InputError: a label has fewer items than there are parts.
    """
    check_seed(seed)
    parts = 3 if with_training else 2
    rng = np.random.default_rng(seed)
    names, places = np.unique(np.asarray(labels), return_inverse=True)
    chosen: list[list[np.ndarray]] = [[] for _ in range(3)]
    for label, name in enumerate(names):
        own = np.flatnonzero(places == label)
        if len(own) < parts:
            texts = "text" if len(own) == 1 else "texts"
            raise InputError(
                f"label {str(name)!r} has {len(own)} {texts}; each needs at least {parts}, one for each part: "
                f"{'training, ' if with_training else ''}validation and held-out; add some or leave the label out"
            )
        # Where it does not come out even, chance says which part gets more, so that no part collects all the rests.
        pieces = np.array_split(rng.permutation(own), parts)
        for part, piece in zip(rng.permutation(parts), pieces, strict=True):
            chosen[part].append(piece)
    validation, held_out, training = (np.sort(np.concatenate([*some, np.zeros(0, np.intp)])) for some in chosen)
    return Split(validation, held_out, training)


def same_text(query: str) -> str:
    """What queries of one text have in common: neither case nor spaces tell them apart, and no split parts them."""
    return " ".join(query.split()).casefold()
