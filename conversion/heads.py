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
    """A head, the directory of its weights, and their rules; the directory is None for a head without weights."""

    config: HeadConfig
    directory: Path | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Classifier:
    """A classification head.

    Attributes:
        pooling: the pooling of the tokens.
        steps: the layers that follow, with the rules of their weights.
        config: the fields of config.json that describe the head, where it varies within the family.
    """

    pooling: PoolingMode
    steps: tuple[tuple[HeadConfig, tuple[Rule, ...]], ...]
    config: Mapping[str, Any] = field(default_factory=dict)


def dense_rules(config: HeadConfig, torch: str = "linear") -> tuple[Rule, ...]:
    """Return the rules of a Dense module, or of a linear layer that has another name in PyTorch."""
    rules = [Rule(f"{torch}.weight", "linear.kernel", "o i -> i o")]
    if config.use_bias:
        rules.append(Rule(f"{torch}.bias", "linear.bias"))
    if config.residual and config.in_features != config.out_features:
        rules.append(Rule("residual.weight", "residual.kernel", "o i -> i o"))
    return tuple(rules)


def layer_norm_rules(config: HeadConfig, torch: str = "norm") -> tuple[Rule, ...]:
    """Return the rules of a LayerNorm module, or of a norm that has another name in PyTorch."""
    scale, bias = Rule(f"{torch}.weight", "norm.scale"), Rule(f"{torch}.bias", "norm.bias")
    return (scale, bias) if config.use_bias else (scale,)


def dense(
    torch: str, inputs: int, outputs: int, activation: Activation = "identity", *, bias: bool = True
) -> tuple[HeadConfig, tuple[Rule, ...]]:
    """Return a linear layer with an activation, and the rules of its weights."""
    config = HeadConfig(kind="dense", in_features=inputs, out_features=outputs, use_bias=bias, activation=activation)
    return config, dense_rules(config, torch)


def layer_norm(torch: str, size: int, eps: float, *, bias: bool = True) -> tuple[HeadConfig, tuple[Rule, ...]]:
    """Return a LayerNorm, and the rules of its weights."""
    config = HeadConfig(kind="layer_norm", in_features=size, out_features=size, use_bias=bias, norm_eps=eps)
    return config, layer_norm_rules(config, torch)
