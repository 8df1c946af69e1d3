"""Learned parameters: logarithms of temperatures, optionally the weights; and their meaning to the network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tsjax.lab.evaluation.candidates import on_side
from tsjax.temperature import Piecewise, Temperature

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from tsjax.lab.learning.recipe import Recipe
    from tsjax.model.config import EncoderConfig
    from tsjax.model.params import Params

# "log_value" (), (L,) or (L, N); "log_factor" () if a law has one; "weights" as in `tsjax.model.forward`.
Learned: TypeAlias = dict[str, Any]


def start(recipe: Recipe, encoder: EncoderConfig, weights: Params) -> Learned:
    """Return the initial parameters: every temperature is 1, and the weights are unchanged."""
    shapes = {"scalar": (), "layers": (encoder.num_layers,), "heads": (encoder.num_layers, encoder.num_heads)}
    learned: Learned = {}
    if recipe.form != "none":
        learned["log_value"] = jnp.zeros(shapes[recipe.form])
    if recipe.learns_factor:
        learned["log_factor"] = jnp.zeros(())
    if recipe.weights:
        learned["weights"] = weights
    return learned


def length_terms(recipe: Recipe, lengths: ArrayLike) -> NDArray[np.float32]:
    """Return the fixed terms of τ's dependence on the lengths: float32 of their shape and 2.

    The factor of a text is ``first + (learned factor − 1) · second``.
    """
    law = recipe.by_length
    if isinstance(law, Piecewise):
        along = law.along(lengths)
        return np.stack([np.ones_like(along), along], axis=-1)
    factors = Temperature(1.0, law).factors(lengths)
    return np.stack([factors, np.zeros_like(factors)], axis=-1)


def per_text(learned: Learned, encoder: EncoderConfig, terms: Float[Array, "R K 2"]) -> Float[Array, "L R K N"]:
    """Return the temperature of each text of a batch, differentiable with respect to ``learned``."""
    value = jnp.exp(learned.get("log_value", jnp.zeros(())))
    value = value.reshape(value.shape + (1,) * (2 - value.ndim))
    value = jnp.broadcast_to(value, (encoder.num_layers, encoder.num_heads))
    factor = jnp.exp(learned["log_factor"]) if "log_factor" in learned else jnp.float32(1)
    factors = terms[..., 0] + (factor - 1) * terms[..., 1]
    return value[:, None, None, :] * factors[None, :, :, None]


def penalty(learned: Learned) -> Float[Array, ""]:
    """Return the mean of log² τ and of log² of the factor."""
    logs = [jnp.ravel(learned[name]) for name in ("log_value", "log_factor") if name in learned]
    return jnp.mean(jnp.concatenate(logs) ** 2) if logs else jnp.float32(0)


def temperature(learned: Learned, recipe: Recipe) -> Temperature:
    """Return the learned temperature in the form that users and checkpoints have."""
    if "log_value" not in learned:
        return Temperature()
    law = recipe.by_length
    if isinstance(law, Piecewise):
        law = dataclasses.replace(law, factor=float(np.exp(jax.device_get(learned["log_factor"]))))
    found = Temperature(np.exp(np.asarray(learned["log_value"], np.float32)), law)  # type: ignore[arg-type]  # checked there
    return on_side(found, recipe.side)
