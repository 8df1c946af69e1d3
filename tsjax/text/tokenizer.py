"""Text to token ids with a Rust tokenizer that is never changed after it is made, so any number of threads may use it.

Changing truncation or padding on a tokenizer that another thread is using fails with "Already borrowed"
(huggingface/tokenizers#537). A different maximum length is therefore a different object.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from tsjax.errors import CheckpointError, InputError
from tsjax.text.panics import reported_panics
from tsjax.text.unicode import lone_surrogate
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

Item = TypeVar("Item")

# What one call of the Rust tokenizer gets. No signal interrupts a call, so it should take a tenth of a second at most,
# on all cores; and what it gives takes some 50 bytes a character, so there is a bound however many cores there are.
_CHARACTERS_PER_CORE = 100_000
_CHARACTERS = 1_000_000
_CHARACTERS_PER_TEXT = 10  # what an empty one counts


class Tokenized(NamedTuple):
    """Some texts as tokens.

    Attributes:
        ids: the token ids of each text, special ones included.
        lengths: how many each text has.
        truncated: whether it had more.
        type_ids: the segment of each token; None where all are in segment 0.
    """

    ids: list[NDArray[np.int32]]
    lengths: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    type_ids: list[NDArray[np.int32]] | None = None

    def take(self, places: Sequence[int]) -> Tokenized:
        """Return some of the texts."""
        ids = [self.ids[place] for place in places]
        types = None if self.type_ids is None else [self.type_ids[place] for place in places]
        return Tokenized(ids, self.lengths[places], self.truncated[places], types)


class TextTokenizer:
    """A tokenizer with a fixed maximum length.

    Args:
        tokenizer_json: the content of a tokenizer.json file.
        max_length: the most tokens a text may have, special ones included; what follows is cut and reported.
        token_types: whether to give the segment of each token too, where the post-processor does not leave all in 0.

    Raises:
        CheckpointError: the JSON is not a tokenizer.
        InputError: ``max_length`` leaves no room for text.
    """

    def __init__(self, tokenizer_json: str, max_length: int, *, token_types: bool = False) -> None:
        tokenizer, _ = open_tokenizer(tokenizer_json, max_length, pairs=False)
        # A tokenizer.json may carry the padding and truncation of whoever saved it.
        tokenizer.no_padding()
        tokenizer.enable_truncation(int(max_length))
        self._tokenizer = tokenizer
        self._json = tokenizer_json
        self._token_types = token_types
        self.max_length = int(max_length)

    def with_max_length(self, max_length: int) -> TextTokenizer:
        """The same tokenizer with another maximum length."""
        if max_length == self.max_length:
            return self
        return TextTokenizer(self._json, max_length, token_types=self._token_types)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that can come out.

        Raises:
            CheckpointError: it cannot tokenise at all.
        """
        special = max((int(ids.max()) for ids in self.encode(["", "a"]).ids if len(ids)), default=-1)
        return max(special, *self.vocabulary.values(), -1) + 1

    @property
    def highest_segment(self) -> int:
        """The highest segment that the post-processor gives to a token of a text."""
        return max((max(encoding.type_ids, default=0) for encoding in encodings(self._tokenizer, ["", "a"])), default=0)

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, texts: Sequence[str], prompt: str = "") -> Tokenized:
        """Return the token ids of each text after the prompt, in order."""
        ids, types, truncated = [], [], []
        for encoding in encodings(self._tokenizer, [prompt + text for text in texts] if prompt else texts):
            ids.append(as_ids(encoding.ids))
            if self._token_types:
                types.append(as_ids(encoding.type_ids))
            # Looking at what was cut off copies it all, so only where something can have been.
            truncated.append(len(encoding) >= self.max_length and bool(encoding.overflowing))
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        return Tokenized(ids, lengths, np.array(truncated, np.bool_), types if self._token_types else None)

    @property
    def special_tokens(self) -> int:
        """How many tokens it adds to a text."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def beginning(self, text: str) -> str:
        """The whole words of a text that its first tokens stand for, up to ``max_length``; the text if that is all.

        Where the last word would be nearly all of it, as where there are no spaces, it ends with a token.
        """
        encoding = self._tokenizer.encode(text)
        if not encoding.overflowing:
            return text
        special = encoding.special_tokens_mask
        end = max((end for (_, end), added in zip(encoding.offsets, special, strict=True) if not added), default=0)
        words = text[:end].split()
        if words and not text[end : end + 1].isspace() and 4 * len(words[-1]) < 3 * sum(map(len, words)):
            words = words[:-1]
        return " ".join(words)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the characters that each token of a text stands for, from and to; (0, 0) for special tokens."""
        return list(self._tokenizer.encode(text).offsets)

    def prompt_length(self, prompt: str) -> int:
        """Leading tokens that a prompt takes: its own and the special ones before it, not those after it."""
        (encoding,) = encodings(self._tokenizer, [prompt])
        return len(encoding.ids) - bool(encoding.special_tokens_mask[-1:] == [1])


