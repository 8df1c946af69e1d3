"""Bucket shapes that suit a device: few, since each is a program to compile, and still with little padding.

A token budget applies to each device; all devices get the same number of rows.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tsjax.engine.batching import BucketShapes, Shape

if TYPE_CHECKING:
    from tsjax.model.kernels.dispatch import Kernel

# The memory of attention grows with the square of the length: beyond this length, a token counts for more than one.
_LINEAR_UP_TO = 512


def packed_shapes(max_length: int, budget: int, devices: int = 1) -> BucketShapes:
    """Return shapes for CPUs: one packed row per device.

    The longest row fills the budget; shorter ones are for the last texts. Above the budget there is a row length
    for every half octave, so that a long text's batch has room for short ones.
    """
    longest = max(budget // max_length * max_length, min(budget, max_length))  # full of texts of the maximum length
    rows = [*itertools.takewhile(lambda tokens: tokens < longest, _powers(16)), longest]
    beyond = [tokens for tokens in _half_octaves(longest, max_length) if tokens > longest]
    shapes = (tuple(Shape(devices, tokens) for tokens in rows), *((Shape(devices, tokens),) for tokens in beyond))
    return BucketShapes(shapes, packed=True)


def padded_shapes(max_length: int, budget: int, devices: int = 1) -> BucketShapes:
    """Return shapes of one text per row: many lengths for bulk, and a few, a sixteenth as large, for small batches."""
    usual = (16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512)
    lengths = [*(length for length in (*usual, *_powers(1024)) if length < max_length), max_length]
    small_batch_lengths = [length for length in lengths if length in (32, 128, max_length)]

    def of(length: int, tokens: int) -> Shape:
        count = tokens * _LINEAR_UP_TO // (length * max(length, _LINEAR_UP_TO))
        return Shape(max(1, count) * devices, length)

    classes = []
    for length in lengths:
        little = of(next(longer for longer in small_batch_lengths if length <= longer), budget // 16)
        classes.append(tuple(dict.fromkeys((little, of(length, budget)))))
    return BucketShapes(tuple(classes), packed=False)


def uniform_shapes(max_length: int, budget: int, devices: int = 1) -> BucketShapes:
    """Return shapes of one text per row, with one row count per length: for training, where batches are full anyway."""
    lengths = [*(length for length in (32, 64, 96, 128, 192, 256, 320, 384, *_powers(512)) if length < max_length)]
    counts = {n: max(1, budget * _LINEAR_UP_TO // (n * max(n, _LINEAR_UP_TO))) for n in (*lengths, max_length)}
    return BucketShapes(tuple((Shape(count * devices, length),) for length, count in counts.items()), packed=False)


def multi_row_shapes(max_length: int, budget: int, devices: int = 1) -> BucketShapes:
    """Return shapes for TPUs: packed rows of a few lengths, each a multiple of 128, with two row counts for each.

    The longest rows hold two texts of the maximum length, up to 1,024 tokens; beyond that, attention costs more than
    padding.
    """
    longest = -(-max_length // 128) * 128
    lengths = [length for length in (128, 512, *_powers(1024)) if length < max_length]
    classes = []
    for length in dict.fromkeys([*lengths, longest, *([1024] if 256 < max_length <= 512 else [])]):
        most = max(1, budget // length)
        classes.append(tuple(Shape(count * devices, length) for count in sorted({max(1, most // 16), most})))
    # A slot costs a little on a TPU, so there is one per 16 tokens; shorter texts leave padding.
    return BucketShapes(tuple(classes), packed=True, tokens_a_slot=16)


# Kernels whose attention knows the texts of a row get packed shapes.
_BY_KERNEL = {
    "windows": packed_shapes,
    "splash": multi_row_shapes,
    "cudnn": padded_shapes,
    "xla": padded_shapes,
    "mapped": uniform_shapes,
}


def bucket_shapes(kernel: Kernel, max_length: int, budget: int, devices: int = 1) -> BucketShapes:
    """Return the bucket shapes that suit an attention kernel.

    Args:
        kernel: attention kernel.
        max_length: maximum tokens of a text.
        budget: maximum tokens of a batch on each device, unless one text has more.
        devices: number of devices that share the rows.
    """
    return _BY_KERNEL[kernel](max_length, budget, devices)


def _powers(first: int) -> list[int]:
    return [first << i for i in range(12)]


def _half_octaves(above: int, up_to: int) -> list[int]:
    steps = sorted(itertools.chain.from_iterable((tokens, tokens * 3 // 2) for tokens in _powers(16)))
    return [*(tokens for tokens in steps if above < tokens < up_to), up_to]
