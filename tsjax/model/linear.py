"""Linear layers between axes of any number, in the precision that is said."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# float32 means float32: the default lets GPUs use TF32 and TPUs bfloat16. Half-precision operands are not affected.
PRECISION = jax.lax.Precision.HIGHEST


class Linear(nnx.Module):
    """A linear layer from the last axes of its input to others.

    Args:
        inputs: sizes of the axes that it takes; the kernel has them first.
        outputs: sizes of the axes that it gives; the kernel has them last.
        use_bias: whether it adds a bias.
        rngs: for random parameters.
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, use_bias: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        flat = nnx.initializers.lecun_normal()(rngs.params(), (math.prod(inputs), math.prod(outputs)))
        self.kernel = nnx.Param(flat.reshape(*inputs, *outputs))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # As one axis to one: products of several axes make XLA move the operands about.
        width = math.prod(self.inputs)
        batch = x.shape[: x.ndim - len(self.inputs)]
        kernel = self.kernel[...].reshape(width, math.prod(self.outputs))
        y = jnp.einsum("...k,ko->...o", x.reshape(*batch, width), kernel, precision=PRECISION)
        y = y.reshape(*batch, *self.outputs)
        return y + self.bias[...] if hasattr(self, "bias") else y
