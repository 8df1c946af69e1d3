"""Activation functions by the names that `EncoderConfig` and `HeadConfig` use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tsjax.model.config import Activation

_FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    # jax.nn.gelu is the tanh form unless told otherwise: the classic way to silently wrong vectors.
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def activate(x: Float[Array, "*shape"], name: Activation) -> Float[Array, "*shape"]:
    """Apply the named activation element by element."""
    return _FUNCTIONS[name](x)
