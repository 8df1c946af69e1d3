"""Texts as the token sequences that the model is given: as they are, cut, in chunks, or in overlapping windows.

The model's own limit decides what is too long. Chunks are cut out of a text's tokens, each between the special tokens
and behind the prompt, so that no text is tokenised twice. Late chunking: Günther et al., arXiv:2409.04701.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tsjax.errors import NO_TOKENS, InputError
from tsjax.text.tokenizer import Tokenized, without_tokens
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tsjax.jobs.job import Model, Options

# Tokens that no text has.
_NO_LIMIT = 2**31 - 1

# Tokens that windows share where nobody says, as a part of a window.
_WINDOW_OVERLAP = 4


class Span(NamedTuple):
    """A chunk of a text: its place among the chunks, its characters from ``start`` to before ``end``, its tokens.

    The tokens are the text's own, special ones and the prompt not counted.
    """

    chunk: int
    start: int
    end: int
    tokens: int


class Window(NamedTuple):
    """A sequence that the model is given.

    Attributes:
        text: which text of the block it is of.
        parts: for late chunking, which tokens of the sequence go to which chunk: ``(chunk, start, end)``; empty where
            the sequence's own vector is wanted.
        weight: what its vector counts for in the mean of its text's.
    """

    text: int
    parts: tuple[tuple[int, int, int], ...]
    weight: int


class Sequences(NamedTuple):
    """A block of texts as sequences.

    Attributes:
        tokenized: the sequences.
        windows: what each is.
        spans: for late chunking, the chunks of each text; None otherwise.
        rejected: why a text is not embedded, by its place.
        truncated: texts that lost their end.
        chunked: texts of more than one chunk.
    """

    tokenized: Tokenized
    windows: list[Window]
    spans: list[tuple[Span, ...]] | None
    rejected: dict[int, str]
    truncated: int
    chunked: int

    @property
    def one_each(self) -> bool:
        """Whether every text is one sequence, whose own vector is wanted."""
        return self.spans is None and not self.rejected and not self.chunked

    def among(self, texts: int, places: Sequence[int], rejected: Mapping[int, str]) -> Sequences:
        """Return the same, of texts that were some of a block's.

        Args:
            texts: how many the block has.
            places: of each text in the block.
            rejected: why the others are not embedded, by their places in the block.
        """
        spans: list[tuple[Span, ...]] | None = None
        if self.spans is not None:
            by_place = dict(zip(places, self.spans, strict=True))
            spans = [by_place.get(text, ()) for text in range(texts)]
        return self._replace(
            windows=[window._replace(text=places[window.text]) for window in self.windows],
            spans=spans,
            rejected={**{places[text]: reason for text, reason in self.rejected.items()}, **rejected},
        )


class Cutter:
    """Makes sequences of texts. Safe to use from many threads.

    Args:
        model: whose tokenizer, limit and prompt.
        options: what becomes of long texts.

    Raises:
        InputError: chunks that the model cannot take, or late chunking of a model that does not pool by the mean.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self._prompt, self._options = model.prompt, options
        pipeline = model.embedder.pipeline
        self._tokenizer = tokenizer = pipeline.tokenizer
        self._limit = pipeline.max_length
        self._left_out = pipeline.prompt_length(self._prompt)
        self._whole = tokenizer if options.long_texts == "cut" else tokenizer.with_max_length(_NO_LIMIT)
        self._make = {"cut": self._cut, "reject": self._reject, "chunk": self._chunk, "late": self._late}[
            options.long_texts
        ]
        if options.long_texts in ("chunk", "late"):
            self._measure()
        if options.long_texts == "late":
            config = model.embedder.metadata.model
            if config.pooling.modes != ("mean",) or any(head.kind != "normalize" for head in config.heads):
                raise InputError(
                    "late chunking pools tokens by the mean, and this model does not end so; choose to chunk instead"
                )

    def _measure(self) -> None:
        """What stands before and after a chunk's tokens, and how many of these there are."""
        special = len(self._whole.encode([""]).ids[0])
        self._before = self._tokenizer.prompt_length(self._prompt)
        self._after = special - self._tokenizer.prompt_length("")
        room = self._limit - self._before - self._after
        chunking = self._options.long_texts == "chunk"
        wanted = self._options.chunk_tokens if chunking else None
        if room < (wanted or 1):
            raise InputError(
                f"max_seq_length = {self._limit} leaves {counted(max(0, room), 'token')} for a chunk beside special "
                f"ones and the prompt{'' if wanted is None else f', not {wanted}'}"
            )
        self._width = wanted or room
        self._overlap = self._options.overlap_tokens
        if not chunking and not self._overlap:
            self._overlap = self._width // _WINDOW_OVERLAP
        if self._overlap >= self._width:
            raise InputError(f"chunks or windows of {counted(self._width, 'token')} cannot share {self._overlap}")

    def sequences(self, texts: Sequence[str]) -> Sequences:
        """What the model is given for these texts."""
        tokenized = self._whole.encode(texts, self._prompt)
        empty = without_tokens(tokenized, self._left_out)
        if not len(empty):
            return self._make(texts, tokenized)
        kept = np.setdiff1d(np.arange(len(texts)), empty).tolist()
        made = self._make([texts[text] for text in kept], tokenized.take(kept))
        return made.among(len(texts), kept, dict.fromkeys(empty.tolist(), NO_TOKENS))

    def _cut(self, texts: Sequence[str], tokenized: Tokenized) -> Sequences:
        windows = [Window(text, (), 1) for text in range(len(texts))]
        return Sequences(tokenized, windows, None, {}, int(tokenized.truncated.sum()), 0)

    def _reject(self, texts: Sequence[str], tokenized: Tokenized) -> Sequences:
        del texts
        lengths = tokenized.lengths.tolist()
        rejected = {
            text: f"{length} tokens, more than {self._limit}"
            for text, length in enumerate(lengths)
            if length > self._limit
        }
        kept = [text for text in range(len(lengths)) if text not in rejected]
        return Sequences(tokenized.take(kept), [Window(text, (), 1) for text in kept], None, rejected, 0, 0)

    def _chunk(self, texts: Sequence[str], tokenized: Tokenized) -> Sequences:
        del texts
        places, windows, chunked = [], [], 0
        for text, length in enumerate(tokenized.lengths.tolist()):
            if length <= self._limit:
                places.append(np.arange(length))
                windows.append(Window(text, (), 1))
                continue
            chunked += 1
            for start, end in self._windows(length - self._before - self._after):
                places.append(self._between(length, start, end))
                windows.append(Window(text, (), end - start))
        return Sequences(_gathered(tokenized, windows, places), windows, None, {}, 0, chunked)

    def _late(self, texts: Sequence[str], tokenized: Tokenized) -> Sequences:
        places, windows, chunked = [], [], 0
        spans: list[tuple[Span, ...]] = []
        size = self._options.late_chunk_tokens
        for text, whole in enumerate(tokenized.lengths.tolist()):
            length = whole - self._before - self._after
            if whole <= self._limit and length <= size:
                places.append(np.arange(whole))
                windows.append(Window(text, (), 1))
                spans.append((Span(0, 0, len(texts[text]), max(0, length)),))
                continue
            chunked += 1
            starts = range(0, length, size)
            spans.append(self._spans(texts[text], [(start, min(start + size, length)) for start in starts]))
            for (start, end), (first, last) in zip(self._windows(length), self._own(length), strict=True):
                places.append(self._between(whole, start, end))
                place = self._before - start
                parts = [
                    (chunk, max(first, chunk * size) + place, min(last, (chunk + 1) * size) + place)
                    for chunk in range(first // size, -(-last // size))
                ]
                windows.append(Window(text, tuple(parts), 1))
        return Sequences(_gathered(tokenized, windows, places), windows, spans, {}, 0, chunked)

    def _windows(self, length: int) -> list[tuple[int, int]]:
        """The first token of each window of a text of so many, and the one after its last."""
        starts = range(0, max(1, length - self._overlap), self._width - self._overlap)
        return [(start, min(start + self._width, length)) for start in starts]

    def _own(self, length: int) -> list[tuple[int, int]]:
        """The tokens that each window gives: what two share is halved, so that each token has most of its context."""
        windows = self._windows(length)
        borders = [(end + start) // 2 for (_, end), (start, _) in itertools.pairwise(windows)]
        return list(zip([0, *borders], [*borders, length], strict=True))

    def _between(self, whole: int, start: int, end: int) -> NDArray[np.intp]:
        """Places of some of a text's own tokens, with the prompt and the special ones, in a text of so many tokens."""
        own = np.arange(self._before + start, self._before + end)
        return np.concatenate([np.arange(self._before), own, np.arange(whole - self._after, whole)])

    def _spans(self, text: str, chunks: list[tuple[int, int]]) -> tuple[Span, ...]:
        """Chunks of tokens as characters of the text."""
        offsets = self._whole.offsets(self._prompt + text)[self._before :]
        shift = len(self._prompt)
        return tuple(
            Span(number, max(0, offsets[start][0] - shift), max(0, offsets[end - 1][1] - shift), end - start)
            for number, (start, end) in enumerate(chunks)
        )


def _gathered(tokenized: Tokenized, windows: Sequence[Window], places: Sequence[NDArray[np.intp]]) -> Tokenized:
    """The tokens of each window, by their places in its text."""
    texts = [window.text for window in windows]

    def gathered(values: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        return [values[text][own] for text, own in zip(texts, places, strict=True)]

    ids = gathered(tokenized.ids)
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    types = None if tokenized.type_ids is None else gathered(tokenized.type_ids)
    return Tokenized(ids, lengths, np.zeros(len(ids), np.bool_), types)
