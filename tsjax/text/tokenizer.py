"""Tokenising of texts with a Rust tokenizer that is never modified after creation, so any number of threads may use it.

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

# Characters per call of the Rust tokenizer. No signal interrupts a call, so it should take a tenth of a second at most,
# on all cores. Its result takes some 50 bytes per character, so there is a bound independent of the number of cores.
_CHARACTERS_PER_CORE = 100_000
_CHARACTERS = 1_000_000
_CHARACTERS_PER_TEXT = 10  # counted for an empty text


class Tokenized(NamedTuple):
    """Tokens of several texts.

    Attributes:
        ids: token ids of each text, special ones included.
        lengths: number of tokens of each text.
        truncated: whether each text had more tokens.
        type_ids: segment of each token; None if all are in segment 0.
    """

    ids: list[NDArray[np.int32]]
    lengths: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    type_ids: list[NDArray[np.int32]] | None = None

    def take(self, places: Sequence[int]) -> Tokenized:
        """Return the texts at these indices."""
        ids = [self.ids[place] for place in places]
        types = None if self.type_ids is None else [self.type_ids[place] for place in places]
        return Tokenized(ids, self.lengths[places], self.truncated[places], types)


class TextTokenizer:
    """A tokenizer with a fixed maximum length.

    Args:
        tokenizer_json: the content of a tokenizer.json file.
        max_length: maximum tokens of a text, special ones included; the rest is cut off and reported.
        token_types: whether to return the segment of each token too, for post-processors that use segments other than
            0.

    Raises:
        CheckpointError: the JSON is not a tokenizer.
        InputError: ``max_length`` leaves no room for text.
    """

    def __init__(self, tokenizer_json: str, max_length: int, *, token_types: bool = False) -> None:
        tokenizer, _ = open_tokenizer(tokenizer_json, max_length, pairs=False)
        # A tokenizer.json may carry the padding and truncation of the process that saved it.
        tokenizer.no_padding()
        tokenizer.enable_truncation(int(max_length))
        self._tokenizer = tokenizer
        self._json = tokenizer_json
        self._token_types = token_types
        self.max_length = int(max_length)

    def with_max_length(self, max_length: int) -> TextTokenizer:
        """Return this tokenizer with another maximum length."""
        if max_length == self.max_length:
            return self
        return TextTokenizer(self._json, max_length, token_types=self._token_types)

    @property
    def vocab_size(self) -> int:
        """Return the highest token id that can occur, plus one.

        Raises:
            CheckpointError: it cannot tokenise at all.
        """
        special = max((int(ids.max()) for ids in self.encode(["", "a"]).ids if len(ids)), default=-1)
        return max(special, *self.vocabulary.values(), -1) + 1

    @property
    def highest_segment(self) -> int:
        """Return the highest segment that the post-processor assigns to a token of a text."""
        return max((max(encoding.type_ids, default=0) for encoding in encodings(self._tokenizer, ["", "a"])), default=0)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, texts: Sequence[str], prompt: str = "") -> Tokenized:
        """Return the token ids of each text after the prompt, in order."""
        ids, types, truncated = [], [], []
        for encoding in encodings(self._tokenizer, [prompt + text for text in texts] if prompt else texts):
            ids.append(as_ids(encoding.ids))
            if self._token_types:
                types.append(as_ids(encoding.type_ids))
            # Reading the overflow copies it, so it is read only if the text may have been truncated.
            truncated.append(len(encoding) >= self.max_length and bool(encoding.overflowing))
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        return Tokenized(ids, lengths, np.array(truncated, np.bool_), types if self._token_types else None)

    @property
    def special_tokens(self) -> int:
        """Return the number of special tokens that it adds to a text."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def beginning(self, text: str) -> str:
        """Return the complete words covered by a text's first ``max_length`` tokens, or the text itself if it fits.

        If the last word would be nearly all of the result, as in text without spaces, the result ends at a token
        instead.
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
        """Return the range of characters of each token of a text, start and end; (0, 0) for special tokens."""
        return list(self._tokenizer.encode(text).offsets)

    def prompt_length(self, prompt: str) -> int:
        """Return the number of leading tokens of a prompt: its own and the special ones before it."""
        (encoding,) = encodings(self._tokenizer, [prompt])
        return len(encoding.ids) - bool(encoding.special_tokens_mask[-1:] == [1])


def open_tokenizer(tokenizer_json: str, max_length: int, *, pairs: bool) -> tuple[Tokenizer, int]:
    """Return the Rust tokenizer, and the number of special tokens that it adds to a text or to a pair.

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
    """Return token ids or segments as an array.

    Raises:
        CheckpointError: a value exceeds int32, the range of any embedding.
    """
    try:
        return np.array(ids, np.int32)
    except OverflowError as error:
        raise CheckpointError(f"the tokenizer gives a token the number {max(ids)}, which no embedding has") from error


def without_tokens(tokenized: Tokenized, prompt_length: int = 0) -> NDArray[np.intp]:
    """Return the indices of texts without tokens to pool after ``prompt_length`` leading tokens are left out."""
    return np.flatnonzero(tokenized.lengths <= prompt_length)


def encodings(tokenizer: Tokenizer, texts: Iterable[str], *, add_special_tokens: bool = True) -> Iterator[Encoding]:
    """Yield the encoding of each text by the Rust tokenizer, in order; keep none longer than needed.

    Raises:
        CheckpointError: the tokenizer cannot encode a text.
    """
    for piece in chunk_by_characters(texts, min(_CHARACTERS_PER_CORE * (os.cpu_count() or 1), _CHARACTERS)):
        yield from _encode_batch(tokenizer, piece, add_special_tokens=add_special_tokens)


def _encode_batch(tokenizer: Tokenizer, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
    # The many result objects trigger a garbage collection, and JAX runs Python code in every collection. An interrupt
    # that arrives there would be raised in that code, where Python prints and discards it, so the collection is
    # postponed.
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
    """Yield consecutive items of about ``characters`` characters in total; a longer item comes with those before it.

    Args:
        items: texts, or items of several texts, such as pairs.
        characters: approximate number of characters in a chunk.
        length: function that returns the characters of an item.
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
    """Return the texts of any ordered iterable as a list, without checking them; errors are those of `ordered`."""
    return list(ordered(inputs))


def ordered(inputs: object) -> Iterable[Any]:
    """Return the inputs after checking that they are an ordered iterable; read nothing from them.

    Raises:
        InputError: they are not iterable, have no order, or are a table or an array with other than one axis.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim == 1:
        return inputs.tolist()
    if hasattr(inputs, "columns"):
        raise InputError("expected texts, not a table; give one of its columns")
    if isinstance(inputs, Mapping | Set | bytes | np.ndarray) or not isinstance(inputs, Iterable):
        raise InputError(f"expected a string or several in order, not {type(inputs).__name__}")
    return inputs


def check_texts(texts: Sequence[object], first_index: int = 0) -> list[str]:
    """Return the same texts after checking that they are strings that can be encoded.

    Raises:
        InputError: a text is not; names the index of the first.
    """
    for index, text in enumerate(texts, start=first_index):
        if not isinstance(text, str):
            raise InputError(f"text {index} is {_describe(text)}, not a string")
        if (place := lone_surrogate(text)) is not None:
            raise InputError(f"text {index} has a lone surrogate at character {place}: not valid Unicode")
    return texts  # type: ignore[return-value]  # each was just checked


def _describe(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__} ({value!r:.40})"
