"""The encoder: token ids in, one vector a token out.

Written once for every family; what differs between families is in `EncoderConfig`. Modules are flax.nnx and hold
parameters only (see `tsjax.model.network`). The compute dtype is the dtype of the kernels; norms compute in float32,
and so does the sum that runs from layer to layer.

Shapes: R rows, T tokens of a row, K places for texts in a row, N heads, H head size, D model size, E embedding size,
F feed-forward size, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from tsjax.model.activations import activate
from tsjax.model.config import EncoderConfig
from tsjax.model.kernels.dispatch import Kernel, View, attention
from tsjax.model.linear import Linear, Table
from tsjax.model.packing import Packing, by_token
from tsjax.model.positions import Rotation, alibi_bias, by_pair, relative_bias, rotate, rotation, table_rows


class Norm(nnx.Module):
    """LayerNorm, or RMSNorm (arXiv:1910.07467), over the last axis; computed and returned in float32."""

    def __init__(self, size: int, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        del rngs  # it starts as the identity
        self.config = config
        self.scale = nnx.Param(jnp.full(size, 1 - config.norm_offset))
        self.bias = nnx.Param(jnp.zeros(size)) if config.norm == "layer_norm" and config.norm_bias else None

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x = x.astype(jnp.float32)
        if self.config.norm == "layer_norm":
            x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + self.config.norm_eps)
        scale = self.scale[...]
        x = x * (scale + self.config.norm_offset if self.config.norm_offset else scale)
        return x if self.bias is None else x + self.bias[...]


class Embeddings(nnx.Module):
    """Token, position and token-type embeddings, summed, normalised, projected to D."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        size = config.embedding_size or config.hidden_size
        self.token = Table("vocabulary", config.vocab_size, size, rngs=rngs)
        if config.absolute_positions:
            assert config.max_positions is not None  # the config has checked it
            self.position = Table("position", config.max_positions, size, rngs=rngs)
        if config.type_vocab_size:
            self.token_type = Table("token_type", config.type_vocab_size, size, rngs=rngs)
        if config.embedding_norm:
            self.norm = Norm(size, config, rngs=rngs)
        if config.embedding_size is not None:
            self.projection = Linear({"embedding": size}, {"model": config.hidden_size}, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "R T"],
        packing: Packing,
        token_type_ids: Int[Array, "R T"] | None,
    ) -> Float[Array, "R T D"]:
        config = self.config
        x = self.token(input_ids).astype(jnp.float32)
        if config.embedding_scale != 1:
            x = x * jnp.float32(config.embedding_scale)
        if config.type_vocab_size:
            types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
            x = x + self.token_type(types)
        if config.absolute_positions:
            x = x + self.position(table_rows(config, input_ids, packing))
        if config.embedding_norm:
            x = self.norm(x)
        if config.embedding_size is not None:
            x = self.projection(x).astype(jnp.float32)
        return x


