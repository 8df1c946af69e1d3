"""Layers that follow pooling, and the rules of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conversion.rules import Rule
from tsjax.model.config import HeadConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tsjax.model.config import Activation, PoolingMode


@dataclass(frozen=True)
class HeadSource:
    """A head, where its weights are, and their rules; no directory where it has none."""

    config: HeadConfig
    directory: Path | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Classifier:
    """A head.

    Attributes:
        pooling: how tokens are pooled.
        steps: what follows, with the rules of its weights.
        config: the fields of config.json that say so, where the family's head varies.
    """

    pooling: PoolingMode
    steps: tuple[tuple[HeadConfig, tuple[Rule, ...]], ...]
    config: Mapping[str, Any] = field(default_factory=dict)


def dense_rules(config: HeadConfig, torch: str = "linear") -> tuple[Rule, ...]:
    """The weights of a Dense module, or of a linear layer that goes by another name in PyTorch."""
    rules = [Rule(f"{torch}.weight", "linear.kernel", "o i -> i o")]
    if config.use_bias:
        rules.append(Rule(f"{torch}.bias", "linear.bias"))
    if config.residual and config.in_features != config.out_features:
        rules.append(Rule("residual.weight", "residual.kernel", "o i -> i o"))
    return tuple(rules)


def layer_norm_rules(config: HeadConfig, torch: str = "norm") -> tuple[Rule, ...]:
    """The weights of a LayerNorm module, or of a norm that goes by another name in PyTorch."""
    scale, bias = Rule(f"{torch}.weight", "norm.scale"), Rule(f"{torch}.bias", "norm.bias")
    return (scale, bias) if config.use_bias else (scale,)


def dense(
    torch: str, inputs: int, outputs: int, activation: Activation = "identity", *, bias: bool = True
) -> tuple[HeadConfig, tuple[Rule, ...]]:
    """A linear layer with an activation."""
    config = HeadConfig(kind="dense", in_features=inputs, out_features=outputs, use_bias=bias, activation=activation)
    return config, dense_rules(config, torch)


def layer_norm(torch: str, size: int, eps: float, *, bias: bool = True) -> tuple[HeadConfig, tuple[Rule, ...]]:
    """A LayerNorm."""
    config = HeadConfig(kind="layer_norm", in_features=size, out_features=size, use_bias=bias, norm_eps=eps)
    return config, layer_norm_rules(config, torch)
