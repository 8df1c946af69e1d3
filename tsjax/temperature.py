"""Temperatures of an attention softmax: their values, their checks, and temperature schedules by text length.

Attention weights are ``softmax(logits / τ)``. τ < 1 sharpens them, which counteracts the collapse of long texts'
embeddings into a narrow region; τ = 1 is the model as published. Source: TempScale, "Length-Induced Embedding
Collapse in Transformer-based Models", arXiv:2410.24200.

This module handles numbers only: no network, no JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tsjax.errors import InputError
from tsjax.storage.json_values import decode
from tsjax.validation.numbers import check_whole_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    TemperatureLike: TypeAlias = "float | Sequence[float] | Sequence[Sequence[float]] | NDArray[Any] | Temperature"

# Maximum number of tokens that a temperature schedule may name.
_LONGEST = 2**31 - 1

_Nested: TypeAlias = "float | tuple[float, ...] | tuple[tuple[float, ...], ...]"


@dataclass(frozen=True)
class LogLength:
    """Log-n schedule: τ(n) = value · log n₀ / log n, for a text of n tokens.

    Longer texts get sharper attention, shorter ones softer, and a text of n₀ tokens gets ``value``. The logits then
    grow with log n, as the entropy of attention over n tokens does. This is the log-n scaling of attention logits
    (Chiang and Cholak, "Overcoming a Theoretical Limitation of Self-Attention", arXiv:2202.12172), written as a
    temperature. With a value for each head it is the scaling that SSMax learns (arXiv:2501.19399).

    Attributes:
        reference_length: n₀ in tokens, special ones included; at least 2.

    Raises:
        InputError: ``reference_length`` is not such a number.
    """

    reference_length: int

    def __post_init__(self) -> None:
        check_whole_fields(self, "reference_length", at_least=2, at_most=_LONGEST, unit="tokens")

    def factors(self, lengths: ArrayLike) -> NDArray[np.float32]:
        """Return the factors that multiply τ for texts of these lengths in tokens: float32 of the same shape."""
        n = np.maximum(np.asarray(lengths), 2)  # a text of one token attends only to itself, for every τ
        return (np.log(self.reference_length) / np.log(n)).astype(np.float32)

    def __str__(self) -> str:
        return f"log {self.reference_length} / log n"


@dataclass(frozen=True)
class Piecewise:
    """Piecewise schedule: τ(n) = value up to ``start`` tokens, value · factor from ``end`` on, and a line between them.

    The line is straight over log n. Short texts, which do not collapse, keep their temperature; only long texts get
    another one. The schedule is tsjax's own; TempScale has one τ for all lengths.

    Attributes:
        start: the longest text that has ``value``, in tokens.
        end: the shortest text that has ``value · factor``, in tokens; more than ``start``.
        factor: finite and > 0 in float32; below 1, long texts get sharper attention.

    Raises:
        InputError: a value is not valid.
    """

    start: int
    end: int
    factor: float

    def __post_init__(self) -> None:
        check_whole_fields(self, "start", at_most=_LONGEST, unit="tokens")
        check_whole_fields(self, "end", at_least=2, at_most=_LONGEST, unit="tokens")
        if self.start >= self.end:
            raise InputError(f"a piecewise temperature needs start < end, not {self.start} and {self.end}")
        factor = _checked(self.factor, "the factor of a piecewise temperature")
        if factor.ndim:
            raise InputError(f"the factor of a piecewise temperature must be one number; its shape is {factor.shape}")
        object.__setattr__(self, "factor", _as_nested(factor))

    def factors(self, lengths: ArrayLike) -> NDArray[np.float32]:
        """Return the factors that multiply τ for texts of these lengths in tokens: float32 of the same shape."""
        along = self._along(lengths)
        return ((1 - along) + self.factor * along).astype(np.float32)

    def along(self, lengths: ArrayLike) -> NDArray[np.float32]:
        """Return the position of these lengths between ``start`` (0) and ``end`` (1): float32 of the same shape."""
        return self._along(lengths).astype(np.float32)

    def _along(self, lengths: ArrayLike) -> NDArray[np.float64]:
        # Computed in float64, so that factors of 1 stay 1 and small factors keep their precision.
        n = np.clip(np.asarray(lengths), self.start, self.end)
        return np.asarray(np.log(n / self.start) / math.log(self.end / self.start))

    def __str__(self) -> str:
        return f"(1 to {self.factor:g} from {self.start} to {self.end} tokens)"


Law: TypeAlias = "LogLength | Piecewise"

_LAWS: dict[str, type[Law]] = {"log": LogLength, "piecewise": Piecewise}


@dataclass(frozen=True)
class Temperature:
    """Temperature for every layer, head and text.

    Attributes:
        value: one τ for the model, L of them (one per layer), or L × N (one per layer and head). Each is finite and > 0
            in float32.
        by_length: temperature schedule by text length, a `LogLength` or a `Piecewise`; None for the same τ at every
            length.
        query: temperature of texts that are embedded as queries (`Embedder.encode_query`), if it differs from that of
            documents and all other texts; any value that `of` takes. None: the same.

    Raises:
        InputError: a value is not finite, not > 0, not a number, or not of one of the three shapes; the schedule is not
            one of the two classes; or a query's temperature itself has a temperature for queries.
    """

    value: _Nested = 1.0
    by_length: Law | None = None
    query: Temperature | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _as_nested(_checked(self.value)))
        if self.by_length is not None and not isinstance(self.by_length, LogLength | Piecewise):
            raise InputError(f"by_length must be a LogLength or a Piecewise, not {self.by_length!r}")
        if self.query is not None:
            query = Temperature.of(self.query)
            if query.query is not None:
                raise InputError("the temperature of queries cannot have one for queries of its own")
            object.__setattr__(self, "query", query)

    @classmethod
    def of(cls, temperature: TemperatureLike | None) -> Temperature:
        """Return any value that a user may pass as a Temperature; None means τ = 1."""
        if isinstance(temperature, Temperature):
            return temperature
        return cls() if temperature is None else cls(temperature)  # type: ignore[arg-type]  # __post_init__ checks it

    def for_task(self, task: str | None) -> Temperature:
        """Return the temperature for texts of a task: that of queries for ``query``, otherwise the general one."""
        if self.query is None:
            return self
        return self.query if task == "query" else dataclasses.replace(self, query=None)

    def check(self, num_layers: int, num_heads: int) -> Temperature:
        """Return this temperature if it fits a model of this size, queries included; otherwise raise an InputError."""
        for temperature in (self, self.query):
            if temperature is not None:
                temperature.per_head(num_layers, num_heads)
        return self

    def per_head(self, num_layers: int, num_heads: int) -> NDArray[np.float32]:
        """Return ``value`` broadcast over layers and heads: float32 (L, N).

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
        """Return the temperature of each text in a batch: float32 (L, B, N), from their lengths in tokens, int (B,)."""
        return self.per_head(num_layers, num_heads)[:, None, :] * self.factors(lengths)[None, :, None]

    def factors(self, lengths: ArrayLike) -> NDArray[np.float32]:
        """Return the factors on ``value`` for texts of these lengths in tokens: float32 of the same shape."""
        lengths = np.asarray(lengths)
        return np.ones(lengths.shape, np.float32) if self.by_length is None else self.by_length.factors(lengths)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` is the inverse."""
        content: dict[str, Any] = {"value": np.asarray(self.value).tolist()}
        if self.by_length is not None:
            name = next(name for name, law in _LAWS.items() if isinstance(self.by_length, law))
            content["by_length"] = {"law": name, **dataclasses.asdict(self.by_length)}
        if self.query is not None:
            content["query"] = self.query.to_json()
        return content

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Temperature:
        """Return a Temperature from the JSON values of `to_json`.

        The first format had ``reference_length`` next to the value; it is read as a `LogLength`.
        """
        # msgspec is not used: the values are any numbers that NumPy knows, and people write them by hand, so errors
        # must say more.
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InputError(f"a temperature is an object with names in JSON, not {data!r:.60}")
        if unknown := set(data) - {"value", "by_length", "query", "reference_length"}:
            raise InputError(f"unknown field {min(unknown)!r} in a temperature")
        law = data.get("by_length")
        if (n := data.get("reference_length")) is not None:
            if law is not None:
                raise InputError("a temperature has by_length or, as first written, reference_length, not both")
            law = {"law": "log", "reference_length": n}
        query = data.get("query")
        if isinstance(query, dict):
            query = cls.from_json(query)
        return cls(data.get("value", 1.0), None if law is None else _law(law), query)

    def __str__(self) -> str:
        array = np.asarray(self.value, np.float32)
        if array.ndim == 0:
            text = f"{array:g}"
        else:
            what = "per layer" if array.ndim == 1 else "per layer and head"
            spread = f"{array.min():g} to {array.max():g}" if np.ptp(array) else f"{array.flat[0]:g}"
            text = f"{spread}, {what}"
        if self.by_length is not None:
            text += f" · {self.by_length}"
        return text if self.query is None else f"{text}; for queries {self.query}"


def _law(data: object) -> Law:
    """Return a temperature schedule from its JSON."""
    if not isinstance(data, dict) or not isinstance(data.get("law"), str) or data["law"] not in _LAWS:
        raise InputError(f"a temperature's by_length needs a law, {' or '.join(_LAWS)}, not {data!r:.80}")
    values = {name: value for name, value in data.items() if name != "law"}
    return decode(values, _LAWS[data["law"]], f"the law {data['law']!r}", InputError)


def _checked(value: object, name: str = "temperature") -> NDArray[np.float32]:
    """Return the value as float32 of zero, one or two axes, or raise an InputError."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # arrays of other libraries raise their own errors
        raise InputError(f"{name} must be a number or an array of numbers: {error}") from error
    if raw.dtype.kind not in "iuf" and not _is_ml_float(raw.dtype):
        raise InputError(f"{name} must be a number or an array of numbers, not {value!r}")
    if raw.ndim > 2 or raw.size == 0:
        raise InputError(f"{name} must be one number, one a layer, or (layers, heads); its shape is {raw.shape}")
    with np.errstate(over="ignore", under="ignore"):
        array = raw.astype(np.float32)
    # Subnormal values count as zero: CPUs that flush them to zero would divide by it.
    bad = ~(np.isfinite(array) & (array >= np.finfo(np.float32).tiny))
    if bad.any():
        first = raw[bad].flat[0] if raw.ndim else raw
        raise InputError(f"{name} must be finite and > 0 (in float32), not {float(first)!r}")
    return array


def _is_ml_float(dtype: np.dtype[Any]) -> bool:
    """Return whether the dtype is one of JAX's extra float types, such as bfloat16."""
    return dtype.kind == "V" and dtype.name.startswith(("bfloat", "float"))


def _as_nested(array: NDArray[np.float32]) -> _Nested:
    """Return nested tuples of Python floats, so that a Temperature is hashable and has a short repr."""
    # str() of a float32 is the shortest decimal that round-trips: 0.9, not 0.8999999761581421.
    if array.ndim == 0:
        return float(str(array[()]))
    return tuple(_as_nested(row) for row in array)  # type: ignore[return-value]  # at most two axes, checked above
