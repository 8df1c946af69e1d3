"""Quantized embeddings: the scalar and binary precisions of sentence-transformers, bit for bit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args, overload

import numpy as np

from tsjax.errors import InputError
from tsjax.validation.keywords import strict_keywords

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    QuantizedVectors: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]

logger = logging.getLogger("tsjax")

# Fewer embeddings than this are a poor estimate of the range of a dimension.
_FEW = 100

Precision: TypeAlias = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@overload
def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Literal["float32"],
    ranges: ArrayLike | None = ...,
    calibration_embeddings: ArrayLike | None = ...,
) -> NDArray[np.float32]: ...
@overload
def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Literal["int8", "binary"],
    ranges: ArrayLike | None = ...,
    calibration_embeddings: ArrayLike | None = ...,
) -> NDArray[np.int8]: ...
@overload
def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Literal["uint8", "ubinary"],
    ranges: ArrayLike | None = ...,
    calibration_embeddings: ArrayLike | None = ...,
) -> NDArray[np.uint8]: ...
@overload
def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Precision,
    ranges: ArrayLike | None = ...,
    calibration_embeddings: ArrayLike | None = ...,
) -> QuantizedVectors: ...
@strict_keywords()
def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Precision,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> QuantizedVectors:
    """Quantize embeddings.

    Args:
        embeddings: float (n, D) or (D,).
        precision: ``int8`` and ``uint8`` divide each dimension's range into 256 steps; ``ubinary`` keeps the sign of
            each dimension, eight to a byte (uint8), and ``binary`` the same minus 128 (int8).
        ranges: (2, D), the minimum and maximum of each dimension, for ``int8`` and ``uint8``.
        calibration_embeddings: (m, D), from which to take the ranges; None for the embeddings themselves.

    Returns:
        (n, D) float32, int8 or uint8; (n, ⌈D/8⌉) for the binary precisions.

    Raises:
        InputError: the precision is unknown, the embeddings are already quantized, or ranges are needed of a single
            vector.
    """
    check_precision(precision)
    array = np.asarray(embeddings)
    if array.dtype.kind in "iub" and array.size:
        raise InputError(f"embeddings to quantize must be floating point, not {array.dtype}")
    array = array.astype(np.float32, copy=False)
    if precision == "float32":
        return array
    if precision in ("binary", "ubinary"):
        bits = np.packbits(array > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if array.ndim == 2 and not len(array):
        return array.astype(np.int8) if precision == "int8" else array.astype(np.uint8)
    if ranges is None:
        sample = array if calibration_embeddings is None else np.asarray(calibration_embeddings, np.float32)
        if sample.ndim == 1 or len(sample) < 2:
            raise InputError(
                f"{precision} needs the range of each dimension, which one embedding does not have; "
                "give ranges or calibration_embeddings"
            )
        if len(sample) < _FEW:
            logger.warning(
                "%s ranges from only %d embeddings; give ranges or calibration_embeddings", precision, len(sample)
            )
        ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    low, high = np.asarray(ranges, np.float32)
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    levels = np.clip(np.floor((array - low) / step), 0, 255)
    return (levels - 128).astype(np.int8) if precision == "int8" else levels.astype(np.uint8)


def check_precision(precision: str) -> None:
    """Raise an InputError for a precision that does not exist."""
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} does not exist; it can be {', '.join(get_args(Precision))}")
