"""Groups of items that share texts; a split keeps each group together, and an interval draws it together.

Copies (forwarded mails, templates, a question that was asked twice) are no further evidence. Items that share a text,
directly or through other items, are one group.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Bool, Int

# Invisible characters that tokenizers drop: soft hyphen, zero-width spaces and joiners, byte order mark.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))

# Two parts need this many groups to tell a gain from noise: ten each, the fewest items that an interval trusts.
_ENOUGH = 20


def same_text(text: str) -> str:
    """Return a key that is the same for equal texts.

    Texts are equal if they differ only in case, in white space, in zero-width characters, or in how Unicode writes the
    same characters (NFKC). Tokenizers drop most of that. For a model that sees the difference, such texts are near
    copies, and it would be just as wrong to treat them as independent.
    """
    folded = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).translate(_INVISIBLE).split())  # folding may decompose


def groups(texts: Iterable[Iterable[str]]) -> Int[np.ndarray, " items"]:
    """Return the number of each item's group, counted from 0 in the order of the groups' first items.

    Args:
        texts: the keys of each item's texts, from `same_text`.
    """
    earlier: list[int] = []  # for each item, an item of its group that is not later
    first: dict[str, int] = {}

    def root(item: int) -> int:
        while earlier[item] != item:
            earlier[item] = earlier[earlier[item]]
            item = earlier[item]
        return item

    for item, own in enumerate(texts):
        earlier.append(item)
        for text in own:
            low, high = sorted((root(first.setdefault(text, item)), root(item)))
            earlier[high] = low
    roots = [root(item) for item in range(len(earlier))]
    number = {one: place for place, one in enumerate(dict.fromkeys(roots))}
    return np.array([number[one] for one in roots], np.intp)


def entangled(group: Int[np.ndarray, " items"]) -> bool:
    """Return whether the items share texts so much that their groups cannot be split in two parts.

    This is so if one group has more than half of the items, or if there are fewer groups than two parts need.
    """
    sizes = np.bincount(group)
    return bool(sizes.max() > 1 and (2 * sizes.max() > len(group) or len(sizes) < min(_ENOUGH, len(group) / 2)))


def repeats(group: Int[np.ndarray, " items"]) -> Bool[np.ndarray, " items"]:
    """Return a mask of the items whose group contains an earlier item."""
    return np.isin(np.arange(len(group)), np.unique(group, return_index=True)[1], invert=True)
