"""Optimizer of the learned parameters: Adam for temperatures, AdamW for weights, and one step of both."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey
from jaxtyping import Array, Float

from tsjax.lab.learning import parameters
from tsjax.lab.learning.parameters import Learned
from tsjax.model.compiling import jit

if TYPE_CHECKING:
    from tsjax.lab.learning.recipe import Recipe


def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """Return Adam for temperatures, and for weights AdamW with warm-up, decay and clipping, as usual in fine-tuning."""
    by_kind = {
        "temperatures": optax.adam(recipe.learning_rate),
        "weights": optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(weight_rate(recipe), weight_decay=recipe.weight_decay, mask=decays),
        ),
    }
    return optax.multi_transform(
        by_kind, lambda learned: {name: "weights" if name == "weights" else "temperatures" for name in learned}
    )


def weight_rate(recipe: Recipe) -> Any:
    """Return the schedule of the weights' learning rate by step."""
    warmup = round(recipe.warmup * recipe.steps)
    return optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(0.0, recipe.weight_learning_rate, max(1, warmup)),
            optax.schedules.linear_schedule(recipe.weight_learning_rate, 0.0, max(1, recipe.steps - warmup)),
        ],
        [warmup],
    )


def decays(tree: Any) -> Any:
    """Return a mask of the weights that decay: matrices and tables, but not biases or scales of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: path[-1].key in ("kernel", "embedding") if isinstance(path[-1], DictKey) else False, tree
    )


@functools.partial(jit, static_argnames=("optimizer",))
def update(
    optimizer: optax.GradientTransformation, penalty: float, learned: Learned, state: Any, gradients: list[Learned]
) -> tuple[Learned, Any, Float[Array, ""]]:
    """Take one optimizer step; also return the weighted penalty before the step."""
    value, pull = jax.value_and_grad(lambda x: penalty * parameters.penalty(x))(learned)
    total = functools.reduce(lambda one, other: jax.tree.map(jnp.add, one, other), gradients, pull)
    updates, state = optimizer.update(total, state, learned)
    return optax.apply_updates(learned, updates), state, value
