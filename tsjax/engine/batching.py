"""Batch planning and packing: the texts of each batch, and their places in it.

A compiled program has fixed shapes, so every batch has one of a small set of shapes that is known beforehand
(`BucketShapes`). With ``packed`` shapes the texts of a batch follow each other in its rows, so that there is almost no
padding. Otherwise each text has a row of its own, and texts of similar length share a batch. Batches are bounded by
their tokens, not by their texts, so that long texts do not exhaust memory that is enough for the same number of short
ones.

This module plans and packs; it knows neither texts nor the network, only its `Packing`.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsjax.model.packing import Packing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# A last batch that would be filled less than this is split into several smaller ones.
_LEAST_FILL = 0.75


class Shape(NamedTuple):
    """Shape of a batch: its rows, and the tokens of each row."""

    rows: int
    tokens: int


class Batch(NamedTuple):
    """Texts that are computed together.

    Attributes:
        rows: indices of each row's texts in the input, the longest first; rows without a text are left out.
        shape: shape to which the rows are padded.
    """

    rows: tuple[NDArray[np.intp], ...]
    shape: Shape

    @property
    def indices(self) -> NDArray[np.intp]:
        """Return the indices of the texts, row by row."""
        return np.concatenate(self.rows)


@dataclass(frozen=True)
class BucketShapes:
    """Set of shapes that batches may have.

    Attributes:
        classes: shapes by class, in order of length. The shapes of a class serve the same lengths; its last shape is
            the largest and has the class's length.
        packed: whether a row may hold several texts.
        tokens_a_slot: tokens of a row per slot, if packed; a slot is a place for one text.
    """

    classes: tuple[tuple[Shape, ...], ...]
    packed: bool
    tokens_a_slot: int = 4

    def slots(self, shape: Shape) -> int:
        """Return the number of slots for texts in a row."""
        return max(1, shape.tokens // self.tokens_a_slot) if self.packed else 1

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Return all shapes."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.classes)))

    def at_least(self, length: int, tokens: int = 0) -> tuple[Shape, ...]:
        """Return the shapes for a text of ``length`` tokens, among texts of ``tokens`` tokens in total.

        These are the shapes of the first class that holds the text. If packed texts would fill more than that class,
        they are those of the first class that holds twice the length, since a row that holds one and a half texts is
        one third padding.
        """
        found = next((shapes for shapes in self.classes if length <= shapes[-1].tokens), None)
        assert found is not None, f"no shape holds a text of {length} tokens"
        if self.packed and tokens > found[-1].rows * found[-1].tokens:
            found = next((shapes for shapes in self.classes if 2 * length <= shapes[-1].tokens), found)
        return tuple(shape for shape in found if length <= shape.tokens)


def plan(
    lengths: Sequence[int] | NDArray[np.integer], shapes: BucketShapes, max_texts: int | None = None
) -> Iterator[Batch]:
    """Split texts into batches, longest first; every text is in exactly one batch.

    Args:
        lengths: tokens of each text.
        shapes: allowed shapes.
        max_texts: additional bound on the texts of a batch.
    """
    # An empty text still occupies one token slot.
    exact = np.asarray(lengths, np.int64)
    sizes = np.maximum(exact, 1)
    return _plan_packed(exact, sizes, shapes, max_texts) if shapes.packed else _plan_padded(sizes, shapes, max_texts)


def _plan_packed(
    lengths: NDArray[np.int64], sizes: NDArray[np.int64], shapes: BucketShapes, max_texts: int | None
) -> Iterator[Batch]:
    pool = _Pool(sizes)
    while pool.tokens:
        longest = pool.longest
        tokens = pool.tokens if max_texts is None else min(pool.tokens, max_texts * longest)
        shape = _filled(tokens, shapes.at_least(longest, tokens))
        room = len(sizes) if max_texts is None else max_texts
        rows = []
        for _ in range(shape.rows):
            row = pool.take(shape.tokens, min(room, shapes.slots(shape)))
            if not row:
                break
            room -= len(row)
            texts = np.array(row, np.intp)
            rows.append(texts[np.argsort(-lengths[texts], kind="stable")])
        yield Batch(tuple(rows), shape)


def _filled(tokens: int, shapes: Sequence[Shape]) -> Shape:
    """Return the largest shape that the tokens fill, or the next one if they nearly fill it."""
    capacities = [shape.rows * shape.tokens for shape in shapes]
    enough = min(bisect.bisect_left(capacities, tokens), len(shapes) - 1)
    if enough and tokens < _LEAST_FILL * capacities[enough]:
        return shapes[enough - 1]
    return shapes[enough]


class _Pool:
    """Texts by size, from which rows are filled."""

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        order = np.argsort(sizes, kind="stable")
        self._sizes, first, counts = np.unique(sizes[order], return_index=True, return_counts=True)
        self._left = [order[start : start + count][::-1].tolist() for start, count in zip(first, counts, strict=True)]
        self._available = self._sizes.tolist()
        self._by_size = dict(zip(self._available, self._left, strict=True))
        self.tokens = int(sizes.sum())

    @property
    def longest(self) -> int:
        """Return the size of the longest text."""
        return self._available[-1]

    def take(self, capacity: int, most: int) -> list[int]:
        """Take texts that fill a row as well as possible, and return their indices.

        The longest texts come first; the last one or two are those that best fit the remaining capacity.
        """
        taken: list[int] = []
        while len(taken) < most and (fitting := bisect.bisect_right(self._available, capacity)):
            longest = self._available[fitting - 1]
            sizes: tuple[int, ...] = (longest,)
            if 2 * longest <= capacity < 3 * longest and most - len(taken) > 1:
                sizes = self._best_pair(capacity, fitting)
            for size in sizes:
                taken.append(self._pop(size))
                capacity -= size
        return taken

    def _best_pair(self, capacity: int, fitting: int) -> tuple[int, ...]:
        """Return the one or two sizes with the largest sum that fits."""
        sizes = self._available
        best: tuple[int, ...] = (sizes[fitting - 1],)
        low, high = 0, fitting - 1
        while low <= high:
            pair = (sizes[high], sizes[low])
            if sum(pair) > capacity:
                high -= 1
                continue
            if sum(pair) > sum(best) and (low < high or len(self._by_size[sizes[low]]) > 1):
                best = pair
            low += 1
        return best

    def _pop(self, size: int) -> int:
        texts = self._by_size[size]
        text = texts.pop()
        if not texts:
            del self._available[bisect.bisect_left(self._available, size)]
        self.tokens -= size
        return text


def _plan_padded(sizes: NDArray[np.int64], shapes: BucketShapes, max_texts: int | None) -> Iterator[Batch]:
    """Plan batches of one text per row, class by class.

    Rows that would be padding take the next shorter texts, so a text is padded beyond its own class only where that
    costs nothing. With the longest first, memory runs out at once or not at all.
    """
    order = np.argsort(-sizes, kind="stable")
    descending = -sizes[order]
    borders = [0, *(same[-1].tokens for same in shapes.classes)]
    start = 0
    while start < len(order):
        fitting = shapes.at_least(-int(descending[start]))
        below = borders[bisect.bisect_left(borders, fitting[-1].tokens) - 1]
        own = int(np.searchsorted(descending, -below)) - start  # texts that need this class
        # The shape with the least computation per text; unused rows take shorter texts, if there are any.
        most = min(own, max_texts or own)
        shape = min(fitting, key=lambda shape: (shape.rows * shape.tokens / min(most, shape.rows), shape.rows))
        texts = order[start : start + min(shape.rows, max_texts or shape.rows)]
        yield Batch(tuple(texts[:, None]), shape)
        start += len(texts)


def pack(lengths: NDArray[np.integer], batch: Batch, slots: int) -> Packing:
    """Return the places of a batch's texts, as int32 NumPy arrays.

    Args:
        lengths: tokens of each text of the input.
        batch: the batch to pack.
        slots: slots for texts in a row.
    """
    shape = batch.shape
    segments, positions = np.full(shape, slots, np.int32), np.zeros(shape, np.int32)
    first, count = np.zeros((shape.rows, slots), np.int32), np.zeros((shape.rows, slots), np.int32)
    for row, texts in enumerate(batch.rows):
        own = np.asarray(lengths)[texts]
        starts = np.cumsum(own) - own
        end = int(own.sum())
        segments[row, :end] = np.repeat(np.arange(len(texts)), own)
        positions[row, :end] = np.arange(end) - np.repeat(starts, own)
        first[row, : len(texts)] = starts
        count[row, : len(texts)] = own
    arrays: list[Any] = [segments, positions, first, count]
    return Packing(*arrays)


def fill(values: Sequence[NDArray[np.int32]], batch: Batch, pad: int) -> NDArray[np.int32]:
    """Return one number per token of a batch, such as its id: int32 (rows, tokens), padded with ``pad``."""
    filled = np.full(batch.shape, pad, np.int32)
    for row, texts in enumerate(batch.rows):
        together = np.concatenate([values[text] for text in texts])
        filled[row, : len(together)] = together
    return filled
