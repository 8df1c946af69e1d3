"""Batches of few shapes: which texts go together, how many rows, how many tokens.

A compiled program has fixed shapes, so every batch is padded to one of a small set that is known beforehand: lengths
come from a ladder of buckets, rows from another. A batch is bounded by its tokens, not by its rows, so that long texts
do not exhaust the memory that as many short ones need.

This file plans and pads; it knows neither text nor network. A better plan replaces `plan` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_ROW_STEP = 4

# Attention's memory grows with the square of the length: beyond this one, a token counts for more than one.
_LINEAR_UP_TO = 512


class Shape(NamedTuple):
    """Shape of a batch."""

    rows: int
    tokens: int


class Batch(NamedTuple):
    """Texts that are computed together: their places in the input, and the shape that they are padded to."""

    indices: NDArray[np.intp]
    shape: Shape


@dataclass(frozen=True)
class ShapeLadder:
    """The set of shapes that batches may have.

    Attributes:
        max_length: the longest text in tokens; the last bucket.
        token_budget: the most tokens of a batch, padding included; the tokens of a text of T > 512 count T/512-fold,
            and a single text of any length is a batch.
    """

    max_length: int
    token_budget: int

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that texts are padded to: powers of two from 16, and ``max_length`` itself."""
        return (*(length for length in _LENGTHS if length < self.max_length), self.max_length)

    def rows(self, length: int) -> tuple[int, ...]:
        """Row counts for a length, rising: powers of 4, and as many as the budget allows."""
        most = max(1, self.token_budget * _LINEAR_UP_TO // (length * max(length, _LINEAR_UP_TO)))
        rows = [1]
        while rows[-1] * _ROW_STEP < most:
            rows.append(rows[-1] * _ROW_STEP)
        return tuple(rows) if most == 1 else (*rows, most)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape that a batch can have."""
        return tuple(Shape(rows, length) for length in self.lengths for rows in self.rows(length))

    def bucket(self, length: int) -> int:
        """The smallest length of the ladder that holds a text of so many tokens."""
        return self.lengths[int(np.searchsorted(self.lengths, length))]


def plan(
    lengths: Sequence[int] | NDArray[np.integer], ladder: ShapeLadder, max_rows: int | None = None
) -> Iterator[Batch]:
    """Cut texts into batches, longest first; every text is in exactly one.

    Each bucket's texts fill batches of their own. Rows that would be padding take the next shorter texts, so a text is
    padded beyond its own bucket only where that costs nothing. Longest first means that memory runs out at once or not
    at all.

    Args:
        lengths: tokens of each text.
        ladder: the shapes allowed.
        max_rows: a further bound on the rows of a batch.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order]
    start = 0
    while start < len(order):
        tokens = ladder.bucket(int(descending[start]))
        below = max((length for length in ladder.lengths if length < tokens), default=0)
        own = int(np.searchsorted(-descending, -below)) - start  # texts that need this bucket
        allowed = [rows for rows in ladder.rows(tokens) if max_rows is None or rows <= max_rows] or [1]
        rows = _rows_for(own, allowed)
        yield Batch(order[start : start + rows], Shape(rows, tokens))
        start += rows


def _rows_for(remaining: int, allowed: Sequence[int]) -> int:
    """The most rows that ``remaining`` texts fill, or a step more where that leaves at most half of them empty."""
    filled = [rows for rows in allowed if rows <= remaining]
    larger = [rows for rows in allowed if rows > remaining]
    return larger[0] if larger and larger[0] <= 2 * remaining else filled[-1]


def pad(values: Sequence[NDArray[np.int32]], batch: Batch, pad_id: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """A batch's token ids, or another number a token, as one array.

    Returns:
        values int32 (rows, tokens), filled up with ``pad_id``, and lengths int32 (rows,), 0 for rows without a text.
    """
    rows, tokens = batch.shape
    padded = np.full((rows, tokens), pad_id, np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, index in enumerate(batch.indices):
        text = values[index]
        padded[row, : len(text)] = text
        lengths[row] = len(text)
    return padded, lengths
