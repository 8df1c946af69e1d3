"""The encoder: token ids in, one vector a token out.

Written once for every family; what differs between families is in `EncoderConfig`. Modules are flax.nnx and hold
parameters only. The compute dtype is the dtype of the kernels; norms compute in float32, and so does the sum that runs
from layer to layer.

Shapes: B texts, T tokens, N heads, H head size, D model size, E embedding size, F feed-forward size, V vocabulary,
L layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tsjax.errors import InputError
from tsjax.model.activations import activate
from tsjax.model.attention import attention
from tsjax.model.config import EncoderConfig
from tsjax.model.linear import PRECISION, Linear
from tsjax.model.positions import (
    Rotation,
    alibi_bias,
    not_later,
    relative_bias,
    rotate,
    rotation,
    table_rows,
    within,
)


class Norm(nnx.Module):
    """LayerNorm, or RMSNorm (arXiv:1910.07467), over the last axis; computed and returned in float32."""

    def __init__(self, size: int, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        del rngs  # it starts as the identity
        self.config = config
        self.scale = nnx.Param(jnp.full(size, 1 - config.norm_offset))
        if config.norm == "layer_norm" and config.norm_bias:
            self.bias = nnx.Param(jnp.zeros(size))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x = x.astype(jnp.float32)
        if self.config.norm == "layer_norm":
            x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + self.config.norm_eps)
        scale = self.scale[...]
        x = x * (scale + self.config.norm_offset if self.config.norm_offset else scale)
        return x + self.bias[...] if hasattr(self, "bias") else x


class Embeddings(nnx.Module):
    """Token, position and token-type embeddings, summed, normalised, projected to D."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        size = config.embedding_size or config.hidden_size
        self.token = nnx.Embed(config.vocab_size, size, rngs=rngs)
        if config.absolute_positions:
            assert config.max_positions is not None  # the config has checked it
            self.position = nnx.Embed(config.max_positions, size, rngs=rngs)
        if config.type_vocab_size:
            self.token_type = nnx.Embed(config.type_vocab_size, size, rngs=rngs)
        if config.embedding_norm:
            self.norm = Norm(size, config, rngs=rngs)
        if config.embedding_size is not None:
            self.projection = Linear((size,), (config.hidden_size,), rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        lengths: Int[Array, " B"],
        token_type_ids: Int[Array, "B T"] | None,
    ) -> Float[Array, "B T D"]:
        config = self.config
        x = self.token(input_ids).astype(jnp.float32)
        if config.embedding_scale != 1:
            x = x * jnp.float32(config.embedding_scale)
        if config.type_vocab_size:
            types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
            x = x + self.token_type(types)
        if config.absolute_positions:
            x = x + self.position(table_rows(config, input_ids, lengths))
        if config.embedding_norm:
            x = self.norm(x)
        if config.embedding_size is not None:
            x = self.projection(x.astype(self.projection.kernel[...].dtype)).astype(jnp.float32)
        return x


