"""Loading a model by name as an `Embedder`, and embedding texts in one call."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Literal, overload

from tsjax import hub
from tsjax.checkpoints.conversion_options import SourceOptions
from tsjax.checkpoints.format import read_header
from tsjax.checkpoints.routed import is_routed
from tsjax.encoders.cross_encoder import CrossEncoder
from tsjax.encoders.embedder import Embedder
from tsjax.encoders.router import RoutedEmbedder
from tsjax.encoders.settings import check_device
from tsjax.encoders.signatures import AnyEncodeOptions, ComputeOptions, EmbedderOptions, LoadOptions, VectorOptions
from tsjax.engine.forks import check_not_forked
from tsjax.errors import InputError
from tsjax.validation.keywords import part, strict_keywords

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    import jax
    import numpy as np
    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Kind
    from tsjax.encoders.quantization import Precision, QuantizedVectors
    from tsjax.encoders.signatures import BlockOptions, Encoded

_ARGUMENTS_OF_OTHERS = {
    **dict.fromkeys(AnyEncodeOptions.__annotations__, "it is an argument of encode"),
    "task": "it is an argument of encode; adapter= chooses among a checkpoint's task adapters",
    # Keywords of sentence-transformers' classes.
    "model_name_or_path": "give the model first, or as model=",
    "modules": "tsjax reads them from the checkpoint",
    "trust_remote_code": "tsjax runs no code of a checkpoint, so leave it out",
    "use_auth_token": "give the token as token=",
    "model_kwargs": "give dtype=, devices= and others by their own names",
    "processor_kwargs": "give max_seq_length= by its own name; the rest comes from the checkpoint",
    "tokenizer_kwargs": "give max_seq_length= by its own name; the rest comes from the checkpoint",
    "config_kwargs": "tsjax reads config.json as it is",
    "model_card_data": "tsjax reads no model card",
    "backend": "JAX is the only backend, so leave it out",
}


@overload
def load(
    model: str | os.PathLike[str] | None = ..., *, kind: Literal["embedder"], **options: Unpack[LoadOptions]
) -> Embedder: ...
@overload
def load(
    model: str | os.PathLike[str] | None = ..., *, kind: Literal["cross_encoder"], **options: Unpack[LoadOptions]
) -> CrossEncoder: ...
@overload
def load(
    model: str | os.PathLike[str] | None = ..., *, kind: Kind | None = ..., **options: Unpack[LoadOptions]
) -> Embedder | RoutedEmbedder | CrossEncoder: ...
@strict_keywords(LoadOptions, elsewhere=_ARGUMENTS_OF_OTHERS, name="tsjax.load")
def load(
    model: str | os.PathLike[str] | None = None, *, kind: Kind | None = None, **options: Unpack[LoadOptions]
) -> Embedder | RoutedEmbedder | CrossEncoder:
    """Load a model.

    The result is an `Embedder`, a `RoutedEmbedder` (a model with a Router, which has several encoders) or a
    `CrossEncoder` (a sequence classification model without pooling, such as a reranker). With ``kind`` it is of that
    class, or an error is raised.

    Args:
        model: a directory (a converted checkpoint, or one of Hugging Face or sentence-transformers, which is converted
            once and cached) or the name of a repository on the Hugging Face hub; None for all-MiniLM-L6-v2.
        kind: ``embedder`` uses the encoder of a classifier too, and averages its token vectors if the checkpoint does
            not define pooling; ``cross_encoder`` uses its classification head.
        options: all optional, by name:

            - revision: branch, tag or commit on the hub.
            - local_files_only: never use the network.
            - token: access token of a user of the hub, as huggingface_hub takes it.
            - cache_folder: directory for downloads from the hub; None for the hub's own cache.
            - ignore_config_fields: names of fields in config.json or tokenizer_config.json to accept although tsjax
              does not know them; ``chat_template`` embeds texts as they are although the model has a template.
            - adapter: name of the task adapter to merge, such as jina-embeddings-v3's ``retrieval.query``; None for
              none.
            - position_stride: rows of the position table from one token to the next, in texts that are short enough;
              None for the model's known value, usually 1.
            - ignore_weights: patterns of names of weights to leave out, such as ``classifier.*``, for a checkpoint that
              has more than its encoder. Heads of transformers' own classes are always left out of an embedder.
            - temperature: τ of the attention softmax; None for the value saved with the model, usually 1.
            - dtype: compute dtype of the encoder: float32 (the default), bfloat16 or float16, as JAX takes dtypes
              (``"bfloat16"``, ``jnp.bfloat16``). Vectors are always float32.
            - max_seq_length: maximum length in tokens; longer texts are truncated; None for the model's own.
            - prompts: prompts by name; they are added to the model's, or replace them.
            - default_prompt_name: name of the prompt used when a call names none.
            - truncate_dim: the number of leading dimensions to keep.
            - similarity_fn_name: cosine, dot, euclidean or manhattan.
            - token_budget: maximum tokens of a batch on each device, padding included, unless one text has more; None
              for a default that suits the device.
            - devices: JAX devices to compute on, or their number; None for all devices of this process.
            - device: the expected kind of device, by sentence-transformers' names (``cpu``, ``cuda``, ``tpu``); any
              other kind is an error.
            - shard_parameters: shard the parameters over the devices, for a model that does not fit on one.

    Raises:
        ModelNotFoundError: no checkpoint has this name.
        ConversionError, CheckpointError: the checkpoint cannot be used.
        InputError: an option cannot be used, or ``kind="embedder"`` is given for a model of several encoders.
        KeywordError: an option does not exist; the message suggests the nearest one.
        OutputError: the cache directory cannot be written.
        LifecycleError: JAX was in use when this process was forked.

    Warns:
        AssumptionWarning: files were not available, so that something about the model is a guess.
    """
    loaded = _load(model, kind, options)
    if kind == "embedder" and isinstance(loaded, RoutedEmbedder):
        loaded.close()
        raise InputError(
            f"{model} has several encoders, chosen by a Router, and is no single embedder; leave out kind to load a "
            "RoutedEmbedder, whose route(task) is the Embedder of a task"
        )
    return loaded


@strict_keywords(LoadOptions, elsewhere=_ARGUMENTS_OF_OTHERS)
def load_embedder(
    model: str | os.PathLike[str] | None = None, **options: Unpack[LoadOptions]
) -> Embedder | RoutedEmbedder:
    """Load a model that embeds texts, of one encoder or several; the arguments and errors are those of `load`."""
    loaded = _load(model, "embedder", options)
    assert not isinstance(loaded, CrossEncoder)  # otherwise resolving the model would have failed
    return loaded


def _load(
    model: str | os.PathLike[str] | None, kind: Kind | None, options: LoadOptions
) -> Embedder | RoutedEmbedder | CrossEncoder:
    check_not_forked()
    directory = hub.resolve(model, kind=kind, **part(options, SourceOptions))
    hub.warn_assumed(directory)
    loaded: Embedder | RoutedEmbedder | CrossEncoder
    if is_routed(directory):
        loaded = RoutedEmbedder(directory, **part(options, EmbedderOptions))
    elif read_header(directory).metadata.kind == "embedder":
        loaded = Embedder(directory, **part(options, EmbedderOptions))
    else:
        for name, value in part(options, VectorOptions).items():
            if value is not None:
                raise InputError(f"{name} has no meaning for a cross-encoder, which gives scores and no vectors")
        loaded = CrossEncoder(directory, **part(options, ComputeOptions))
    try:
        check_device(options.get("device"), loaded.devices)
    except InputError:
        loaded.close()
        raise
    return loaded


@overload
def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = ...,
    precision: Literal["float32"] = ...,
    **options: Unpack[BlockOptions],
) -> NDArray[np.float32]: ...
@overload
def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = ...,
    precision: Precision,
    **options: Unpack[BlockOptions],
) -> QuantizedVectors: ...
@overload
def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = ...,
    convert_to_tensor: Literal[True],
    **options: Unpack[BlockOptions],
) -> jax.Array: ...
@overload
def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = ...,
    **options: Unpack[AnyEncodeOptions],
) -> Encoded: ...
@strict_keywords(
    AnyEncodeOptions,
    elsewhere=dict.fromkeys(
        LoadOptions.__annotations__, "it is an argument of tsjax.load: hold the embedder that tsjax.load returns"
    ),
    name="tsjax.embed",
)
def embed(
    texts: str | Iterable[str],
    *,
    model: str | os.PathLike[str] | None = None,
    **options: Unpack[AnyEncodeOptions],
) -> Encoded:
    """Embed texts with a model that stays loaded for the next call.

    For everything else, hold an `Embedder` (see `load`).

    Args:
        texts: one text or several.
        model: as for `load`.
        options: those of `Embedder.encode`, by name, such as ``temperature``.

    Returns:
        float32 (n, D) for several texts, (D,) for one; for other options, see `Embedder.encode`.

    Raises:
        KeywordError: an option does not exist, or belongs to `load`.
        LifecycleError: JAX was in use when this process was forked.
        Other errors as for `load` and `Embedder.encode`.
    """
    check_not_forked()
    name = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(name, str) and os.path.isdir(os.path.expanduser(name)):
        name = os.path.realpath(os.path.expanduser(name))
    return _kept(name, os.getpid()).get().encode(texts, **options)


class _Kept:
    """Cached model of `embed`; two concurrent first calls load it once and do not block other models."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._embedder: Embedder | RoutedEmbedder | None = None

    def get(self) -> Embedder | RoutedEmbedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = load_embedder(self._name)
            return self._embedder


@functools.lru_cache(maxsize=2)
def _kept(name: str | None, process: int) -> _Kept:
    # A process that was forked while another thread held the parent's lock gets a lock of its own.
    return _Kept(name)
