"""Four small random models and their inputs, the same on every machine, with the expected vectors.

`RandomState` makes the numbers, because NumPy has frozen its streams. The expected vectors were computed in float64 by
`scripts/verify/doctor_reference.py`, which uses neither JAX nor this package's network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.model.config import EncoderConfig, ModelConfig, PoolingConfig
from tsjax.model.forward import weight_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = Path(__file__).parent / "expected.npz"

VOCABULARY = 50

# Tokens of each text: one, the border of a window, more than a window of the local layers, and up to 2,048.
LENGTHS = (2048, 777, 512, 300, 129, 128, 65, 17, 16, 3, 1, 1)

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 96,
    "max_positions": 2048,
}

# One model for each variant of attention: a kernel that works for one may fail for another.
MODELS = {
    "absolute positions": ModelConfig(
        encoder=EncoderConfig(num_layers=2, type_vocab_size=2, **_SIZES),
        pooling=PoolingConfig(modes=("cls", "mean")),
    ),
    "rotary, local layers": ModelConfig(
        encoder=EncoderConfig(
            num_layers=3,
            absolute_positions=False,
            rope_theta=160_000.0,
            local_rope_theta=10_000.0,
            local_layers=(1, 2),
            local_window=64,
            norm_placement="pre",
            norm_bias=False,
            norm_eps=1e-5,
            first_norm=False,
            final_norm=True,
            feed_forward="gated",
            attention_bias=False,
            up_bias=False,
            down_bias=False,
            **_SIZES,
        ),
    ),
    "causal, grouped heads, normalised queries": ModelConfig(
        encoder=EncoderConfig(
            num_layers=2,
            num_key_value_heads=2,
            absolute_positions=False,
            rope_theta=1e6,
            query_key_norm=True,
            causal=True,
            norm="rms_norm",
            norm_eps=1e-6,
            norm_placement="pre",
            embedding_norm=False,
            final_norm=True,
            feed_forward="gated",
            activation="silu",
            attention_bias=False,
            up_bias=False,
            down_bias=False,
            **_SIZES,
        ),
        pooling=PoolingConfig(modes=("lasttoken",)),
    ),
    "bias by relative position": ModelConfig(
        encoder=EncoderConfig(num_layers=2, absolute_positions=False, relative_buckets=32, **_SIZES),
        pooling=PoolingConfig(modes=("max", "weightedmean")),
    ),
}

# Lengths of the texts whose gradients are taken.
GRADIENT_TEXTS = (129, 65, 17, 3)

# τ: one for all, or one for each layer and head.
TEMPERATURES = ("one", "by head")


def parameters(config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """Return the model's random parameters by dotted name, float32."""
    random = np.random.RandomState(1234)
    weights = {}
    for name, shape in weight_shapes(config).items():
        values = random.standard_normal(shape)
        if name.endswith("scale"):
            values = 1 + 0.1 * values
        elif name.endswith("kernel"):
            values = values / np.sqrt(config.encoder.hidden_size)
        elif name.endswith("bias"):
            values = 0.2 * values
        weights[name] = values.astype(np.float32)
    return weights


def token_ids() -> list[NDArray[np.int32]]:
    """Return the token ids of each text."""
    random = np.random.RandomState(5678)
    return [random.randint(1, VOCABULARY, size=length).astype(np.int32) for length in LENGTHS]


def temperature(kind: str, config: ModelConfig) -> NDArray[np.float32]:
    """Return τ of one of `TEMPERATURES`, float32 (L, N)."""
    shape = (config.encoder.num_layers, config.encoder.num_heads)
    if kind == "one":
        return np.ones(shape, np.float32)
    return np.linspace(0.5, 1.25, num=shape[0] * shape[1], dtype=np.float32).reshape(shape)


def direction(config: ModelConfig) -> NDArray[np.float32]:
    """Return the factors on the vectors of `GRADIENT_TEXTS` before they are summed, float32 (E,)."""
    return np.random.RandomState(91).standard_normal(config.embedding_dimension).astype(np.float32)


def expected(name: str, kind: str) -> NDArray[np.float64]:
    """Return the vectors that a model must return for the texts of `token_ids`, float64 (texts, E)."""
    with np.load(EXPECTED) as stored:
        vectors: NDArray[np.float64] = stored[f"{name}, τ {kind}"]
    return vectors


def expected_gradient(name: str) -> NDArray[np.float64]:
    """Return the gradient of that sum with respect to τ of each layer and head, at τ "by head": float64 (L, N)."""
    with np.load(EXPECTED) as stored:
        gradient: NDArray[np.float64] = stored[f"{name}, gradient"]
    return gradient
