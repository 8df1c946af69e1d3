"""Conversion of vectors to the precision that a job stores, and back to float32 for comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import ml_dtypes
import numpy as np

from tsjax.encoders.quantization import quantize_embeddings
from tsjax.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

StoredPrecision: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "uint8", "binary", "ubinary"]

CALIBRATED = ("int8", "uint8")
_BITS = ("binary", "ubinary")


def check_stored_precision(precision: str, file_format: str) -> None:
    """Raise an InputError if a precision does not exist, or if the file format cannot store it."""
    if precision not in get_args(StoredPrecision):
        raise InputError(f"precision {precision!r} does not exist; it can be {', '.join(get_args(StoredPrecision))}")
    if precision == "bfloat16" and file_format == "npy":
        raise InputError("NumPy has no bfloat16; store float16, or bfloat16 in Parquet")


def stored_dtype(precision: StoredPrecision) -> np.dtype[Any]:
    """Return the NumPy type of the stored numbers.

    None of the formats supports bfloat16. It is stored as float32 whose last 16 bits are zero, which Parquet
    compresses away.
    """
    kinds = {"bfloat16": "float32", "binary": "int8", "ubinary": "uint8"}
    return np.dtype(kinds.get(precision, precision))


def stored_width(precision: StoredPrecision, dimension: int) -> int:
    """Return the number of stored numbers of a vector: the dimension, or an eighth of it for one bit each."""
    return -(-dimension // 8) if precision in _BITS else dimension


def ranges_of(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Return the minimum and maximum of each dimension, as JSON values that convert back to the same float32."""
    return [[float(value) for value in row] for row in (vectors.min(axis=0), vectors.max(axis=0))]


def to_stored(
    vectors: NDArray[np.float32], precision: StoredPrecision, ranges: list[list[float]] | None
) -> NDArray[Any]:
    """Return vectors in the stored precision: (n, `stored_width`) of `stored_dtype`.

    Args:
        vectors: float32 (n, D).
        precision: the stored precision.
        ranges: the minimum and maximum of each dimension, for int8 and uint8. Values outside are clipped.
    """
    if precision == "float16":
        return vectors.astype(np.float16)
    if precision == "bfloat16":
        return vectors.astype(ml_dtypes.bfloat16).astype(np.float32)
    return quantize_embeddings(vectors, precision, ranges)


def to_float(
    stored: NDArray[Any], precision: StoredPrecision, dimension: int, ranges: list[list[float]] | None
) -> NDArray[np.float32]:
    """Return stored vectors as float32 (n, D): exact, the middle of a quantisation step, or ±1 for bits."""
    if precision in _BITS:
        unsigned = stored.astype(np.int16) + 128 if precision == "binary" else stored
        bits = np.unpackbits(unsigned.astype(np.uint8), axis=-1, count=dimension)
        return bits.astype(np.float32) * 2 - 1
    if precision in CALIBRATED:
        assert ranges is not None  # every job with these precisions has ranges
        low, high = np.asarray(ranges, np.float32)
        levels = stored.astype(np.float32) + (128 if precision == "int8" else 0)
        return ((levels + np.float32(0.5)) * ((high - low) / np.float32(255)) + low).astype(np.float32)
    return stored.astype(np.float32)
