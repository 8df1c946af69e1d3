"""The encoder: token ids in, one vector a token out.

Written once for every family; what differs between families is in `EncoderConfig`. Modules are flax.nnx and hold
parameters only. The compute dtype is the dtype of the kernels; norms compute in float32.

Shapes: B texts, T tokens, N heads, H head size, D model size, F feed-forward size, V vocabulary, L layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tsjax.errors import InputError
from tsjax.model.activations import activate
from tsjax.model.attention import attention
from tsjax.model.config import EncoderConfig
from tsjax.model.linear import PRECISION, Linear


class Norm(nnx.LayerNorm):
    """LayerNorm over D, computed and returned in float32."""

    def __init__(self, size: int, epsilon: float, *, rngs: nnx.Rngs) -> None:
        # The fast variance, E[x²] − E[x]², cancels where the mean is large.
        super().__init__(size, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


class Embeddings(nnx.Module):
    """Token, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.token = nnx.Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = nnx.Embed(config.max_positions, config.hidden_size, rngs=rngs)
        if config.type_vocab_size:
            self.token_type = nnx.Embed(config.type_vocab_size, config.hidden_size, rngs=rngs)
        self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "B T"], token_type_ids: Int[Array, "B T"] | None) -> Float[Array, "B T D"]:
        start, length = self.config.position_offset, input_ids.shape[1]
        if length > self.config.max_length:
            raise InputError(f"the input has {length} tokens; this model has positions for {self.config.max_length}")
        x = self.token(input_ids).astype(jnp.float32)
        if self.config.type_vocab_size:
            types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
            x = x + self.token_type(types)
        x = x + self.position(jnp.arange(start, start + length))
        return self.norm(x)


class Attention(nnx.Module):
    """Multi-head self-attention with a temperature."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        model, heads = (config.hidden_size,), (config.num_heads, config.head_dim)
        self.scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.query = Linear(model, heads, rngs=rngs)
        self.key = Linear(model, heads, rngs=rngs)
        self.value = Linear(model, heads, rngs=rngs)
        self.out = Linear(heads, model, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B #T T"], temperature: Float[Array, "#B N"]
    ) -> Float[Array, "B T D"]:
        mixed = attention(
            self.query(x), self.key(x), self.value(x), mask=mask, temperature=temperature, scale=self.scale
        )
        return self.out(mixed)


class FeedForward(nnx.Module):
    """Two linear layers, D → F → D, with an activation between."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.activation = config.activation
        self.up = Linear((config.hidden_size,), (config.intermediate_size,), rngs=rngs)
        # Summing this one, the widest, in blocks too would cost more than it gains.
        self.down = nnx.Linear(config.intermediate_size, config.hidden_size, precision=PRECISION, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(activate(self.up(x), self.activation))


class Layer(nnx.Module):
    """Attention and feed-forward, each with a residual sum and a norm after it."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs=rngs)
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B #T T"], temperature: Float[Array, "#B N"]
    ) -> Float[Array, "B T D"]:
        compute = self.feed_forward.up.kernel[...].dtype
        with jax.named_scope("attention"):
            x = self.attention_norm(x + self.attention(x.astype(compute), mask, temperature))
        with jax.named_scope("feed_forward"):
            return self.feed_forward_norm(x + self.feed_forward(x.astype(compute)))


class Encoder(nnx.Module):
    """Embeddings and L layers. Every parameter of ``layers`` has a leading axis L, over which a scan runs."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.embeddings = Embeddings(config, rngs=rngs)
        keys = jax.random.split(rngs.params(), config.num_layers)
        one_layer, _ = nnx.split(nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0))))
        stacked = jax.vmap(lambda key: nnx.split(Layer(config, rngs=nnx.Rngs(key)))[1])(keys)
        self.layers = nnx.merge(one_layer, stacked)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        lengths: Int[Array, " B"],
        temperature: Float[Array, "L #B N"],
        token_type_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states of the last layer, float32.

        Args:
            input_ids: token ids; what stands after a text's length is not attended to.
            lengths: tokens of each text, special ones included; 0 for a padding row.
            temperature: τ by layer, text (or 1 for all texts alike) and head.
            token_type_ids: which segment a token belongs to; None means all in segment 0.
        """
        with jax.named_scope("embeddings"):
            x = self.embeddings(input_ids, token_type_ids)
        mask = (jnp.arange(input_ids.shape[1])[None, :] < lengths[:, None])[:, None, :]
        one_layer, stacked = nnx.split(self.layers)

        def step(
            x: Float[Array, "B T D"], layer: tuple[nnx.State[Any, Any], Float[Array, "#B N"]]
        ) -> tuple[Float[Array, "B T D"], None]:
            parameters, temperature = layer
            return nnx.merge(one_layer, parameters)(x, mask, temperature), None

        x, _ = jax.lax.scan(step, x, (stacked, temperature))
        return x
