"""Linear layers whose rounding error does not grow with their width."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# float32 means float32: the default lets GPUs use TF32 and TPUs bfloat16. Half-precision operands are not affected.
PRECISION = jax.lax.Precision.HIGHEST

# On a CPU, XLA adds up a row of a product in one running float32 sum, whose error grows with the row. Sums of blocks
# of this many, added up in the end, take all-MiniLM-L6-v2's error from 1.2 to 0.9 times PyTorch's, at the same speed.
_BLOCK = 128


class Linear(nnx.Module):
    """A linear layer over the last axes of its input, summed in blocks on a CPU.

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
        y = product(x.reshape(*batch, width), self.kernel[...].reshape(width, math.prod(self.outputs)))
        y = y.reshape(*batch, *self.outputs)
        return y + self.bias[...] if hasattr(self, "bias") else y


def product(x: Float[Array, "*batch K"], kernel: Float[Array, "K O"]) -> Float[Array, "*batch O"]:
    """The matrix product x · kernel."""
    if x.dtype != jnp.float32 or kernel.shape[0] <= _BLOCK:
        return _whole(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_in_blocks, default=_whole)


def _whole(x: Float[Array, "*batch K"], kernel: Float[Array, "K O"]) -> Float[Array, "*batch O"]:
    return jnp.einsum("...k,ko->...o", x, kernel, precision=PRECISION)


def _in_blocks(x: Float[Array, "*batch K"], kernel: Float[Array, "K O"]) -> Float[Array, "*batch O"]:
    starts = range(0, kernel.shape[0], _BLOCK)
    blocks = [_whole(x[..., i : i + _BLOCK], kernel[i : i + _BLOCK]) for i in starts]
    return functools.reduce(jnp.add, blocks)
