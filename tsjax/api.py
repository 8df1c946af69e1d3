"""From a model's name to an `Embedder`, and from texts to vectors in one call."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from tsjax import hub
from tsjax.checkpoints.format import read_header
from tsjax.checkpoints.routed import is_routed
from tsjax.encoders.cross_encoder import CrossEncoder
from tsjax.encoders.embedder import Embedder
from tsjax.encoders.router import RoutedEmbedder
from tsjax.engine.forks import check_not_forked
from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import jax
    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Kind
    from tsjax.encoders.similarity import Similarity
    from tsjax.model.config import Dtype
    from tsjax.temperature import TemperatureLike


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    ignore_config_fields: Collection[str] = (),
    task: str | None = None,
    position_stride: int | None = None,
    ignore_weights: Collection[str] = (),
    kind: Kind | None = None,
    temperature: TemperatureLike | None = None,
    dtype: Dtype = "float32",
    max_seq_length: int | None = None,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
    similarity_fn_name: Similarity | None = None,
    token_budget: int | None = None,
    devices: int | jax.Device | Sequence[jax.Device] | None = None,
    shard_parameters: bool = False,
) -> Any:
    """Load a model.

    It is an `Embedder`; a `RoutedEmbedder` for a model with a Router, of several encoders; or for a sequence
    classification model without pooling, such as a reranker, a `CrossEncoder`, unless ``kind`` says otherwise.

    Args:
        model: a directory (a converted checkpoint, or one of Hugging Face or sentence-transformers, which is converted
            once and cached) or the name of a repository on the Hugging Face hub; None for all-MiniLM-L6-v2.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        ignore_config_fields: names of fields in config.json or tokenizer_config.json to accept although tsjax does not
            know them; ``chat_template`` embeds texts as they are where there is one.
        task: which of a checkpoint's task adapters to merge, such as jina-embeddings-v3's; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None
            for what the model is known for, usually 1.
        ignore_weights: patterns of names of weights to leave out, such as ``classifier.*``: for a checkpoint that has
            more than its encoder. Heads of transformers' own classes are left out of an embedder anyway.
        kind: ``embedder`` uses the encoder of a classifier, too, and averages its tokens where nothing says how to
            pool; ``cross_encoder`` uses its head.
        temperature: τ of the attention softmax; None for the one saved with the model, usually 1.
        dtype: what the encoder computes in: float32, bfloat16 or float16. Vectors are float32 in any case.
        max_seq_length: tokens at which texts are cut; None for the model's own.
        prompts: more prompts, or others, by name.
        default_prompt_name: the prompt used where a call names none.
        truncate_dim: leading dimensions to keep.
        similarity_fn_name: cosine, dot, euclidean or manhattan.
        token_budget: the most tokens of a batch on each device, padding included, unless one text has more; None for
            what suits the device.
        devices: what to compute on: JAX's devices, or how many; None for all that this process has.
        shard_parameters: share the parameters out among the devices, for a model that one cannot hold.

    Raises:
        ModelNotFoundError: the name leads to nothing.
        ConversionError, CheckpointError: what it leads to cannot be used.
        InputError: an option that cannot be used.
        OutputError: the cache directory cannot be written.
        LifecycleError: JAX was in use when this process was forked.

    Warns:
        AssumptionWarning: files could not be looked at, so that something about the model is a guess.
    """
    check_not_forked()
    directory = hub.resolve(
        model,
        revision=revision,
        local_files_only=local_files_only,
        ignore_config_fields=ignore_config_fields,
        task=task,
        position_stride=position_stride,
        ignore_weights=ignore_weights,
        kind=kind,
    )
    hub.warn_assumed(directory)
    options: dict[str, Any] = {
        "temperature": temperature,
        "dtype": dtype,
        "max_seq_length": max_seq_length,
        "prompts": prompts,
        "default_prompt_name": default_prompt_name,
        "token_budget": token_budget,
        "devices": devices,
        "shard_parameters": shard_parameters,
    }
    of_vectors: dict[str, Any] = {"truncate_dim": truncate_dim, "similarity_fn_name": similarity_fn_name}
    if is_routed(directory):
        return RoutedEmbedder(directory, **options, **of_vectors)
    if read_header(directory).metadata.kind == "embedder":
        return Embedder(directory, **options, **of_vectors)
    for name, value in of_vectors.items():
        if value is not None:
            raise InputError(f"{name} has no meaning for a cross-encoder, which gives scores and no vectors")
    return CrossEncoder(directory, **options)


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

    Raises:
        LifecycleError: JAX was in use when this process was forked.
        Other errors as for `load` and `Embedder.encode`.
    """
    check_not_forked()
    name = os.fspath(model) if isinstance(model, os.PathLike) else model
    if isinstance(name, str) and os.path.isdir(os.path.expanduser(name)):
        name = os.path.realpath(os.path.expanduser(name))
    vectors: NDArray[Any] = _kept(name, os.getpid()).get().encode(texts, temperature=temperature, **options)
    return vectors


class _Kept:
    """A model that `embed` keeps loaded; two first calls at once load it once, and hold up no other model."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._embedder: Embedder | RoutedEmbedder | None = None

    def get(self) -> Embedder | RoutedEmbedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = load(self._name, kind="embedder")
            return self._embedder


@functools.lru_cache(maxsize=2)
def _kept(name: str | None, process: int) -> _Kept:
    # A process that was forked while another thread held the lock of its parent's gets a lock of its own.
    return _Kept(name)
