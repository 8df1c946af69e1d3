"""Conversion of texts to token sequences for the model: unchanged, truncated, in chunks, or in overlapping windows.

A text is too long if it exceeds the model's own limit. Chunks are cut from a text's tokens. Each gets the prompt and
the special tokens, so no text is tokenised twice. Late chunking: Günther et al., arXiv:2409.04701.
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

# Sentinel: no length limit.
_NO_LIMIT = 2**31 - 1

# The default overlap of two windows is a window's width divided by this number.
_WINDOW_OVERLAP = 4


class Span(NamedTuple):
    """A chunk of a text: its index, its characters from ``start`` to before ``end``, and its number of tokens.

    The number of tokens excludes special tokens and the prompt.
    """

    chunk: int
    start: int
    end: int
    tokens: int


class Window(NamedTuple):
    """A sequence for the model.

    Attributes:
        text: the index of its text in the block.
        parts: for late chunking, the tokens of the sequence that belong to each chunk, as ``(chunk, start, end)``;
            empty if the sequence's own vector is used.
        weight: the weight of its vector in the mean over the text's sequences.
    """

    text: int
    parts: tuple[tuple[int, int, int], ...]
    weight: int


class Sequences(NamedTuple):
    """The sequences of a block of texts.

    Attributes:
        tokenized: the sequences.
        windows: the description of each sequence.
        spans: for late chunking, the chunks of each text; None otherwise.
        rejected: the reason for each rejected text, by the text's index.
        truncated: number of truncated texts.
        chunked: number of texts with more than one chunk.
    """

    tokenized: Tokenized
    windows: list[Window]
    spans: list[tuple[Span, ...]] | None
    rejected: dict[int, str]
    truncated: int
    chunked: int

    @property
    def one_each(self) -> bool:
        """Return whether every text is one sequence whose own vector is used."""
        return self.spans is None and not self.rejected and not self.chunked

    def among(self, texts: int, places: Sequence[int], rejected: Mapping[int, str]) -> Sequences:
        """Return the sequences of the complete block, given that these are the sequences of some of its texts.

        Args:
            texts: number of texts in the block.
            places: the index in the block of each text that has sequences.
            rejected: the reasons for which the other texts are rejected, by their index in the block.
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
    """The conversion of texts to sequences. Safe to use from many threads.

    Args:
        model: the model, with its tokenizer, length limit and prompt.
        options: the treatment of long texts.

    Raises:
        InputError: the model cannot take chunks of this size, or late chunking is used with a model that does not
            pool by the mean.
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
        """Compute the number of tokens before, in and after a chunk, and the overlap of chunks."""
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
        """Return the sequences for these texts."""
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
        """Return the start and the end (exclusive) of each window of a text with ``length`` tokens."""
        starts = range(0, max(1, length - self._overlap), self._width - self._overlap)
        return [(start, min(start + self._width, length)) for start in starts]

    def _own(self, length: int) -> list[tuple[int, int]]:
        """Return the token range that each window contributes.

        The overlap of two windows is divided in the middle, so that each token has most of its context.
        """
        windows = self._windows(length)
        borders = [(end + start) // 2 for (_, end), (start, _) in itertools.pairwise(windows)]
        return list(zip([0, *borders], [*borders, length], strict=True))

    def _between(self, whole: int, start: int, end: int) -> NDArray[np.intp]:
        """Return the positions of a text's tokens from ``start`` to ``end``, with the prompt and special tokens.

        ``whole`` is the length of the text's sequence.
        """
        own = np.arange(self._before + start, self._before + end)
        return np.concatenate([np.arange(self._before), own, np.arange(whole - self._after, whole)])

    def _spans(self, text: str, chunks: list[tuple[int, int]]) -> tuple[Span, ...]:
        """Return the spans of chunks, with token ranges converted to characters of the text."""
        offsets = self._whole.offsets(self._prompt + text)[self._before :]
        shift = len(self._prompt)
        return tuple(
            Span(number, max(0, offsets[start][0] - shift), max(0, offsets[end - 1][1] - shift), end - start)
            for number, (start, end) in enumerate(chunks)
        )


def _gathered(tokenized: Tokenized, windows: Sequence[Window], places: Sequence[NDArray[np.intp]]) -> Tokenized:
    """Return the tokens of each window, selected by their positions in its text."""
    texts = [window.text for window in windows]

    def gathered(values: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        return [values[text][own] for text, own in zip(texts, places, strict=True)]

    ids = gathered(tokenized.ids)
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    types = None if tokenized.type_ids is None else gathered(tokenized.type_ids)
    return Tokenized(ids, lengths, np.zeros(len(ids), np.bool_), types)
