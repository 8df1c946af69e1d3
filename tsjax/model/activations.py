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


def _gelu(x: Array) -> Array:
    """GELU with erf, as PyTorch writes it. By erfc, as JAX does, it takes three times as long on a processor."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


# PyTorch's functions with PyTorch's default parameters.
_FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    "celu": jax.nn.celu,
    "elu": jax.nn.elu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hard_shrink": lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0),
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "hard_tanh": jax.nn.hard_tanh,
    "identity": lambda x: x,
    "leaky_relu": jax.nn.leaky_relu,
    "log_sigmoid": jax.nn.log_sigmoid,
    "log_softmax": jax.nn.log_softmax,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    # Outside of training its slope is the mean of the bounds 1/8 and 1/3.
    "rrelu": partial(jax.nn.leaky_relu, negative_slope=11 / 48),
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "soft_shrink": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    "soft_sign": jax.nn.soft_sign,
    "softmax": jax.nn.softmax,
    "softmin": lambda x: jax.nn.softmax(-x),
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "tanh_shrink": lambda x: x - jnp.tanh(x),
}


def activate(x: Float[Array, "*shape"], name: Activation) -> Float[Array, "*shape"]:
    """Apply the named activation: element by element, but softmax and its kin along the last axis."""
    return _FUNCTIONS[name](x)
