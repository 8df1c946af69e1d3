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

from tsjax._version import __version__ as __version__
from tsjax.engine import forks as forks  # imported first: it must see every later fork

if TYPE_CHECKING:
    from tsjax.api import embed, load
    from tsjax.checkpoints.temperature_folding import fold
    from tsjax.encoders.cross_encoder import CrossEncoder
    from tsjax.encoders.embedder import Embedder
    from tsjax.encoders.quantization import quantize_embeddings
    from tsjax.encoders.router import RoutedEmbedder
    from tsjax.errors import (
        AssumptionWarning,
        CheckpointError,
        ConfigError,
        ConversionError,
        InputError,
        KeywordError,
        LifecycleError,
        MissingExtraError,
        ModelNotFoundError,
        OutputError,
        TruncationWarning,
        TsjaxError,
    )
    from tsjax.storage.compile_cache import enable_compile_cache
    from tsjax.temperature import LogLength, Piecewise, Temperature

__all__ = [
    "AssumptionWarning",
    "CheckpointError",
    "ConfigError",
    "ConversionError",
    "CrossEncoder",
    "Embedder",
    "InputError",
    "KeywordError",
    "LifecycleError",
    "LogLength",
    "MissingExtraError",
    "ModelNotFoundError",
    "OutputError",
    "Piecewise",
    "RoutedEmbedder",
    "Temperature",
    "TruncationWarning",
    "TsjaxError",
    "embed",
    "enable_compile_cache",
    "fold",
    "load",
    "quantize_embeddings",
]

_HOME = {
    "CrossEncoder": "tsjax.encoders.cross_encoder",
    "Embedder": "tsjax.encoders.embedder",
    "LogLength": "tsjax.temperature",
    "Piecewise": "tsjax.temperature",
    "RoutedEmbedder": "tsjax.encoders.router",
    "Temperature": "tsjax.temperature",
    "embed": "tsjax.api",
    "enable_compile_cache": "tsjax.storage.compile_cache",
    "fold": "tsjax.checkpoints.temperature_folding",
    "load": "tsjax.api",
    "quantize_embeddings": "tsjax.encoders.quantization",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tsjax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "tsjax.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
