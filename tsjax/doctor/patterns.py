"""Checks of operations that compilers are known to have miscompiled, against NumPy in float64.

Each is compiled as this package compiles its programs. If a fault is known, it is also compiled as `jax.jit` does by
default, as a user's own program is. Sizes lie on both sides of the borders where the faults began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from ml_dtypes import bfloat16

from tsjax.doctor.check import DISTRUST, OTHER_COMPILER, Check, Found
from tsjax.model.compiling import jit
from tsjax.model.config import Dtype
from tsjax.model.linear import PRECISION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    _Arrays: TypeAlias = tuple[NDArray[np.float64], ...]

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")

# Maximum error, as a share of the largest value. A wrong program is off by 1e-3 at least.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}

# Just beyond 32,768 rows, and well beyond.
_ROWS = (32_769, 40_000)


@dataclass(frozen=True)
class _Pattern:
    """Operations in JAX, and the same operations in NumPy.

    Attributes:
        name: name of the operations.
        ours: function of arrays of the dtype to check.
        right: the same function of float64 arrays.
        arguments: function that makes the float64 arrays.
        report: report of the fault; empty if no fault of the operations is known.
    """

    name: str
    ours: Callable[..., Any]
    right: Callable[..., NDArray[np.float64]]
    arguments: Callable[[np.random.RandomState], _Arrays]
    report: str = ""


def _product(x: Any, y: Any) -> Any:
    return jnp.matmul(x, y, precision=PRECISION, preferred_element_type=jnp.float32)


def _row_gradient(x: Any, scale: Any) -> Any:
    """Return the gradient of 0.37 · Σ (scale · x)·x by each row's scale: a batched product with a broadcast number."""
    return jax.grad(lambda scale: 0.37 * jnp.sum(_product(scale[..., None] * x, x)))(scale)


def _right_row_gradient(x: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = np.full_like(x, 0.37)
    product: NDArray[np.float64] = ((spread @ x.swapaxes(1, 2)) * x).sum(-1)
    return product


def _normal(*shapes: tuple[int, ...]) -> Callable[[np.random.RandomState], _Arrays]:
    """Return a function that makes arrays of normal numbers."""
    return lambda random: tuple(random.standard_normal(shape) for shape in shapes)


def _symmetric(batch: int, size: int, *more: NDArray[np.float64]) -> Callable[[np.random.RandomState], _Arrays]:
    """Return a function that makes symmetric matrices, and returns additional arrays with them."""

    def made(random: np.random.RandomState) -> _Arrays:
        x = random.standard_normal((batch, size, size))
        return (x @ x.swapaxes(1, 2) / size, *more)

    return made


def _patterns() -> Iterator[_Pattern]:
    for rows in _ROWS:
        yield _Pattern(
            f"squares of a product of {rows:,} × 3, summed",
            lambda x, y: jax.vmap(lambda row: jnp.sum(_product(y, row) ** 2))(x),
            lambda x, y: np.sum((x @ y.T) ** 2, -1),
            _normal((rows, 3), (3, 3)),
            report="jax-ml/jax#39103",
        )
        yield _Pattern(f"a product of {rows:,} × 64", _product, lambda x, y: x @ y, _normal((rows, 64), (64, 48)))
        yield _Pattern(
            f"means, maxima and softmax sums of {rows:,} rows",
            lambda x: jnp.stack([x.mean(-1), x.max(-1), jax.nn.logsumexp(x, axis=-1)]).astype(jnp.float32),
            lambda x: np.stack([x.mean(-1), x.max(-1), np.log(np.exp(x).sum(-1))]),
            _normal((rows, 24)),
        )
        yield _Pattern(
            f"the sum and the maximum over {rows:,} rows",
            lambda x: jnp.stack([x.sum(0, dtype=jnp.float32) / 200, x.max(0).astype(jnp.float32)]),
            lambda x: np.stack([x.sum(0) / 200, x.max(0)]),
            _normal((rows, 5)),
        )
    for batch, size in ((5, 60), (3, 128)):
        yield _Pattern(
            f"a product of {batch} × {size} × {size} with one number spread out, multiplied and summed",
            lambda x, one: jnp.sum(_product(x, jnp.broadcast_to(one, x.shape)) * x, -1),
            lambda x, one: np.sum((x @ np.full(x.shape, one)) * x, -1),
            _symmetric(batch, size, np.array(0.375)),
            report="jaxlib 0.10.2 to 0.12.0.1",
        )
        yield _Pattern(
            f"the gradient of a product of {batch} × {size} × {size} by a factor of each row",
            _row_gradient,
            _right_row_gradient,
            _symmetric(batch, size, np.ones((batch, size))),
            report="jaxlib 0.11.2",
        )
    for shape, axis in (((3, 1, 2, 2, 8, 8, 8), 3), ((1, 3, 2, 2, 8, 8, 8), 3), ((2, 2, 1, 3, 2, 4, 4, 4), 4)):
        yield _Pattern(
            f"a sum of products of rank {len(shape)} ({' × '.join(map(str, shape))})",
            partial(_summed, axis=axis),
            partial(_right_summed, axis=axis),
            _normal(shape, shape),
            report="jax-ml/jax#39257 and #40412",
        )


def _summed(x: Any, y: Any, *, axis: int) -> Any:
    return jnp.sum(x * y, axis=axis)


def _right_summed(x: NDArray[np.float64], y: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    summed: NDArray[np.float64] = np.sum(x * y, axis=axis)
    return summed


def pattern_checks(device: jax.Device) -> Iterator[Check]:
    """Yield the checks of a device: each pattern in each dtype, and again by itself if a fault is known."""
    for pattern in _patterns():
        for dtype in DTYPES:
            name = f"{device}, {dtype}: {pattern.name}"
            yield Check(name, partial(_check_ours, pattern, dtype, device))
            if pattern.report:
                yield Check(f"{name}, by jax.jit alone", partial(_check_plain, pattern, dtype, device), ours=False)


def _check_ours(pattern: _Pattern, dtype: str, device: jax.Device) -> Found:
    error = _error_of(jit(pattern.ours), pattern, dtype, device)
    detail = f"off by {error:.1e} of the largest value"
    return Found("ok", detail) if error <= _TOLERANCE[dtype] else Found("fail", detail, DISTRUST)


def _check_plain(pattern: _Pattern, dtype: str, device: jax.Device) -> Found:
    error = _error_of(jax.jit(pattern.ours), pattern, dtype, device)
    detail = f"off by {error:.1e} of the largest value"
    if error <= _TOLERANCE[dtype]:
        return Found("ok", detail)
    return Found("warn", f"{detail} ({pattern.report}); tsjax's own programs avoid this", OTHER_COMPILER)


def _error_of(compiled: Any, pattern: _Pattern, dtype: str, device: jax.Device) -> float:
    kind = bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    given = [x.astype(kind) for x in pattern.arguments(np.random.RandomState(0))]
    right = pattern.right(*(x.astype(np.float64) for x in given))
    return _error(compiled(*jax.device_put(given, device)), right)


def _error(found: Any, right: NDArray[np.float64]) -> float:
    """Return the maximum difference as a share of the largest value; NaN counts as infinite."""
    difference = np.abs(np.asarray(found).astype(np.float64) - right).max() / np.abs(right).max()
    return float("inf") if np.isnan(difference) else float(difference)