def open_tokenizer(tokenizer_json: str, max_length: int, *, pairs: bool) -> tuple[Tokenizer, int]:
    """The Rust tokenizer, and the special tokens that it adds to a text or to a pair; checks that more fit in.

    Raises:
        CheckpointError: the JSON is not a tokenizer.
        InputError: ``max_length`` leaves no room for text.
    """
    try:
        with reported_panics():
            tokenizer = Tokenizer.from_str(tokenizer_json)
            special = tokenizer.num_special_tokens_to_add(is_pair=pairs)
    except Exception as error:  # the Rust side raises plain Exception
        raise CheckpointError(f"tokenizer.json cannot be read: {error!s:.300}") from error
    whole_number("max_seq_length", max_length, special + 1, unit=f"tokens ({special} special ones and one of text)")
    return tokenizer, special


def as_ids(ids: Sequence[int]) -> NDArray[np.int32]:
    """Return token ids, or segments, as an array.

    Raises:
        CheckpointError: one is beyond what any embedding has.
    """
    try:
        return np.array(ids, np.int32)
    except OverflowError as error:
        raise CheckpointError(f"the tokenizer gives a token the number {max(ids)}, which no embedding has") from error


def without_tokens(tokenized: Tokenized, prompt_length: int = 0) -> NDArray[np.intp]:
    """Return the places of the texts that leave pooling nothing, with so many leading tokens left out."""
    return np.flatnonzero(tokenized.lengths <= prompt_length)


def encodings(tokenizer: Tokenizer, texts: Iterable[str], *, add_special_tokens: bool = True) -> Iterator[Encoding]:
    """What the Rust tokenizer makes of each text, in order; keep none of them longer than needed.

    Raises:
        CheckpointError: it cannot encode.
    """
    for piece in chunk_by_characters(texts, min(_CHARACTERS_PER_CORE * (os.cpu_count() or 1), _CHARACTERS)):
        yield from _encode_batch(tokenizer, piece, add_special_tokens=add_special_tokens)


def _encode_batch(tokenizer: Tokenizer, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
    # The many objects that come out start a garbage collection, and JAX has Python code run in every one. An interrupt
    # that came meanwhile would be raised in there, where Python prints and forgets it; so the collection has to wait.
    postponed = threading.current_thread() is threading.main_thread() and gc.isenabled()
    try:
        if postponed:
            gc.disable()
        with reported_panics():
            return tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
    except Exception as error:  # the Rust side raises plain Exception
        raise CheckpointError(f"the tokenizer cannot encode: {error!s:.300}") from error
    finally:
        if postponed:
            gc.enable()


def chunk_by_characters(
    items: Iterable[Item],
    characters: int,
    length: Callable[[Item], int] = len,  # type: ignore[assignment]
) -> Iterator[list[Item]]:
    """Yield consecutive texts of about so many characters together; a longer text comes with those before it.

    Args:
        items: texts, or what holds several each, such as pairs.
        characters: in a piece, about.
        length: characters of an item.
    """
    piece: list[Item] = []
    size = 0
    for item in items:
        piece.append(item)
        size += length(item) + _CHARACTERS_PER_TEXT
        if size >= characters:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def as_text_list(inputs: object) -> list[Any]:
    """The texts of any iterable that has an order, as a list, not checked yet; errors are those of `ordered`."""
    return list(ordered(inputs))


def ordered(inputs: object) -> Iterable[Any]:
    """Return what was given, checked to be an iterable that has an order; nothing is read from it.

    Raises:
        InputError: it is not iterable, has no order, or is a table or an array of other than one axis.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim == 1:
        return inputs.tolist()
    if hasattr(inputs, "columns"):
        raise InputError("expected texts, not a table; give one of its columns")
    if isinstance(inputs, Mapping | Set | bytes | np.ndarray) or not isinstance(inputs, Iterable):
        raise InputError(f"expected a string or several in order, not {type(inputs).__name__}")
    return inputs


def check_texts(texts: Sequence[object], first_index: int = 0) -> list[str]:
    """The same texts, known to be strings that can be encoded.

    Raises:
        InputError: names the first that is not, by its place.
    """
    for index, text in enumerate(texts, start=first_index):
        if not isinstance(text, str):
            raise InputError(f"text {index} is {_describe(text)}, not a string")
        if (place := lone_surrogate(text)) is not None:
            raise InputError(f"text {index} has a lone surrogate at character {place}: not valid Unicode")
    return texts  # type: ignore[return-value]  # each was just checked


def _describe(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__} ({value!r:.40})"
