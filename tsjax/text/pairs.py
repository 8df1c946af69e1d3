"""Tokenising of text pairs for a cross-encoder: both in one sequence, the longer text truncated first.

The Rust tokenizer could do this in one call. But it keeps the parts that it cuts off, in pieces, and joins every piece
of one text with every piece of the other: two long texts take minutes and gigabytes. So each text is tokenised alone,
truncated as the Rust tokenizer would truncate it, and put between the special tokens, which are read from a small pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import CheckpointError
from tsjax.text.panics import reported_panics
from tsjax.text.tokenizer import Tokenized, as_ids, encodings, open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer


class PairTokenizer:
    """A tokenizer of pairs with a fixed maximum length.

    Args:
        tokenizer_json: the content of a tokenizer.json file.
        max_length: maximum tokens of a pair, special ones included.

    Raises:
        CheckpointError: the JSON is not a tokenizer, or does not join pairs from first to last.
        InputError: ``max_length`` leaves no room for text.
    """

    def __init__(self, tokenizer_json: str, max_length: int) -> None:
        tokenizer, special = open_tokenizer(tokenizer_json, max_length, pairs=True)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.max_length = int(max_length)
        self._json = tokenizer_json
        self._tokenizer = tokenizer
        self._room = self.max_length - special
        self._frame = _frame(tokenizer)

    def with_max_length(self, max_length: int) -> PairTokenizer:
        """Return this tokenizer with another maximum length."""
        return self if max_length == self.max_length else PairTokenizer(self._json, max_length)

    @property
    def highest_segment(self) -> int:
        """Return the highest segment that the post-processor assigns to a token of a pair."""
        before, between, after, kinds = self._frame
        return max((*kinds, *(int(types.max(initial=0)) for _, types in (before, between, after))))

    def encode(self, pairs: Sequence[tuple[str, str]], prompt: str = "") -> Tokenized:
        """Return the token ids and token types of each pair, in order, with the prompt before its first text."""
        sides = [self._ids([prompt + first for first, _ in pairs]), self._ids([second for _, second in pairs])]
        ids, types, truncated = [], [], []
        for texts in zip(*sides, strict=True):
            kept = cut_longest_first(len(texts[0]), len(texts[1]), self._room)
            parts = [text[:count] for text, count in zip(texts, kept, strict=True)]
            row, row_types = self._join(parts)
            ids.append(row)
            types.append(row_types)
            truncated.append(sum(kept) < len(texts[0]) + len(texts[1]))
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        return Tokenized(ids, lengths, np.array(truncated, np.bool_), types)

    def _ids(self, texts: list[str]) -> list[NDArray[np.int32]]:
        found = encodings(self._tokenizer, texts, add_special_tokens=False)
        return [as_ids(encoding.ids) for encoding in found]

    def _join(self, parts: list[NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        before, between, after, kinds = self._frame
        rows = [before[0], parts[0], between[0], parts[1], after[0]]
        types = [before[1], np.full(len(parts[0]), kinds[0]), between[1], np.full(len(parts[1]), kinds[1]), after[1]]
        return np.concatenate(rows).astype(np.int32), np.concatenate(types).astype(np.int32)


def cut_longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the number of tokens kept of each text within ``room`` tokens, by the strategy ``longest_first``.

    The shorter text is kept in full, and the longer one gets the rest. If that would make the longer text the shorter
    one, each gets half. Of an odd room, the longer text gets the larger half; the second text gets it if both are
    equal.
    """
    shorter, longer = sorted((first, second))
    if shorter + longer > room:
        longer = max(shorter, room - shorter)
        if shorter + longer > room:
            shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)


def _frame(
    tokenizer: Tokenizer,
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]], list[NDArray[np.int32]], list[int]]:
    """Return ids and types of the special tokens before, between and after two texts, and the types of the texts."""
    try:
        with reported_panics():
            encoding = tokenizer.encode("a", "a")
    except Exception as error:  # the Rust side raises plain Exception
        raise CheckpointError(f"the tokenizer cannot put a pair together: {error!s:.300}") from error
    of_text = [index for index, side in enumerate(encoding.sequence_ids) if side is not None]
    sides = [side for side in encoding.sequence_ids if side is not None]
    if set(sides) != {0, 1} or sides != sorted(sides):
        raise CheckpointError("tokenizer.json does not put a pair together from its first text to its second")
    middle = sides.index(1)
    first, last = of_text[:middle], of_text[middle:]

    def special(start: int, stop: int) -> list[NDArray[np.int32]]:
        return [as_ids(encoding.ids[start:stop]), as_ids(encoding.type_ids[start:stop])]

    kinds = as_ids([encoding.type_ids[first[0]], encoding.type_ids[last[0]]]).tolist()
    return special(0, first[0]), special(first[-1] + 1, last[0]), special(last[-1] + 1, len(encoding.ids)), kinds
