"""The temperature of an attention softmax: what it is, what it may be, and how it varies with a text's length.

Attention weights are ``softmax(logits / τ)``. τ < 1 sharpens them, which counteracts the collapse of long texts'
embeddings into a narrow region; τ = 1 is the model as published. Source: TempScale, "Length-Induced Embedding
Collapse in Transformer-based Models", arXiv:2410.24200.

This file knows numbers only: no network, no JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    TemperatureLike: TypeAlias = "float | Sequence[float] | Sequence[Sequence[float]] | NDArray[Any] | Temperature"

_Nested: TypeAlias = "float | tuple[float, ...] | tuple[tuple[float, ...], ...]"


@dataclass(frozen=True)
class Temperature:
    """A temperature for every layer, head and text.

    Attributes:
        value: one τ for the whole model, or L of them (one a layer), or L × N (one a layer and head).
            Each is finite and > 0 in float32.
        reference_length: if given, τ follows the text's length n, in tokens with the special ones:
            ``τ(n) = value · log(n₀) / log(n)`` with n₀ this length. Longer texts get sharper attention, shorter ones
            softer, and a text of n₀ tokens gets ``value``. This is the log-n scaling of attention logits
            (Chiang & Cholak, arXiv:2202.12172), written as a temperature. None: the same τ for every length.

    Raises:
        InputError: a value that is not finite, not > 0, not a number, or not of one of the three shapes.
    """

    value: _Nested = 1.0
    reference_length: int | None = None

    def __post_init__(self) -> None:
        array = _checked(self.value)
        object.__setattr__(self, "value", _as_nested(array))
        n = self.reference_length
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 2 <= n < 2**31):
            raise InputError(f"reference_length must be a whole number of at least 2 tokens, not {n!r}")

    @classmethod
    def of(cls, temperature: TemperatureLike | None) -> Temperature:
        """Whatever a user may pass, as a Temperature; None means τ = 1."""
        if isinstance(temperature, Temperature):
            return temperature
        return cls() if temperature is None else cls(temperature)  # type: ignore[arg-type]  # __post_init__ checks it

    def per_head(self, num_layers: int, num_heads: int) -> NDArray[np.float32]:
        """``value`` spread over layers and heads: float32 (L, N).

        Raises:
            InputError: the shape does not fit a model of ``num_layers`` layers and ``num_heads`` heads.
        """
        array = np.asarray(self.value, np.float32)
        fits: dict[int, tuple[int, ...]] = {0: (), 1: (num_layers,), 2: (num_layers, num_heads)}
        if array.shape != fits[array.ndim]:
            raise InputError(
                f"temperature has shape {array.shape}; this model has {num_layers} layers of {num_heads} heads, "
                f"so give one number, {num_layers} numbers, or an array of shape ({num_layers}, {num_heads})"
            )
        column = array.reshape(array.shape + (1,) * (2 - array.ndim))
        return np.array(np.broadcast_to(column, (num_layers, num_heads)))

    def per_text(self, num_layers: int, num_heads: int, lengths: ArrayLike) -> NDArray[np.float32]:
        """The temperature of each text in a batch: float32 (L, B, N), from their lengths in tokens, int (B,)."""
        return self.per_head(num_layers, num_heads)[:, None, :] * self.factors(lengths)[None, :, None]

    def factors(self, lengths: ArrayLike) -> NDArray[np.float32]:
        """What ``value`` is multiplied by for texts of these lengths in tokens: float32 of the same shape."""
        lengths = np.asarray(lengths)
        if self.reference_length is None:
            return np.ones(lengths.shape, np.float32)
        return (np.log(self.reference_length) / np.log(np.maximum(lengths, 2))).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` is the inverse."""
        value = np.asarray(self.value).tolist()
        return {"value": value, "reference_length": self.reference_length}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Temperature:
        """The inverse of `to_json`."""
        unknown = set(data) - {"value", "reference_length"}
        if unknown:
            raise InputError(f"unknown field {sorted(unknown)[0]!r} in a temperature")
        return cls(data.get("value", 1.0), data.get("reference_length"))

    def __str__(self) -> str:
        array = np.asarray(self.value, np.float32)
        if array.ndim == 0:
            text = f"{array:g}"
        else:
            what = "per layer" if array.ndim == 1 else "per layer and head"
            text = f"{array.min():g} to {array.max():g}, {what}"
        if self.reference_length is not None:
            text += f" · log {self.reference_length} / log n"
        return text


def _checked(value: object) -> NDArray[np.float32]:
    """The value as float32 of zero, one or two axes, or an InputError."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # arrays of other libraries raise their own
        raise InputError(f"temperature must be a number or an array of numbers: {error}") from error
    if raw.dtype.kind not in "iuf" and not _is_ml_float(raw.dtype):
        raise InputError(f"temperature must be a number or an array of numbers, not {value!r}")
    if raw.ndim > 2 or raw.size == 0:
        raise InputError(f"temperature must be one number, one a layer, or (layers, heads); its shape is {raw.shape}")
    with np.errstate(over="ignore", under="ignore"):
        array = raw.astype(np.float32)
    # Subnormal values count as zero: processors that flush them would divide by it.
    bad = ~(np.isfinite(array) & (array >= np.finfo(np.float32).tiny))
    if bad.any():
        first = raw[bad].flat[0] if raw.ndim else raw
        raise InputError(f"temperature must be finite and > 0 (in float32), not {float(first)!r}")
    return array


def _is_ml_float(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is one of JAX's extra float types, such as bfloat16."""
    return dtype.kind == "V" and dtype.name.startswith(("bfloat", "float"))


def _as_nested(array: NDArray[np.float32]) -> _Nested:
    """As nested tuples of Python floats, so that a Temperature is hashable and prints shortly."""
    # str() of a float32 is the shortest decimal that gives it back: 0.9, not 0.8999999761581421.
    if array.ndim == 0:
        return float(str(array[()]))
    return tuple(_as_nested(row) for row in array)  # type: ignore[return-value]  # at most two axes, checked above
