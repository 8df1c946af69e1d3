"""Linear layers between spaces of one or several axes, and tables of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tsjax.model.weight import Weight

# float32 means float32: the default lets GPUs use TF32 and TPUs bfloat16. Half-precision operands are not affected.
PRECISION = jax.lax.Precision.HIGHEST


class Linear(nnx.Module):
    """A linear layer over the last axes of its input, as one matrix product in its kernel's dtype.

    Args:
        inputs: names and sizes of the axes that it takes; the kernel has them first.
        outputs: names and sizes of the axes that it gives; the kernel has them last.
        use_bias: whether it adds a bias.
        rngs: for random parameters.
    """

    def __init__(
        self, inputs: Mapping[str, int], outputs: Mapping[str, int], *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.inputs, self.outputs = tuple(inputs.values()), tuple(outputs.values())
        flat = nnx.initializers.lecun_normal()(rngs.params(), (math.prod(self.inputs), math.prod(self.outputs)))
        self.kernel = Weight(flat.reshape(*self.inputs, *self.outputs), (*inputs, *outputs))
        self.bias = Weight(jnp.zeros(self.outputs)) if use_bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel = self.kernel[...]
        width = math.prod(self.inputs)
        batch = x.shape[: x.ndim - len(self.inputs)]
        x = x.astype(kernel.dtype).reshape(*batch, width)
        y = jnp.matmul(x, kernel.reshape(width, -1), precision=PRECISION).reshape(*batch, *self.outputs)
        return y if self.bias is None else y + self.bias[...]


class Table(nnx.Module):
    """A table of vectors, one for each id.

    Args:
        axis: the name of the ids' axis.
        rows: how many ids there are.
        size: of a vector.
        rngs: for random parameters.
    """

    def __init__(self, axis: str, rows: int, size: int, *, rngs: nnx.Rngs) -> None:
        initialiser = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = Weight(initialiser(rngs.params(), (rows, size)), (axis, "embedding"))

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
        return jnp.take(self.embedding[...], ids, axis=0)
