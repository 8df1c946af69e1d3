"""Reference file tsjax/doctor/expected.npz: the vectors of `tsjax doctor`'s models, in float64, by NumPy alone.

This is a second implementation of the network, written from its formulas and not from the first: one text at a time,
every product in its literal form, no packing, no kernel, no JAX. Usage: python -m scripts.verify.doctor_reference
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.doctor.models import (
    EXPECTED,
    GRADIENT_TEXTS,
    MODELS,
    TEMPERATURES,
    direction,
    parameters,
    temperature,
    token_ids,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.model.config import EncoderConfig, ModelConfig

    Array = NDArray[np.float64]
    Weights = dict[str, Array]


def vectors(config: ModelConfig, kind: str) -> Array:
    """Return the vectors of all texts, float64 (texts, E)."""
    weights = {name: value.astype(np.float64) for name, value in parameters(config).items()}
    tau = temperature(kind, config).astype(np.float64)
    return np.stack([_pooled(config, _encoded(config.encoder, weights, ids, tau)) for ids in token_ids()])


def gradient(config: ModelConfig) -> Array:
    """Return the gradient by τ of each layer and head, float64 (L, N), by central differences."""
    weights = {name: value.astype(np.float64) for name, value in parameters(config).items()}
    texts = [ids for ids in token_ids() if len(ids) in GRADIENT_TEXTS]
    tau, step = temperature("by head", config).astype(np.float64), 1e-5

    def total(tau: Array) -> float:
        pooled = [_pooled(config, _encoded(config.encoder, weights, ids, tau)) for ids in texts]
        return float(np.sum(np.stack(pooled) * direction(config)))

    found = np.empty_like(tau)
    for place in np.ndindex(*tau.shape):
        change = np.zeros_like(tau)
        change[place] = step
        found[place] = (total(tau + change) - total(tau - change)) / (2 * step)
    return found


def _encoded(config: EncoderConfig, weights: Weights, ids: NDArray[np.int32], tau: Array) -> Array:
    """Return the token vectors of one text, float64 (T, D)."""
    x = weights["encoder.embeddings.token.embedding"][ids]
    if config.type_vocab_size:
        x = x + weights["encoder.embeddings.token_type.embedding"][0]
    if config.absolute_positions:
        x = x + weights["encoder.embeddings.position.embedding"][: len(ids)]
    if config.embedding_norm:
        x = _norm(config, x, weights, "encoder.embeddings.norm")
    for index in range(config.num_layers):
        prefix = "encoder.layers."
        layer = {name.removeprefix(prefix): v[index] for name, v in weights.items() if name.startswith(prefix)}
        layer["relative_bias"] = weights.get("encoder.relative_bias.embedding", np.zeros(0))
        if config.norm_placement == "post":
            x = _norm(config, x + _attention(config, layer, x, tau[index], index), layer, "attention_norm")
            x = _norm(config, x + _feed_forward(config, layer, x), layer, "feed_forward_norm")
        else:
            normed = x if index == 0 and not config.first_norm else _norm(config, x, layer, "attention_norm")
            x = x + _attention(config, layer, normed, tau[index], index)
            x = x + _feed_forward(config, layer, _norm(config, x, layer, "feed_forward_norm"))
    return _norm(config, x, weights, "encoder.final_norm") if config.final_norm else x


def _norm(config: EncoderConfig, x: Array, weights: Weights, name: str) -> Array:
    if config.norm == "layer_norm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps)
    return x * weights[f"{name}.scale"] + weights.get(f"{name}.bias", np.zeros(1))


def _attention(config: EncoderConfig, layer: Weights, x: Array, tau: Array, index: int) -> Array:
    places = np.arange(len(x))
    offset = places[None, :] - places[:, None]  # from the query to the key
    seen = offset <= 0 if config.causal else np.ones_like(offset, bool)
    local = index in config.local_layers
    if local and config.local_window is not None:
        seen = seen & (np.abs(offset) <= config.local_window)
    theta = config.local_rope_theta if local and config.local_rope_theta else config.rope_theta
    out = np.zeros((len(x), config.hidden_size))
    for head in range(config.num_heads):
        group = head * config.key_value_heads // config.num_heads
        query, key, value = (
            x @ layer[f"attention.{name}.kernel"][:, number]
            + (layer[f"attention.{name}.bias"][number] if config.attention_bias else 0)
            for name, number in (("query", head), ("key", group), ("value", group))
        )
        if config.query_key_norm:
            query = _norm(config, query, layer, "attention.query_norm")
            key = _norm(config, key, layer, "attention.key_norm")
        if theta is not None:
            query, key = _rotated(query, theta), _rotated(key, theta)
        logits = query @ key.T / math.sqrt(config.head_dim)
        if config.relative_buckets is not None:
            logits = logits + layer["relative_bias"][_buckets(offset, config), head]
        logits = np.where(seen, logits / tau[head], -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        out = out + weights @ value @ layer["attention.out.kernel"][head]
    return out + (layer["attention.out.bias"] if config.attention_bias else 0)


def _rotated(x: Array, theta: float) -> Array:
    """Rotate the i-th and the (i + H/2)-th feature of each token by its position times theta^(−2i/H)."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=1)


def _buckets(offset: NDArray[np.int_], config: EncoderConfig) -> NDArray[np.int_]:
    """Return T5's buckets (arXiv:1910.10683): exact for near keys, logarithmic beyond, separate by direction."""
    assert config.relative_buckets is not None
    half = config.relative_buckets // 2
    exact = half // 2
    distance = np.maximum(np.abs(offset), 1)
    ratio = np.log(distance / exact) / math.log(config.relative_max_distance / exact)
    # A distance on a boundary stays on its upper side, regardless of rounding in the logarithm.
    far = np.minimum(exact + np.floor(ratio * (half - exact) + 1e-9).astype(int), half - 1)
    return np.where(np.abs(offset) < exact, np.abs(offset), far) + np.where(offset > 0, half, 0)


def _feed_forward(config: EncoderConfig, layer: Weights, x: Array) -> Array:
    def linear(name: str, x: Array) -> Array:
        return x @ layer[f"feed_forward.{name}.kernel"] + layer.get(f"feed_forward.{name}.bias", np.zeros(1))

    if config.feed_forward == "gated":
        return linear("down", _activated(config, linear("gate", x)) * linear("up", x))
    return linear("down", _activated(config, linear("up", x)))


def _activated(config: EncoderConfig, x: Array) -> Array:
    if config.activation == "silu":
        return x / (1 + np.exp(-x))
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _pooled(config: ModelConfig, tokens: Array) -> Array:
    weights = np.arange(1, len(tokens) + 1)[:, None]
    ways = {
        "cls": tokens[0],
        "lasttoken": tokens[-1],
        "max": tokens.max(0),
        "mean": tokens.mean(0),
        "weightedmean": (tokens * weights).sum(0) / weights.sum(),
    }
    return np.concatenate([ways[mode] for mode in config.pooling.modes])


def main() -> None:
    """Compute and write the vectors of every model at every temperature."""
    arrays: dict[str, Any] = {
        f"{name}, τ {kind}": vectors(config, kind) for name, config in MODELS.items() for kind in TEMPERATURES
    }
    arrays |= {f"{name}, gradient": gradient(config) for name, config in MODELS.items()}
    np.savez_compressed(EXPECTED, **arrays)


if __name__ == "__main__":
    main()
