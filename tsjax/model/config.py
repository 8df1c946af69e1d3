"""The architecture of an encoder, in our words: frozen facts, checked when made.

What the BERT-like families differ in is a field here, so that the network is written once and a family is data. A
combination that the network cannot run is refused here, by name, and not somewhere inside a trace.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_type_hints

from tsjax.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "identity"]
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
        """As plain JSON values; `from_json` is the inverse."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ConfigError: a field is unknown or missing.
        """
        try:
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in data.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {str(error).replace(f'{cls.__name__}.__init__()', 'it')}") from error


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(_Facts):
    """What the network of an encoder is.

    Sizes come first, then the choices in which families differ. Of those, this version runs the ones in `RUNNABLE`
    only; another value is refused when the config is made.

    Attributes:
        vocab_size: V, rows of the token embedding.
        hidden_size: D.
        num_layers: L.
        num_heads: N, query heads.
        intermediate_size: F, width of the feed-forward network.
        max_positions: rows of the position table, or the longest input where positions are computed.
        head_size: H; ``None`` means D / N.
        position_offset: the row of the position table that the first token uses.
        type_vocab_size: rows of the token-type embedding; 0 means that the family has none.
        norm_eps: ε of every norm.
        activation: of the feed-forward network; ``gelu`` is the exact erf form.
        attention_scale: factor on the logits; ``None`` means 1/√H.
        position: how positions enter: added to the embeddings, by rotating queries and keys, or as a bias on logits.
        rope_theta: base of the rotation's wavelengths.
        local_rope_theta: the same in layers that see a window only; ``None``: as everywhere.
        rotary_share: the part of each head that is rotated.
        relative_buckets: rows of the table of relative biases.
        relative_max_distance: the distance from which on all are in the last bucket.
        norm: LayerNorm or RMSNorm.
        norm_placement: after the residual sum (``post``) or before each block (``pre``).
        embedding_norm: whether the embeddings are normalised.
        final_norm: whether the last layer's output is normalised once more.
        feed_forward: two matrices (``plain``) or three with a gate (``gated``).
        attention_bias: whether the projections of attention have biases.
        feed_forward_bias: whether the feed-forward network's matrices have biases.
        norm_bias: whether LayerNorms have biases.
        num_key_value_heads: key and value heads; ``None`` means N, anything less is grouped-query attention.
        embedding_size: width of the embeddings; ``None`` means D, anything else is projected to D.
        shared_layers: whether all layers have the same weights.
        local_window: tokens that a local layer sees, both sides together; ``None``: every layer sees all.
        global_every: with a window, layers 0, n, 2n, … see all.
        causal: whether a token sees only those before it.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    head_size: int | None = None
    position_offset: int = 0
    type_vocab_size: int = 0
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    attention_scale: float | None = None
    position: Literal["absolute", "rotary", "relative_bias", "alibi"] = "absolute"
    rope_theta: float | None = None
    local_rope_theta: float | None = None
    rotary_share: float | None = None
    relative_buckets: int | None = None
    relative_max_distance: int | None = None
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_placement: Literal["post", "pre"] = "post"
    embedding_norm: bool = True
    final_norm: bool = False
    feed_forward: Literal["plain", "gated"] = "plain"
    attention_bias: bool = True
    feed_forward_bias: bool = True
    norm_bias: bool = True
    num_key_value_heads: int | None = None
    embedding_size: int | None = None
    shared_layers: bool = False
    local_window: int | None = None
    global_every: int | None = None
    causal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions"):
            _check_count(self, name, least=1)
        for name in ("position_offset", "type_vocab_size"):
            _check_count(self, name, least=0)
        if self.head_size is not None:
            _check_count(self, "head_size", least=1)
        elif self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        for name in ("norm_eps", "attention_scale"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, float | int) and 0 < value < math.inf):
                raise ConfigError(f"{name} must be finite and > 0, not {value!r}")
        if self.max_length < 1:
            raise ConfigError(f"position_offset {self.position_offset} leaves none of {self.max_positions} positions")
        for name, value in RUNNABLE.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"this version of tsjax cannot run an encoder with {name} = {getattr(self, name)!r}; "
                    f"it runs {name} = {value!r}"
                )

    @property
    def head_dim(self) -> int:
        """H, given or D / N."""
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @property
    def max_length(self) -> int:
        """The longest input in tokens, special ones included."""
        return self.max_positions - self.position_offset


# The choices that the network has today. Whoever teaches it another takes the row out, or checks it in its place.
RUNNABLE: dict[str, object] = {
    "position": "absolute",
    "rope_theta": None,
    "local_rope_theta": None,
    "rotary_share": None,
    "relative_buckets": None,
    "relative_max_distance": None,
    "norm": "layer_norm",
    "norm_placement": "post",
    "embedding_norm": True,
    "final_norm": False,
    "feed_forward": "plain",
    "attention_bias": True,
    "feed_forward_bias": True,
    "norm_bias": True,
    "num_key_value_heads": None,
    "embedding_size": None,
    "shared_layers": False,
    "local_window": None,
    "global_every": None,
    "causal": False,
}


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(_Facts):
    """How token vectors become one vector.

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
        kind: a linear layer with an activation, a LayerNorm with ε 1e-5, or division by the Euclidean norm.
        in_features: width that it takes.
        out_features: width that it gives.
        use_bias: for ``dense``, whether it adds a bias.
        activation: for ``dense``.
        residual: for ``dense``, whether its input is added to its output, projected where the widths differ.
    """

    kind: Literal["dense", "layer_norm", "normalize"]
    in_features: int
    out_features: int
    use_bias: bool = True
    activation: Activation = "identity"
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("in_features", "out_features"):
            _check_count(self, name, least=1)
        if self.kind != "dense" and self.in_features != self.out_features:
            raise ConfigError(
                f"a {self.kind} head cannot change the width from {self.in_features} to {self.out_features}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
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

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` is the inverse."""
        return {
            "encoder": self.encoder.to_json(),
            "pooling": self.pooling.to_json(),
            "heads": [head.to_json() for head in self.heads],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_json`."""
        return cls(
            encoder=EncoderConfig.from_json(data["encoder"]),
            pooling=PoolingConfig.from_json(data["pooling"]),
            heads=tuple(HeadConfig.from_json(head) for head in data["heads"]),
        )


def _check_count(config: object, name: str, least: int) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")