class Attention(nnx.Module):
    """Multi-head self-attention with a temperature."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        model, bias = {"model": config.hidden_size}, config.attention_bias
        heads = {"heads": config.num_heads, "head_size": config.head_dim}
        all_heads = heads | {"heads": config.num_heads + 2 * config.key_value_heads}
        # One product instead of three; a file has the three apart (see `tsjax.model.params.flatten`).
        self.query_key_value = Linear(model, all_heads, use_bias=bias, rngs=rngs)
        self.out = Linear(heads, model, use_bias=bias, rngs=rngs)
        if config.query_key_norm:
            self.query_norm = Norm(config.head_dim, config, rngs=rngs)
            self.key_norm = Norm(config.head_dim, config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "R T D"], view: View, temperature: Float[Array, "#R #T N"], kernel: Kernel
    ) -> Float[Array, "R T D"]:
        config = self.config
        query, key, value = self.project(x, view)
        mixed = attention(
            query,
            key,
            value,
            view,
            temperature=temperature,
            scale=config.logit_scale,
            causal=config.causal,
            window=config.local_window,
            longest=config.max_length,
            kernel=kernel,
        )
        return self.out(mixed)

    def project(
        self, x: Float[Array, "R T D"], view: View
    ) -> tuple[Float[Array, "R T N H"], Float[Array, "R T N H"], Float[Array, "R T N H"]]:
        """Query, key and value: normalised, turned by the tokens' positions, keys and values once a query head."""
        config = self.config
        borders = [config.num_heads, config.num_heads + config.key_value_heads]
        query, key, value = jnp.split(self.query_key_value(x), borders, axis=2)
        if config.query_key_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if view.rotation is not None:
            query, key = rotate(query, view.rotation), rotate(key, view.rotation)
        if (groups := config.num_heads // config.key_value_heads) > 1:
            key, value = jnp.repeat(key, groups, axis=2), jnp.repeat(value, groups, axis=2)
        return query.astype(value.dtype), key.astype(value.dtype), value


class FeedForward(nnx.Module):
    """D → F → D with an activation between; a gated one multiplies the activation of one product with another."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.activation = config.activation
        model, wide = {"model": config.hidden_size}, {"feed_forward": config.intermediate_size}
        gated = config.feed_forward == "gated"
        self.gate = Linear(model, wide, use_bias=config.up_bias, rngs=rngs) if gated else None
        self.up = Linear(model, wide, use_bias=config.up_bias, rngs=rngs)
        self.down = Linear(wide, model, use_bias=config.down_bias, rngs=rngs)

    def __call__(self, x: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
        if self.gate is None:
            return self.down(activate(self.up(x), self.activation))
        return self.down(activate(self.gate(x), self.activation) * self.up(x))


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
        self,
        x: Float[Array, "R T D"],
        view: View,
        temperature: Float[Array, "#R #T N"],
        first: Bool[Array, ""],
        kernel: Kernel,
    ) -> Float[Array, "R T D"]:
        seen = self.attention_input(x, first)
        with jax.named_scope("attention"):
            attended = self.attention(seen, view, temperature, kernel)

        def feed(x: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
            with jax.named_scope("feed_forward"):
                return self.feed_forward(x)

        match self.config.norm_placement:
            case "post":
                x = self.attention_norm(x + attended)
                return self.feed_forward_norm(x + feed(x))
            case "pre":
                x = x + attended
                return x + feed(self.feed_forward_norm(x))
            case "sandwich":
                x = x + self.attention_post_norm(attended)
                return x + self.feed_forward_post_norm(feed(self.feed_forward_norm(x)))

    def attention_input(self, x: Float[Array, "R T D"], first: Bool[Array, ""]) -> Float[Array, "R T D"]:
        """Return what attention takes: the layer's input, normalised where the norm comes first."""
        if self.config.norm_placement == "post":
            return x
        normed = self.attention_norm(x)
        return normed if self.config.first_norm else jnp.where(first, x, normed)


class LayerInput(NamedTuple):
    """The arguments of a layer, for code that observes it.

    Attributes:
        x: the hidden states that come in.
        view: what its tokens see.
        temperature: τ by token (or 1 for all alike) and head.
        first: whether it is the first layer.
    """

    x: Float[Array, "R T D"]
    view: View
    temperature: Float[Array, "#R #T N"]
    first: Bool[Array, ""]


class Encoder(nnx.Module):
    """Embeddings and L layers.

    ``layers`` is one `Layer` whose parameters have a leading axis L, over which a scan runs, unless all layers share
    one set.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        if config.relative_buckets is not None:
            self.relative_bias = nnx.Embed(
                config.relative_buckets, config.num_heads, embedding_init=nnx.initializers.normal(0.1), rngs=rngs
            )
        if config.shared_layers:
            self.layers = Layer(config, rngs=rngs)
        else:
            keys = jax.random.split(rngs.params(), config.num_layers)
            self.layers = jax.vmap(lambda key: Layer(config, rngs=nnx.Rngs(key)))(keys)
        if config.final_norm:
            self.final_norm = Norm(config.hidden_size, config, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "R T"],
        packing: Packing,
        temperature: Float[Array, "L #R #K N"],
        token_type_ids: Int[Array, "R T"] | None = None,
        kernel: Kernel = "xla",
    ) -> Float[Array, "R T D"]:
        """Hidden states of the last layer, float32.

        Args:
            input_ids: token ids.
            packing: which text each is of; a token attends to those of its own text.
            temperature: τ by layer, text (or 1 for all texts alike) and head.
            token_type_ids: which segment a token belongs to; None means all in segment 0.
            kernel: what computes attention.
        """
        return self.observed(input_ids, packing, temperature, token_type_ids, kernel)[0]

    def observed(
        self,
        input_ids: Int[Array, "R T"],
        packing: Packing,
        temperature: Float[Array, "L #R #K N"],
        token_type_ids: Int[Array, "R T"] | None = None,
        kernel: Kernel = "xla",
        observe: Callable[[Layer, LayerInput], Any] | None = None,
    ) -> tuple[Float[Array, "R T D"], Any]:
        """Hidden states of the last layer, and what was observed of each layer, with a leading axis L.

        Args:
            input_ids: as the others, see `__call__`.
            packing: likewise.
            temperature: likewise.
            token_type_ids: likewise.
            kernel: likewise.
            observe: a pure function of each layer and what it is called with; None observes nothing.
        """
        config = self.config
        with jax.named_scope("embeddings"):
            x = self.embeddings(input_ids, packing, token_type_ids)
        view, nearby = self._view(packing, kernel)
        layers = jnp.arange(config.num_layers)
        local = jnp.isin(layers, jnp.array(config.local_layers)) if config.local_layers else None

        def step(
            x: Float[Array, "R T D"],
            each: tuple[Layer | None, Float[Array, "#R #K N"], Int[Array, ""], Bool[Array, ""] | None],
        ) -> tuple[Float[Array, "R T D"], Any]:
            layer, temperature, index, local = each
            rotation = view.rotation
            if local is not None:
                rotation = jax.tree.map(lambda a, b: jnp.where(local, a, b), nearby, rotation)
            seen = view._replace(local=local, rotation=rotation)
            layer = self.layers if layer is None else layer
            given = LayerInput(x, seen, by_token(temperature, packing), index == 0)
            return layer(*given, kernel), None if observe is None else observe(layer, given)

        x, found = jax.lax.scan(step, x, (None if config.shared_layers else self.layers, temperature, layers, local))
        return self.final_norm(x) if config.final_norm else x, found

    def _view(self, packing: Packing, kernel: Kernel) -> tuple[View, Rotation | None]:
        """Return the view of all layers, and the rotation of the layers that see a window."""
        config = self.config
        length = packing.segments.shape[1]
        by_offset = None
        if config.relative_buckets is not None:
            table = self.relative_bias.embedding[...].astype(jnp.float32)
            by_offset = relative_bias(table, length, config.relative_max_distance)
        if config.alibi:
            slopes = alibi_bias(config.num_heads, length)
            by_offset = slopes if by_offset is None else by_offset + slopes

        def turned(theta: float | None) -> Rotation | None:
            return None if theta is None else rotation(packing.positions, config.head_dim, theta, config.rope_factor)

        # Spread once here, not in each layer.
        pairs = by_pair(by_offset, 0, length, length) if by_offset is not None and kernel in ("xla", "mapped") else None
        view = View(packing, rotation=turned(config.rope_theta), by_offset=by_offset, by_pair=pairs)
        return view, turned(config.local_rope_theta or config.rope_theta)
