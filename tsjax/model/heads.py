"""The heads after pooling, in order: Dense, LayerNorm, Normalize. Always float32."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tsjax.model.activations import activate
from tsjax.model.config import HeadConfig
from tsjax.model.linear import PRECISION


class Dense(nnx.Module):
    """A linear layer with an activation, and a residual sum where the config says so."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        widths = (config.in_features, config.out_features)
        self.linear = nnx.Linear(*widths, use_bias=config.use_bias, precision=PRECISION, rngs=rngs)
        if config.residual and config.in_features != config.out_features:
            self.residual = nnx.Linear(*widths, use_bias=False, precision=PRECISION, rngs=rngs)

    def __call__(self, x: Float[Array, "*texts I"]) -> Float[Array, "*texts O"]:
        out = activate(self.linear(x), self.config.activation)
        if not self.config.residual:
            return out
        return out + (x if self.config.in_features == self.config.out_features else self.residual(x))


class LayerNorm(nnx.Module):
    """LayerNorm."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(
            config.out_features,
            epsilon=config.norm_eps,
            use_bias=config.use_bias,
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*texts D"]) -> Float[Array, "*texts D"]:
        return self.norm(x)


class Normalize(nnx.Module):
    """Division by the Euclidean norm; a zero vector stays zero."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs) -> None:
        del config, rngs  # it has no parameters

    def __call__(self, x: Float[Array, "*texts D"]) -> Float[Array, "*texts D"]:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def make_head(config: HeadConfig, *, rngs: nnx.Rngs) -> Dense | LayerNorm | Normalize:
    """The module that a config describes."""
    kinds: dict[str, type[Dense | LayerNorm | Normalize]] = {
        "dense": Dense,
        "layer_norm": LayerNorm,
        "normalize": Normalize,
    }
    return kinds[config.kind](config, rngs=rngs)