class RelativeBias(nnx.Module):
    """The table of biases on logits by relative position, one column a head."""

    def __init__(self, buckets: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Param(0.1 * jax.random.normal(rngs.params(), (buckets, heads)))


class View(NamedTuple):
    """What a layer sees of a text besides the vectors of its tokens.

    Attributes:
        mask: which keys a query sees.
        bias: what is added to the logits; None for nothing.
        rotation: how queries and keys are turned; None for not at all.
    """

    mask: Bool[Array, "B #T T"]
    bias: Float[Array, "1 N T T"] | None
    rotation: Rotation | None


class Attention(nnx.Module):
    """Multi-head self-attention with a temperature."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        model, heads = (config.hidden_size,), (config.num_heads, config.head_dim)
        key_value = (config.key_value_heads, config.head_dim)
        bias = config.attention_bias
        self.query = Linear(model, heads, use_bias=bias, rngs=rngs)
        self.key = Linear(model, key_value, use_bias=bias, rngs=rngs)
        self.value = Linear(model, key_value, use_bias=bias, rngs=rngs)
        self.out = Linear(heads, model, use_bias=bias, rngs=rngs)
        if config.query_key_norm:
            self.query_norm = Norm(config.head_dim, config, rngs=rngs)
            self.key_norm = Norm(config.head_dim, config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], view: View, temperature: Float[Array, "#B N"]
    ) -> Float[Array, "B T D"]:
        config = self.config
        query, key, value = self.query(x), self.key(x), self.value(x)
        if config.query_key_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if view.rotation is not None:
            query, key = rotate(query, view.rotation), rotate(key, view.rotation)
        if (groups := config.num_heads // config.key_value_heads) > 1:
            key, value = jnp.repeat(key, groups, axis=2), jnp.repeat(value, groups, axis=2)
        mixed = attention(
            query.astype(x.dtype),
            key.astype(x.dtype),
            value,
            mask=view.mask,
            temperature=temperature,
            scale=config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale,
            bias=view.bias,
        )
        return self.out(mixed)


class FeedForward(nnx.Module):
    """D → F → D with an activation between; a gated one multiplies the activation of one product with another."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.activation = config.activation
        widths = (config.hidden_size,), (config.intermediate_size,)
        if config.feed_forward == "gated":
            self.gate = Linear(*widths, use_bias=config.up_bias, rngs=rngs)
        self.up = Linear(*widths, use_bias=config.up_bias, rngs=rngs)
        # Summing this one, the widest, in blocks too would cost more than it gains.
        self.down = nnx.Linear(
            config.intermediate_size, config.hidden_size, use_bias=config.down_bias, precision=PRECISION, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if hasattr(self, "gate"):
            return self.down(activate(self.gate(x), self.activation) * self.up(x))
        return self.down(activate(self.up(x), self.activation))


class Layer(nnx.Module):
    """Attention and feed-forward, each with a residual sum, and norms where the config puts them."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.attention = Attention(config, rngs=rngs)
        self.attention_norm = Norm(config.hidden_size, config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = Norm(config.hidden_size, config, rngs=rngs)
        if config.norm_placement == "sandwich":
            self.attention_post_norm = Norm(config.hidden_size, config, rngs=rngs)
            self.feed_forward_post_norm = Norm(config.hidden_size, config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], view: View, temperature: Float[Array, "#B N"], first: Bool[Array, ""]
    ) -> Float[Array, "B T D"]:
        compute = self.feed_forward.up.kernel[...].dtype

        def attend(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            with jax.named_scope("attention"):
                return self.attention(x.astype(compute), view, temperature)

        def feed(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
            with jax.named_scope("feed_forward"):
                return self.feed_forward(x.astype(compute))

        match self.config.norm_placement:
            case "post":
                x = self.attention_norm(x + attend(x))
                return self.feed_forward_norm(x + feed(x))
            case "pre":
                normed = self.attention_norm(x)
                x = x + attend(normed if self.config.first_norm else jnp.where(first, x, normed))
                return x + feed(self.feed_forward_norm(x))
            case "sandwich":
                x = x + self.attention_post_norm(attend(self.attention_norm(x)))
                return x + self.feed_forward_post_norm(feed(self.feed_forward_norm(x)))


class Encoder(nnx.Module):
    """Embeddings and L layers.

    Every parameter of ``layers`` has a leading axis L, over which a scan runs, unless all layers share one set.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        if config.relative_buckets is not None:
            self.relative_bias = RelativeBias(config.relative_buckets, config.num_heads, rngs=rngs)
        if config.shared_layers:
            self.layers = Layer(config, rngs=rngs)
        else:
            keys = jax.random.split(rngs.params(), config.num_layers)
            one_layer, _ = nnx.split(nnx.eval_shape(lambda: Layer(config, rngs=nnx.Rngs(0))))
            stacked = jax.vmap(lambda key: nnx.split(Layer(config, rngs=nnx.Rngs(key)))[1])(keys)
            self.layers = nnx.merge(one_layer, stacked)
        if config.final_norm:
            self.final_norm = Norm(config.hidden_size, config, rngs=rngs)

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
        config, length = self.config, input_ids.shape[1]
        if config.max_length is not None and length > config.max_length:
            raise InputError(f"the input has {length} tokens; this model has positions for {config.max_length}")
        with jax.named_scope("embeddings"):
            x = self.embeddings(input_ids, lengths, token_type_ids)
        everywhere, nearby = self._views(lengths, length)
        layers = jnp.arange(config.num_layers)
        local = jnp.isin(layers, jnp.array(config.local_layers)) if config.local_layers else None
        one_layer, stacked = nnx.split(self.layers)

        def step(
            x: Float[Array, "B T D"],
            layer: tuple[nnx.State[Any, Any] | None, Float[Array, "#B N"], Int[Array, ""], Bool[Array, ""] | None],
        ) -> tuple[Float[Array, "B T D"], None]:
            parameters, temperature, index, local = layer
            view = (
                everywhere if local is None else jax.tree.map(lambda a, b: jnp.where(local, a, b), nearby, everywhere)
            )
            module = self.layers if parameters is None else nnx.merge(one_layer, parameters)
            return module(x, view, temperature, index == 0), None

        x, _ = jax.lax.scan(step, x, (None if config.shared_layers else stacked, temperature, layers, local))
        return self.final_norm(x) if config.final_norm else x

    def _views(self, lengths: Int[Array, " B"], length: int) -> tuple[View, View]:
        """What layers that see everything see, and what layers that see a window see."""
        config = self.config
        mask = (jnp.arange(length)[None, :] < lengths[:, None])[:, None, :]
        if config.causal:
            mask = mask & not_later(length)
        bias = None
        if config.relative_buckets is not None:
            table = self.relative_bias.embedding[...].astype(jnp.float32)
            bias = relative_bias(table, length, config.relative_max_distance)
        if config.alibi:
            slopes = alibi_bias(config.num_heads, length)
            bias = slopes if bias is None else bias + slopes

        def turned(theta: float | None) -> Rotation | None:
            return None if theta is None else rotation(length, config.head_dim, theta, config.rope_factor)

        everywhere = View(mask, bias, turned(config.rope_theta))
        if config.local_window is None:
            return everywhere, everywhere
        nearby = View(
            mask & within(config.local_window, length), bias, turned(config.local_rope_theta or config.rope_theta)
        )
        # Both alike in shape, since a scan chooses between them.
        return everywhere._replace(mask=jnp.broadcast_to(mask, nearby.mask.shape)), nearby
