"""Attention on a TPU by Pallas splash attention: rows in which several texts stand, each seeing itself alone.

The kernel keeps logits in the chip's vector memory, a block at a time. It knows neither temperature nor scale, so the
query comes multiplied by scale / τ, and it cannot add a bias to logits: `supports` says what it can serve. Whether a
program is for a TPU is for the caller to say.

Shapes: R rows, T tokens, N heads, H head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, Mask

# The width of a TPU's vector registers: blocks come in multiples of it.
_LANES = 128

# The most queries and keys of a block, and the most keys of one step within it. The instructions that libtpu 0.0.42's
# compiler schedules for each 128 × 128 logits, of which nearly all belong to the softmax, decided: heads of 64 at 2048
# tokens in bfloat16 on a v5e take 124 with blocks of 512 × 512, 95 with 512 × 1024, 80 with 512 × 2048; steps of 1024
# keys take 2 more, and 2048 × 2048 does not fit the 16 MiB that a kernel may use. Shorter rows: 216 with 256 × 256.
_QUERIES = 512
_KEYS = 2048
_STEP = 512

# Blocks that lie beyond a window are left out, so with a window smaller ones compute less; and the gradients' kernels
# hold more at a time.
_KEYS_OF_WINDOW = 512
_BLOCK_OF_GRADIENTS = 512

# The largest head whose blocks fit the vector memory in float32 too, with all those keys and with half of them.
_HEAD_SIZE_OF_KEYS = 128
_HEAD_SIZE = 256


def supports(length: int, heads: int, head_size: int, *, biased: bool) -> bool:
    """Return whether `splash_attention` can serve a shape: attention written in XLA's operations serves all others.

    Args:
        length: tokens of a row.
        heads: number of heads; any number will do.
        head_size: size of each.
        biased: whether something is added to the logits, as T5, MPNet and ALiBi do.
    """
    return not biased and length > 0 and length % _LANES == 0 and heads > 0 and 0 < head_size <= _HEAD_SIZE


def splash_attention(
    query: Float[Array, "R T N H"],
    key: Float[Array, "R T N H"],
    value: Float[Array, "R T N H"],
    segments: Int[Array, "R T"],
    *,
    causal: bool = False,
    window: int | None = None,
    interpret: bool = False,
) -> Float[Array, "R T N H"]:
    """Mix the values of the keys in each query's own segment; differentiable once, in reverse mode.

    Under ``jax.jit`` for more than one device it has to stand within a ``jax.shard_map`` over the rows, with
    ``check_vma=False``: Pallas kernels are not partitioned automatically.

    Args:
        query: what asks, multiplied by scale / τ. Key and value have its dtype; float16, which a TPU does not compute
            in, is computed in float32.
        key: what is asked.
        value: what is mixed.
        segments: int32 number of the text that each token belongs to; padding has a number of its own. Tokens attend
            to each other where the numbers are equal. Numbers need be told apart only within a row.
        causal: whether a token sees only itself and those before it.
        window: how many tokens to each side a token sees; None for all.
        interpret: whether to run the kernel step by step in XLA's operations, which a CPU can do, slowly.
    """
    # 60 ms of imports that a CPU never needs.
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # noqa: PLC0415

    dtype, (_, length, heads, head_size) = query.dtype, query.shape
    if dtype == jnp.float16:
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    kernel = pallas.make_splash_mha_single_device(
        pallas.MultiHeadMask([_mask(length, causal=causal, window=window)] * heads),
        block_sizes=block_sizes(length, head_size, windowed=window is not None),
        interpret=interpret,
    )
    # float32 means float32, as in `tsjax.model.linear`; in bfloat16 the kernel takes one precision only. Products in
    # the kernel ask for no precision, so it is set around them. The gradients' kernels are traced later and outside.
    with jax.default_matmul_precision("float32" if query.dtype == jnp.float32 else "bfloat16"):
        mixed = jax.vmap(kernel)(
            *(x.swapaxes(1, 2) for x in (query, key, value)), pallas.SegmentIds(q=segments, kv=segments)
        )
    return mixed.swapaxes(1, 2).astype(dtype)


def _mask(length: int, *, causal: bool, window: int | None) -> Mask:
    """Return the mask of a row, segments aside."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # noqa: PLC0415

    shape = (length, length)
    if window is not None:
        return pallas.LocalMask(shape, (window, 0 if causal else window), offset=0)
    return pallas.CausalMask(shape) if causal else pallas.FullMask(shape)


def block_sizes(length: int, head_size: int, *, windowed: bool) -> BlockSizes:
    """Return the block sizes of the kernel for rows of a length."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # noqa: PLC0415

    most = _KEYS_OF_WINDOW if windowed else _KEYS if head_size <= _HEAD_SIZE_OF_KEYS else _KEYS // 2
    keys = _block(length, most)
    backward = _block(length, _BLOCK_OF_GRADIENTS)
    # Tokens along the lanes where heads of 32 and 64 would be padded to 128 in memory, four- and twofold.
    layout = pallas.QKVLayout.SEQ_MINOR if head_size % _LANES else pallas.QKVLayout.HEAD_DIM_MINOR
    return pallas.BlockSizes(
        block_q=_block(length, _QUERIES),
        block_kv=keys,
        block_kv_compute=_block(keys, _STEP),
        block_q_dkv=backward,
        block_kv_dkv=backward,
        block_kv_dkv_compute=backward,
        block_q_dq=backward,
        block_kv_dq=backward,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
    )


def _block(length: int, most: int) -> int:
    """The longest block of whole registers that divides a length: the kernel would leave out a rest."""
    return max(size for size in range(_LANES, min(length, most) + 1, _LANES) if length % size == 0)
