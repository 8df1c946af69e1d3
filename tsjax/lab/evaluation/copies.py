"""Equal texts are one text: which items share texts, so that no split parts them and an interval draws them together.

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

# Characters that nobody sees, and that tokenizers drop: soft hyphen, spaces and joiners of no width, byte order mark.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))

# Groups that two parts need to tell a gain from noise: ten each, the fewest items that an interval trusts.
_ENOUGH = 20


def same_text(text: str) -> str:
    """Return what equal texts have in common.

    Texts are equal that differ only in case, in white space, in characters of no width, or in how Unicode writes the
    same characters (NFKC). Tokenizers drop most of that. For a model that sees the difference, such texts are near
    copies, and to take these for independent texts would be as wrong.
    """
    folded = unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).translate(_INVISIBLE).split())  # folding may decompose


def groups(texts: Iterable[Iterable[str]]) -> Int[np.ndarray, " items"]:
    """Return the number of each item's group, counted from 0 in the order of their first items.

    Args:
        texts: of each item, its texts by `same_text`.
    """
    earlier: list[int] = []  # of each item, an item of its group that is not later
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
    """Return whether items share texts so much that their groups make no two parts.

    One group then has more than half of the items, or there are fewer groups than two parts need.
    """
    sizes = np.bincount(group)
    return bool(sizes.max() > 1 and (2 * sizes.max() > len(group) or len(sizes) < min(_ENOUGH, len(group) / 2)))


def repeats(group: Int[np.ndarray, " items"]) -> Bool[np.ndarray, " items"]:
    """Return which items are of a group that an earlier item is of."""
    return np.isin(np.arange(len(group)), np.unique(group, return_index=True)[1], invert=True)
