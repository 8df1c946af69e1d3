"""The architecture of an encoder, in our words: frozen facts, checked when made.

What the BERT-like families differ in is a field here, so that the network is written once and a family is data. A
combination that the network cannot run is refused here, by name, and not somewhere inside a trace.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_type_hints

from tsjax.errors import ConfigError
from tsjax.storage.json_values import decode
from tsjax.validation.numbers import check_whole_fields, finite_number

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal[
    "celu",
    "elu",
    "gelu",
    "gelu_tanh",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "soft_sign",
    "softmax",
    "softmin",
    "softplus",
    "tanh",
    "tanh_shrink",
]
# The dtype that an encoder computes in; vectors are float32 in any case.
Dtype = Literal["float32", "bfloat16", "float16"]

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


class _Facts:
    """A frozen dataclass that checks its literals and goes to JSON and back without loss."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            allowed = get_args(hint)
            value = getattr(self, name)
            if allowed and all(isinstance(choice, str) for choice in allowed) and value not in allowed:
                raise ConfigError(f"{type(self).__name__}.{name} is {value!r}; it can be {', '.join(allowed)}")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` is the inverse."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ConfigError: a field is unknown, is missing, or has a value of another type.
        """
        return decode(data, cls, cls.__name__, ConfigError)


# The fields of an encoder that count something, and what they are at least; those required cannot be None.
_REQUIRED = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
_LEAST = {
    **dict.fromkeys((*_REQUIRED, "position_stride", "max_positions", "head_size", "num_key_value_heads"), 1),
    **dict.fromkeys(("embedding_size", "relative_buckets", "relative_max_distance"), 1),
    **dict.fromkeys(("type_vocab_size", "position_stride_up_to", "position_padding_id", "local_window"), 0),
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(_Facts):
    """The architecture of an encoder's network.

    Sizes come first, then the choices in which families differ. Each way to tell positions is on where its fields are
    set; several may be on at once.

    Attributes:
        vocab_size: V, rows of the token embedding.
        hidden_size: D.
        num_layers: L.
        num_heads: N, query heads.
        intermediate_size: F, width of the feed-forward network.
        max_positions: rows of the position table; without a table, the longest input that the model is made for,
            which is no limit; ``None``: unknown.
        head_size: H; ``None`` means D / N.
        num_key_value_heads: key and value heads; ``None`` means N, anything less is grouped-query attention.
        embedding_size: width of the embeddings, which a projection takes to D; ``None``: D, and no projection.
        embedding_scale: what the token embeddings are multiplied by.
        type_vocab_size: rows of the token-type embedding; 0 means that the family has none.
        absolute_positions: whether a learned table of positions is added to the embeddings.
        position_padding_id: if given, positions are counted as RoBERTa does: the first token uses the row after this
            one, and a token of this id takes the row of that number and is not counted.
        position_stride: rows of the position table from one token to the next, in texts of up to
            ``position_stride_up_to`` tokens; longer texts use every row.
        position_stride_up_to: see there.
        rope_theta: base of the wavelengths by which queries and keys are rotated.
        local_rope_theta: the same in local layers; ``None``: as everywhere.
        rope_factor: what positions are divided by before the rotation.
        relative_buckets: rows of the table of biases by relative position, one column a head, shared by all layers.
        relative_max_distance: the distance from which on all are in the last bucket.
        alibi: whether logits fall linearly with the distance, by a slope of each head's own (arXiv:2108.12409).
        attention_scale: factor on the logits; ``None`` means 1/√H.
        attention_bias: whether the projections of attention have biases.
        query_key_norm: whether each head's queries and keys are normalised.
        local_layers: the layers that see a window only.
        local_window: how many tokens to each side such a layer sees.
        causal: whether a token sees only those before it.
        norm: LayerNorm or RMSNorm.
        norm_eps: ε of every norm.
        norm_bias: whether LayerNorms have biases.
        norm_offset: what is added to the scales of norms.
        norm_placement: after the residual sum (``post``), before each block (``pre``), or before and after each block,
            inside the residual sum (``sandwich``).
        embedding_norm: whether the embeddings are normalised.
        first_norm: with ``pre``, whether the first layer has a norm before its attention.
        final_norm: whether the last layer's output is normalised once more.
        feed_forward: two matrices (``plain``) or three, one of them a gate (``gated``).
        activation: of the feed-forward network, or of its gate; ``gelu`` is the exact erf form.
        up_bias: whether the matrices from D to F have biases.
        down_bias: whether the matrix from F to D has one.
        shared_layers: whether all layers have the same weights.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int | None
    head_size: int | None = None
    num_key_value_heads: int | None = None
    embedding_size: int | None = None
    embedding_scale: float = 1.0
    type_vocab_size: int = 0
    absolute_positions: bool = True
    position_padding_id: int | None = None
    position_stride: int = 1
    position_stride_up_to: int = 0
    rope_theta: float | None = None
    local_rope_theta: float | None = None
    rope_factor: float = 1.0
    relative_buckets: int | None = None
    relative_max_distance: int = 128
    alibi: bool = False
    attention_scale: float | None = None
    attention_bias: bool = True
    query_key_norm: bool = False
    local_layers: tuple[int, ...] = ()
    local_window: int | None = None
    causal: bool = False
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: float = 1e-12
    norm_bias: bool = True
    norm_offset: float = 0.0
    norm_placement: Literal["post", "pre", "sandwich"] = "post"
    embedding_norm: bool = True
    first_norm: bool = True
    final_norm: bool = False
    feed_forward: Literal["plain", "gated"] = "plain"
    activation: Activation = "gelu"
    up_bias: bool = True
    down_bias: bool = True
    shared_layers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _LEAST.items():
            if getattr(self, name) is not None or name in _REQUIRED:
                check_whole_fields(self, name, at_least=least, error=ConfigError)
        for name in ("norm_eps", "attention_scale", "rope_theta", "local_rope_theta", "rope_factor", "embedding_scale"):
            if getattr(self, name) is not None:
                finite_number(name, getattr(self, name), positive=True, error=ConfigError)
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.key_value_heads:
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of {self.key_value_heads} key-value heads")
        if not self.first_norm and (self.num_layers == 1 or self.norm_placement != "pre"):
            raise ConfigError("leaving out the first norm needs pre-norm and more than one layer")
        self._check_positions()
        if self.local_layers and self.local_window is None:
            raise ConfigError("local layers need a local_window")
        if not all(isinstance(i, int) and 0 <= i < self.num_layers for i in self.local_layers):
            raise ConfigError(f"local_layers {self.local_layers} are not all among {self.num_layers} layers")

    def _check_positions(self) -> None:
        if self.absolute_positions and self.max_positions is None:
            raise ConfigError("absolute positions need max_positions")
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(
                f"position_padding_id {self.position_padding_id} leaves none of {self.max_positions} positions"
            )
        if self.position_stride > 1 and (self.max_positions or 0) <= self.position_stride * (
            self.position_stride_up_to - 1
        ):
            raise ConfigError(f"a position_stride of {self.position_stride} needs more than {self.max_positions} rows")
        if self.rope_theta is not None and self.head_dim % 2:
            raise ConfigError(f"rotary positions need an even head size, not {self.head_dim}")
        if self.relative_buckets is not None and (
            self.relative_buckets < 4 or self.relative_max_distance <= self.relative_buckets // 4
        ):
            raise ConfigError(
                f"{self.relative_buckets} relative buckets do not reach a distance of {self.relative_max_distance}"
            )

    @property
    def head_dim(self) -> int:
        """H, given or D / N."""
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, given or N."""
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def logit_scale(self) -> float:
        """The factor on the logits, given or 1/√H."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def made_for_length(self) -> int | None:
        """The longest input in tokens that the model is made for, special ones included; None where it is unknown."""
        if self.max_positions is None or self.position_padding_id is None:
            return self.max_positions
        return self.max_positions - self.position_padding_id - 1

    @property
    def max_length(self) -> int | None:
        """The longest input in tokens that can be computed; None for any.

        Only a table of positions ends. Rotary positions, ALiBi and biases by relative position go on for ever.
        """
        return self.made_for_length if self.absolute_positions else None

    @property
    def positions(self) -> str:
        """Describe the positions of the network in a few words."""
        ways = {
            "absolute": self.absolute_positions,
            "rotary": self.rope_theta is not None,
            "relative bias": self.relative_buckets is not None,
            "ALiBi": self.alibi,
        }
        return " and ".join(way for way, used in ways.items() if used) or "no"


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(_Facts):
    """The pooling of token vectors into one vector.

    Attributes:
        modes: one or more of sentence-transformers' six; several are concatenated in this order.
        include_prompt: whether the prompt's tokens (and the special ones before them) take part.
    """

    modes: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True

    def __post_init__(self) -> None:
        if not self.modes:
            raise ConfigError("pooling needs at least one mode")
        for mode in self.modes:
            if mode not in get_args(PoolingMode):
                raise ConfigError(f"unknown pooling mode {mode!r}; it can be {', '.join(get_args(PoolingMode))}")


@dataclass(frozen=True, kw_only=True)
class HeadConfig(_Facts):
    """One step after pooling.

    Attributes:
        kind: a linear layer with an activation, a LayerNorm, or division by the Euclidean norm.
        in_features: width that it takes.
        out_features: width that it gives.
        use_bias: for ``dense`` and ``layer_norm``, whether it adds a bias.
        activation: for ``dense``.
        residual: for ``dense``, whether its input is added to its output, projected where the widths differ.
        norm_eps: ε of a ``layer_norm``.
    """

    kind: Literal["dense", "layer_norm", "normalize"]
    in_features: int
    out_features: int
    use_bias: bool = True
    activation: Activation = "identity"
    residual: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_fields(self, "in_features", "out_features", error=ConfigError)
        if self.kind != "dense" and self.in_features != self.out_features:
            raise ConfigError(
                f"a {self.kind} head cannot change the width from {self.in_features} to {self.out_features}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Facts):
    """An encoder, its pooling, and the heads after it, checked to fit each other."""

    encoder: EncoderConfig
    pooling: PoolingConfig = PoolingConfig()
    heads: tuple[HeadConfig, ...] = ()

    def __post_init__(self) -> None:
        width = self.encoder.hidden_size * len(self.pooling.modes)
        for index, head in enumerate(self.heads):
            if head.in_features != width:
                raise ConfigError(f"head {index} ({head.kind}) takes {head.in_features} features but gets {width}")
            width = head.out_features

    @property
    def embedding_dimension(self) -> int:
        """Width of the vector that comes out."""
        if self.heads:
            return self.heads[-1].out_features
        return self.encoder.hidden_size * len(self.pooling.modes)
