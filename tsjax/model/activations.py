"""Activation functions by the names that `EncoderConfig` and `HeadConfig` use."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tsjax.model.config import Activation


def _gelu_tanh(x: Array) -> Array:
    """GELU with tanh: ½(1 + tanh z) is σ(2z), which loses less where tanh is near −1, and XLA's tanh is rough."""
    return x * jax.nn.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


_FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    # jax.nn.gelu is the tanh form unless told otherwise: the classic way to silently wrong vectors.
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": _gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def activate(x: Float[Array, "*shape"], name: Activation) -> Float[Array, "*shape"]:
    """Apply the named activation element by element."""
    return _FUNCTIONS[name](x)
