"""Hidden states of the original in PyTorch and of the converted network, on the same random token ids."""

import copy

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.lazy import lazy
from tsjax.checkpoints.format import read_header, read_network_weights
from tsjax.model.forward import apply, weight_shapes
from tsjax.model.params import cast_params, unflatten

hidden_states = lazy("conversion.originals", "hidden_states")

LENGTHS = np.array([80, 3, 41, 17])
TEMPERATURES = (1.0, 0.8, 0.5)


def ids(seed, vocabulary=101):
    """Return random tokens; the padding tokens of some families, 0 and 1, also stand inside the texts."""
    tokens = np.random.default_rng(seed).integers(0, vocabulary, (len(LENGTHS), LENGTHS.max()))
    tokens[:, 1], tokens[:2, 2] = 1, 0
    return tokens


def ours(path, input_ids, temperature, dtype="float32"):
    header = read_header(path)
    model, encoder = header.metadata.model, header.metadata.model.encoder
    params = cast_params(
        model, jax.device_put(unflatten(read_network_weights(header, weight_shapes(model)))), jnp.dtype(dtype)
    )
    tau = jnp.full((encoder.num_layers, 1, encoder.num_heads), temperature, jnp.float32)
    output = apply(model, params, jnp.asarray(input_ids), jnp.asarray(LENGTHS), tau)
    return np.asarray(output.tokens, np.float64)


def mean_vectors(states, mask):
    vectors = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def compare(model, converted, tau):
    """Compare hidden states and mean vectors with PyTorch's; return the greatest differences.

    PyTorch computes in float64, so that its own rounding, which depends on the CPU, has no influence.
    """
    expected, mask = hidden_states(copy.deepcopy(model).double(), ids(1), LENGTHS, tau)
    states = ours(converted, ids(1), tau)
    scale = np.abs(expected[mask]).max()
    worst = np.abs(states - expected)[mask].max() / scale
    vectors = np.abs(mean_vectors(states, mask) - mean_vectors(expected, mask)).max()
    print(f"τ {tau}: hidden states {worst:.1e}, vectors {vectors:.1e}")
    assert worst <= 2e-6
    assert vectors <= 1e-6
    return worst, vectors
