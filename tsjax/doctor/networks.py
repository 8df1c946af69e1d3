"""Checks of the network, kernel by kernel, against vectors and gradients that were computed once in float64."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.doctor.check import DISTRUST, Check, Found
from tsjax.doctor.models import (
    GRADIENT_TEXTS,
    MODELS,
    TEMPERATURES,
    direction,
    expected,
    expected_gradient,
    parameters,
    temperature,
    token_ids,
)
from tsjax.doctor.patterns import DTYPES
from tsjax.engine.engine import Engine
from tsjax.model.compiling import jit
from tsjax.model.config import Dtype
from tsjax.model.forward import Inputs, apply_packed
from tsjax.model.kernels.dispatch import Kernel, kernel_for
from tsjax.model.packing import one_a_row
from tsjax.model.params import cast_params, unflatten
from tsjax.temperature import Temperature
from tsjax.text.tokenizer import Tokenized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Maximum error of a vector, as a share of its largest number.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-1, "float16": 1e-2}
_GRADIENT_TOLERANCE = 1e-4

# A CPU compiles long rows slowly, and a loop for each window. In half precision it therefore gets the shorter texts and
# one model: the one with both global and local layers.
_LONGEST_IN_HALF = 129
_MODEL_IN_HALF = "rotary, local layers"

# A kernel with one text per row compiles a program for each of these lengths, so it gets no others.
_LENGTHS_OF_ROWS = (2048, 65)


def kernels(device: jax.Device, name: str, dtype: Dtype) -> tuple[Kernel, ...]:
    """Return the kernels that can run a model on a device: the one that embeds, then those for training or fallback."""
    best = kernel_for(device.platform, getattr(device, "compute_capability", None), MODELS[name].encoder, dtype)
    return tuple(dict.fromkeys((best, "xla", "mapped")))


def network_checks(device: jax.Device) -> Iterator[Check]:
    """Yield the checks of a device: each model, dtype and kernel, and the gradients by temperature."""
    for dtype in DTYPES:
        for name in (_MODEL_IN_HALF,) if _is_slow(device, dtype) else MODELS:
            for kernel in kernels(device, name, dtype):
                where = f"{device}, {dtype}, attention by {kernel}: {name}"
                yield Check(where, partial(_check_vectors, device, dtype, name, kernel))
    for name in MODELS:
        for kernel in ("xla", "mapped"):
            where = f"{device}, float32, gradients by temperature, attention by {kernel}: {name}"
            yield Check(where, partial(_check_gradient, device, name, kernel))


def _is_slow(device: jax.Device, dtype: Dtype) -> bool:
    return device.platform == "cpu" and dtype != "float32"


def _check_vectors(device: jax.Device, dtype: Dtype, name: str, kernel: Kernel) -> Found:
    """Embed all texts at both temperatures: packed if the kernel packs, otherwise padded."""
    config = MODELS[name]
    params = cast_params(config, unflatten(parameters(config)), jnp.dtype(dtype))
    few = _is_slow(device, dtype)
    budget = 3 * _LONGEST_IN_HALF if few else None  # one row, and so one program, for all texts
    engine = Engine(config, params, 0, dtype=dtype, devices=[device], kernel=kernel, token_budget=budget)
    every = token_ids()
    longest = _LONGEST_IN_HALF if few else max(map(len, every))
    packed = engine.shapes(longest).packed
    chosen = [i for i, text in enumerate(every) if len(text) <= longest and (packed or len(text) in _LENGTHS_OF_ROWS)]
    ids = [every[i] for i in chosen]
    lengths = np.array([len(text) for text in ids], np.int32)
    tokenized = Tokenized(ids, lengths, np.zeros(len(ids), np.bool_), None)
    worst = 0.0
    for kind in TEMPERATURES:
        vectors = np.empty((len(ids), config.embedding_dimension))
        tau = Temperature.of(temperature(kind, config).tolist())
        for computed in engine.compute([tokenized], tau, max_length=int(lengths.max())):
            vectors[computed.indices] = computed.embeddings
        right = expected(name, kind)[-len(every) :][chosen]
        errors = np.abs(vectors - right).max(axis=1) / np.abs(right).max(axis=1)
        worst = max(worst, float(errors.max()))
    detail = f"off by {worst:.1e} of the largest value, texts of {lengths.min()} to {lengths.max():,} tokens"
    return Found("ok", detail) if worst <= _TOLERANCE[dtype] else Found("fail", detail, DISTRUST)


def _check_gradient(device: jax.Device, name: str, kernel: Kernel) -> Found:
    """Differentiate a sum over all numbers of some vectors with respect to τ of each layer and head."""
    config = MODELS[name]
    ids = [text for text in token_ids() if len(text) in GRADIENT_TEXTS]
    lengths = np.array([len(text) for text in ids], np.int32)
    filled = np.zeros((len(ids), lengths.max()), np.int32)
    for row, text in zip(filled, ids, strict=True):
        row[: len(text)] = text
    params = jax.device_put(unflatten(parameters(config)), device)

    def total(tau: jax.Array) -> jax.Array:
        prompts = jnp.zeros((len(ids), 1), jnp.int32)
        inputs = Inputs(jnp.asarray(filled), one_a_row(jnp.asarray(lengths), filled.shape[1]), prompts)
        output = apply_packed(config, params, inputs, tau[:, None, None, :], kernel)
        return jnp.sum(output.embeddings[:, 0] * direction(config))

    gradient = np.asarray(jit(jax.grad(total))(jax.device_put(temperature("by head", config), device)))
    right: NDArray[np.float64] = expected_gradient(name)
    worst = float(np.abs(gradient - right).max() / np.abs(right).max())
    detail = f"off by {worst:.1e} of the largest value"
    return Found("ok", detail) if worst <= _GRADIENT_TOLERANCE else Found("fail", detail, DISTRUST)
