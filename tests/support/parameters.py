"""Random parameters of a network, made by NumPy: `init_params` compiles for seconds."""

import jax
import numpy as np

from tsjax.model.forward import weight_shapes
from tsjax.model.params import unflatten


def random_params(config, seed=0):
    """Return float32 parameters like those of `init_params`, but with biases that are not zero."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        spread = 1 / np.sqrt(config.encoder.hidden_size) if name.endswith("kernel") else 0.1
        weights[name] = (spread * rng.standard_normal(shape) + name.endswith("scale")).astype("f4")
    return jax.device_put(unflatten(weights))
