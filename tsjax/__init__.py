"""tsjax: text embeddings in JAX, with a temperature in every attention softmax.

>>> import tsjax
>>> vectors = tsjax.embed(["How tall is the Eiffel tower?", "It is 330 metres high."])  # numpy (2, 384)
>>> embedder = tsjax.load("BAAI/bge-base-en-v1.5", temperature=0.9)
>>> vectors = embedder.encode(texts, normalize_embeddings=True)

Names are resolved on first use, so that ``import tsjax`` imports neither JAX nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tsjax.api import embed, load
    from tsjax.embedder import Embedder
    from tsjax.errors import TruncationWarning, TsjaxError
    from tsjax.quantization import quantize_embeddings
    from tsjax.temperature import Temperature

__version__ = "0.1.0"

_HOME = {
    "Embedder": "tsjax.embedder",
    "Temperature": "tsjax.temperature",
    "TruncationWarning": "tsjax.errors",
    "TsjaxError": "tsjax.errors",
    "embed": "tsjax.api",
    "load": "tsjax.api",
    "quantize_embeddings": "tsjax.quantization",
}

__all__ = [
    "Embedder",
    "Temperature",
    "TruncationWarning",
    "TsjaxError",
    "embed",
    "load",
    "quantize_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tsjax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
