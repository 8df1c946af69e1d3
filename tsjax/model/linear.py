"""Linear layers between spaces of one or several axes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# float32 means float32: the default lets GPUs use TF32 and TPUs bfloat16. Half-precision operands are not affected.
PRECISION = jax.lax.Precision.HIGHEST


class Linear(nnx.Module):
    """A linear layer over the last axes of its input, as one matrix product.

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
        width = math.prod(self.inputs)
        batch = x.shape[: x.ndim - len(self.inputs)]
        kernel = self.kernel[...].reshape(width, math.prod(self.outputs))
        y = jnp.matmul(x.reshape(*batch, width), kernel, precision=PRECISION).reshape(*batch, *self.outputs)
        return y + self.bias[...] if hasattr(self, "bias") else y
