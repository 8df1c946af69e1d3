"""From a model's name to an `Embedder`, and from texts to vectors in one call."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax import hub
from tsjax.embedder import Embedder
from tsjax.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from tsjax.temperature import TemperatureLike


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    ignore_config_fields: Collection[str] = (),
    **options: Any,
) -> Embedder:
    """Load a model.

    Args:
        model: a directory (a converted checkpoint, or one of Hugging Face or sentence-transformers, which is converted
            once and cached) or the name of a repository on the Hugging Face hub; None for all-MiniLM-L6-v2.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        ignore_config_fields: names of unknown config fields to wave through.
        options: ``temperature``, ``dtype`` (float32, bfloat16 or float16), ``max_seq_length``, ``prompts``,
            ``default_prompt_name``, ``truncate_dim``, ``similarity_fn_name``, ``token_budget``; see `Embedder`.

    Raises:
        ModelNotFoundError: the name leads to nothing.
        ConversionError, CheckpointError: what it leads to cannot be used.
        InputError: an option that cannot be used.
    """

    def resolve() -> Path:
        return hub.resolve(
            model, revision=revision, local_files_only=local_files_only, ignore_config_fields=ignore_config_fields
        )

    directory = resolve()
    try:
        return Embedder(directory, **options)
    except CheckpointError:
        if not hub.discard(directory):
            raise
        return Embedder(resolve(), **options)


def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = None,
    temperature: TemperatureLike | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Embed texts: the short way.

    The model stays loaded for the next call. Hold an `Embedder` (see `load`) for everything else.

    Args:
        texts: one text or several.
        model: as for `load`.
        temperature: τ of the attention softmax; None for the one saved with the model, usually 1.
        options: as for `Embedder.encode`.

    Returns:
        float32 (n, D) for several texts, (D,) for one.
    """
    name = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(name, str) and os.path.isdir(os.path.expanduser(name)):
        name = os.path.realpath(os.path.expanduser(name))
    vectors: NDArray[Any] = _kept(name).get().encode(texts, temperature=temperature, **options)
    return vectors


class _Kept:
    """A model that `embed` keeps loaded; two first calls at once load it once, and hold up no other model."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None

    def get(self) -> Embedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = load(self._name)
            return self._embedder


@functools.lru_cache(maxsize=2)
def _kept(name: str | None) -> _Kept:
    return _Kept(name)
