"""The activations of a Dense module, which its config names by their classes in torch.nn.

The config stores no parameters, and sentence-transformers creates the class without any. A GELU that was saved with
``approximate="tanh"`` therefore becomes the exact GELU when it is loaded, there and here. The table omits activations
that have weights (PReLU), change the width (GLU), or cannot be created or applied in this way (Threshold,
MultiheadAttention, Softmax2d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from tsjax.model.config import Activation

ACTIVATIONS: dict[str, Activation] = {
    "CELU": "celu",
    "ELU": "elu",
    "GELU": "gelu",
    "Hardshrink": "hard_shrink",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_swish",
    "Hardtanh": "hard_tanh",
    "Identity": "identity",
    "LeakyReLU": "leaky_relu",
    "LogSigmoid": "log_sigmoid",
    "LogSoftmax": "log_softmax",
    "Mish": "mish",
    "RReLU": "rrelu",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SELU": "selu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softmin": "softmin",
    "Softplus": "softplus",
    "Softshrink": "soft_shrink",
    "Softsign": "soft_sign",
    "Tanh": "tanh",
    "Tanhshrink": "tanh_shrink",
}


def torch_activation(path: str, file: str) -> Activation:
    """Return the tsjax name of an activation class in torch.nn.

    Args:
        path: dotted path of the class, such as ``torch.nn.modules.activation.Tanh``.
        file: file that names the class, for the message.

    Raises:
        ConversionError: the class is not in torch.nn, or not supported.
    """
    module, _, name = path.rpartition(".")
    if not f"{module}.".startswith("torch.nn.") or name not in ACTIVATIONS:
        raise ConversionError(
            f"{file}: activation {path!r:.100} is not supported; of torch.nn, known: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
