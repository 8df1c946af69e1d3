"""Embedding of blocks of rows without a pause: the device receives the next block before the current one ends.

The vectors of a block depend on the block and on earlier blocks of the same shard, never on another shard.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tsjax.encoders.similarity import normalize
from tsjax.engine.prefetch import prefetch_map
from tsjax.jobs.input.columns import Rejection, Row
from tsjax.jobs.run.long_texts import Cutter, Sequences, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from tsjax.engine.executor import Computed
    from tsjax.jobs.job import Model, Options
    from tsjax.jobs.plan import ShardKey
    from tsjax.text.tokenizer import Tokenized


@dataclass
class Seen:
    """The texts of a shard so far, by hash, with their results. An instance lasts as long as its shard.

    Attributes:
        places: the index of each text in ``results``, by the text's hash, in the order of first occurrence.
        results: the vectors of each text, (chunks, D), with its spans, or the reason for its rejection.
    """

    places: dict[bytes, int] = field(default_factory=dict)
    results: list[_Result | None] = field(default_factory=list)


class _Result(NamedTuple):
    vectors: NDArray[np.float32]
    spans: tuple[Span, ...] | None
    reason: str | None


class Block(NamedTuple):
    """Consecutive rows of a shard.

    Attributes:
        key: the shard.
        rows: rows that can be embedded and rows that cannot, in order.
        seen: the shard's texts so far.
        final: whether the block is the last of its shard.
        last: whether a final block's shard is the last of its group.
        read: approximate number of input bytes that the block was read from.
        left: approximate number of bytes of this worker's input after the block.
    """

    key: ShardKey
    rows: list[Row | Rejection]
    seen: Seen
    final: bool
    last: bool
    read: int
    left: int


class Embedded(NamedTuple):
    """A block with its vectors.

    Attributes:
        block: the block.
        rows: the row of each vector.
        vectors: float32 (n, D).
        spans: the span of each vector; None unless each chunk has its own vector.
        rejected: the rows without a vector, in order.
        tokens: number of computed tokens, without padding.
        truncated: number of truncated texts.
        chunked: number of texts with more than one chunk.
        duplicates: number of rows that share the vector of another row.
    """

    block: Block
    rows: list[Row]
    vectors: NDArray[np.float32]
    spans: list[Span] | None
    rejected: list[Rejection]
    tokens: int
    truncated: int
    chunked: int
    duplicates: int


@dataclass
class _Piece:
    """A block in progress: its sequences and the results so far."""

    block: Block
    places: list[int]  # index of each embeddable row's text in the shard's results; empty if each row has one sequence
    sequences: Sequences
    offset: int = 0
    vectors: NDArray[np.float32] | None = None
    sums: list[NDArray[np.float32] | None] = field(default_factory=list)
    left: int = 0


class Computer:
    """The embedding of blocks of rows.

    Args:
        model: the model.
        options: the treatment of long texts and duplicates, and whether vectors are normalised.

    Raises:
        InputError: the model cannot take chunks of this size; see `Cutter`.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self._model, self._options = model, options
        self._cutter = Cutter(model, options)
        self._config = model.embedder.metadata.model
        self._late = options.long_texts == "late"

    @property
    def block_characters(self) -> int:
        """Return the approximate number of characters that a block should have."""
        return self._model.embedder.pipeline.block_characters

    def run(self, blocks: Iterable[Block], progress: Callable[[int], object] | None = None) -> Iterator[Embedded]:
        """Yield the blocks with their vectors. Each block is tokenised while the device works on earlier blocks.

        Args:
            blocks: blocks in the order of the input; the blocks of a shard are consecutive.
            progress: called with the number of sequences in each finished batch.

        Raises:
            InputError: vectors are not finite.
        """
        waiting: collections.deque[_Piece] = collections.deque()
        offset = 0

        with contextlib.closing(prefetch_map(self._prepare, blocks)) as prepared:

            def pieces() -> Iterator[Tokenized]:
                nonlocal offset
                for piece in prepared:
                    piece.offset, piece.left = offset, len(piece.sequences.windows)
                    piece.sums = [None] * piece.left if self._late else []
                    piece.vectors = np.empty((piece.left, self._config.embedding_dimension), np.float32)
                    offset += piece.left
                    waiting.append(piece)
                    yield piece.sequences.tokenized

            computed = self._model.embedder.pipeline.compute(
                pieces(),
                self._model.temperature,
                prompt=self._model.prompt,
                with_tokens=self._late,
                progress=progress,
            )
            for batch in computed:
                self._take(batch, waiting)
                while waiting and not waiting[0].left:
                    yield self._finish(waiting.popleft())
            while waiting:
                assert not waiting[0].left  # everything has been computed
                yield self._finish(waiting.popleft())

    def _prepare(self, block: Block) -> _Piece:
        """Return the block with the sequences of the texts that are new to the shard."""
        rows = [row for row in block.rows if isinstance(row, Row)]
        seen = block.seen
        if not self._options.deduplicate:
            sequences = self._cutter.sequences([row.text for row in rows])
            if sequences.one_each:
                return _Piece(block, [], sequences)
            start = len(seen.results)
            places = list(range(start, start + len(rows)))
            seen.results.extend([None] * len(rows))
            return _Piece(block, places, sequences)
        places, new = [], []
        for row in rows:
            digest = hashlib.blake2b(row.text.encode(), digest_size=16).digest()
            place = seen.places.setdefault(digest, len(seen.results))
            if place == len(seen.results):
                seen.results.append(None)
                new.append(row.text)
            places.append(place)
        return _Piece(block, places, self._cutter.sequences(new))

    def _take(self, batch: Computed, waiting: Iterable[_Piece]) -> None:
        """Assign a batch's vectors to their sequences. All sequences of a batch belong to one piece."""
        first = int(batch.indices[0])
        piece = next(piece for piece in waiting if piece.offset <= first < piece.offset + len(piece.sequences.windows))
        places = batch.indices - piece.offset
        assert piece.vectors is not None
        piece.vectors[places] = batch.embeddings
        if batch.tokens is not None:
            for place, tokens in zip(places.tolist(), batch.tokens, strict=True):
                # Keep only the sums, because the token vectors of a long text would take much memory.
                parts = piece.sequences.windows[place].parts
                piece.sums[place] = np.stack([tokens[a:b].sum(axis=0) for _, a, b in parts]) if parts else None
        piece.left -= len(places)

    def _finish(self, piece: _Piece) -> Embedded:
        """Return a block's rows with their vectors."""
        block, sequences, results = piece.block, piece.sequences, piece.block.seen.results
        rows = [row for row in block.rows if isinstance(row, Row)]
        if sequences.one_each and not self._options.deduplicate:
            return self._finished_alike(piece, rows)
        new = list(dict.fromkeys(place for place in piece.places if results[place] is None))
        for place, outcome in zip(new, self._results(piece, len(new)), strict=True):
            results[place] = outcome
        kept, vectors, reasons = [], [], {}
        spans: list[Span] = []
        for row, place in zip(rows, piece.places, strict=True):
            result = results[place]
            assert result is not None
            if result.reason is not None:
                reasons[id(row)] = result.reason
                continue
            kept.extend([row] * len(result.vectors))
            vectors.append(result.vectors)
            spans.extend(result.spans or ())
        rejected = [
            row if isinstance(row, Rejection) else Rejection(row.file, row.row, None, reasons[id(row)])
            for row in block.rows
            if isinstance(row, Rejection) or id(row) in reasons
        ]
        if not self._options.deduplicate:
            for place in piece.places:  # free the results, which are not used again
                results[place] = _TAKEN
        width = self._model.embedder.embedding_dimension
        return Embedded(
            block=block,
            rows=kept,
            vectors=np.concatenate(vectors) if vectors else np.zeros((0, width), np.float32),
            spans=spans if self._late else None,
            rejected=rejected,
            tokens=int(sequences.tokenized.lengths.sum()),
            truncated=sequences.truncated,
            chunked=sequences.chunked,
            duplicates=len(rows) - len(new),
        )

    def _finished_alike(self, piece: _Piece, rows: list[Row]) -> Embedded:
        """Return a block's rows with their vectors, one for each row.

        This is the fast path of `_finish`. It covers most jobs and does no work on single rows.
        """
        assert piece.vectors is not None
        return Embedded(
            block=piece.block,
            rows=rows,
            vectors=self._ended(piece.vectors),
            spans=None,
            rejected=[row for row in piece.block.rows if isinstance(row, Rejection)],
            tokens=int(piece.sequences.tokenized.lengths.sum()),
            truncated=piece.sequences.truncated,
            chunked=0,
            duplicates=0,
        )

    def _results(self, piece: _Piece, texts: int) -> Iterator[_Result]:
        """Yield the result of each of a block's new texts."""
        sequences, vectors = piece.sequences, piece.vectors
        assert vectors is not None
        of_text: list[list[int]] = [[] for _ in range(texts)]
        for place, window in enumerate(sequences.windows):
            of_text[window.text].append(place)
        finished = self._ended(vectors)
        for text, places in enumerate(of_text):
            spans = None if sequences.spans is None else sequences.spans[text]
            if reason := sequences.rejected.get(text):
                yield _Result(finished[:0], spans, reason)
            elif len(places) == 1 and not sequences.windows[places[0]].parts:
                yield _Result(finished[places], spans, None)
            elif spans is None:
                weights = np.array([sequences.windows[place].weight for place in places], np.float32)[:, None]
                mean = (vectors[places] * weights).sum(axis=0, keepdims=True) / weights.sum()
                yield _Result(self._ended(mean, unit=bool(self._config.heads)), spans, None)
            else:
                yield _Result(self._ended(self._pooled(piece, places, len(spans)), unit=True), spans, None)

    def _pooled(self, piece: _Piece, places: list[int], chunks: int) -> NDArray[np.float32]:
        """Return the mean of each chunk's token vectors, float32 (chunks, D)."""
        total = np.zeros((chunks, self._config.embedding_dimension), np.float32)
        count = np.zeros((chunks, 1), np.float32)
        for place in places:
            sums = piece.sums[place]
            assert sums is not None
            for (chunk, start, end), part in zip(piece.sequences.windows[place].parts, sums, strict=True):
                total[chunk] += part
                count[chunk] += end - start
        return total / count

    def _ended(self, vectors: NDArray[np.float32], *, unit: bool = False) -> NDArray[np.float32]:
        """Return the vectors, cut to the output dimension and normalised if the options say so.

        With ``unit``, vectors that are means are first normalised again, if the model ends by normalising.
        """
        if unit and any(head.kind == "normalize" for head in self._config.heads[-1:]):
            vectors = normalize(vectors)
        width = self._model.embedder.embedding_dimension
        vectors = np.ascontiguousarray(vectors[:, :width])
        return normalize(vectors) if self._options.normalize else vectors


_TAKEN = _Result(np.zeros((0, 0), np.float32), None, None)
