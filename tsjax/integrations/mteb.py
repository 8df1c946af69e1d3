"""MTEB adapter: ``mteb.evaluate(Model("all-MiniLM-L6-v2", temperature=0.9), tasks)`` runs any text task.

It needs the extra ``mteb``, and PyTorch, which MTEB installs. No other module of tsjax imports this file.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from tsjax.api import load, load_embedder
from tsjax.encoders.cross_encoder import CrossEncoder
from tsjax.encoders.embedder import Embedder
from tsjax.encoders.router import RoutedEmbedder
from tsjax.encoders.signatures import AnyEncodeOptions, LoadOptions
from tsjax.errors import InputError, MissingExtraError
from tsjax.model.forward import abstract_params
from tsjax.storage.digests import json_sha256
from tsjax.validation.keywords import strict_keywords
from tsjax.warn import warn

try:
    import torch
    from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise MissingExtraError(f"tsjax.integrations.mteb needs mteb: pip install 'tsjax[mteb]' ({error})") from error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping
    from typing import Unpack

    from tsjax.encoders.quantization import QuantizedVectors
    from tsjax.temperature import Temperature, TemperatureLike

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Model:
    """Encoder in MTEB's sense: an embedder, and the facts about it that MTEB stores with the scores.

    The scores are those that MTEB's own wrapper of sentence-transformers (``SentenceTransformerEncoderWrapper``) gives
    the same model, except for rounding. Queries are embedded with `Embedder.encode_query`, documents with
    `Embedder.encode_document` and all other texts with `Embedder.encode`, each with the temperature of its kind. The
    prompt is the first one that exists of those named ``TASK-KIND``, ``TASK``, ``TYPE-KIND``, ``TYPE`` and ``KIND``,
    such as ``SciFact-query``, ``SciFact``, ``Retrieval-query``, ``Retrieval`` and ``query``. Without any, a query or
    document gets no prompt, and another text the model's default prompt. As in that wrapper, prompts under other names
    are not used, and neither are those of a task that is not in MTEB's registry: name the prompts of a custom task
    after its type. A document is its title and text, joined by MTEB with a space.

    Args:
        model: an embedder, or a model as `tsjax.load` takes it.
        name: ``organization/model`` under which MTEB stores the results; τ is added to it. None for the origin of the
            weights.
        kind: for a ``model`` that is not loaded; ``embedder`` takes the encoder of a sequence classification model.
        options: ``temperature``, also for a copy of a given embedder; for a ``model`` that is not loaded, also the
            other options of `tsjax.load`.

    Raises:
        InputError: the model is a cross-encoder, options are given with an embedder, or a temperature is given with one
            of several routes.
        Other errors as `tsjax.load` raises them.

    Warns:
        UserWarning: the model has prompts that are not used, as described above.
    """

    @strict_keywords(LoadOptions)
    def __init__(
        self,
        model: Embedder | RoutedEmbedder | str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        kind: Literal["embedder"] | None = None,
        **options: Unpack[LoadOptions],
    ) -> None:
        self.embedder: Embedder | RoutedEmbedder
        if isinstance(model, Embedder | RoutedEmbedder):
            if late := [name for name in options if name != "temperature"] + ["kind"] * (kind is not None):
                raise InputError(f"{late[0]} is an option of loading, and this embedder is loaded already")
            self.embedder = _with_temperature(model, options.get("temperature"))
        else:
            loaded = load(model, **options) if kind is None else load_embedder(model, **options)
            if isinstance(loaded, CrossEncoder):
                raise InputError(f"{model} is a cross-encoder, which scores pairs and embeds no texts")
            self.embedder = loaded
        self._name = name
        self._prompts = _usable(self.embedder.prompts, self.embedder.default_prompt_name)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Return the facts that MTEB stores with the scores.

        The name contains τ and the revision is the embedder's encoding fingerprint, so that MTEB keeps the results of
        every τ, length and prompt apart. Facts that a checkpoint does not contain, such as its license, are None.
        """
        metadata = self.embedder.route("document").metadata
        source = metadata.source.rstrip("/")
        from_hub = _HUB_NAME.fullmatch(source) is not None
        adapted = source if from_hub else f"local/{source.rpartition('/')[2] or 'model'}"
        params = abstract_params(metadata.model)
        parameters, in_tables = _size(params), _size(params["encoder"]["embeddings"])
        return ModelMeta(
            loader=None,
            name=f"{self._name or adapted}-tau-{_slug(self.embedder.temperature)}",
            revision=f"{self.embedder.encoding_fingerprint}-{self.embedder.similarity_fn_name}",
            release_date=None,
            languages=None,
            n_parameters=parameters,
            n_embedding_parameters=in_tables,
            memory_usage_mb=round(4 * parameters / 2**20, 1),
            max_tokens=self.embedder.max_seq_length,
            embed_dim=self.embedder.embedding_dimension,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            reference=f"https://huggingface.co/{source}" if from_hub else None,
            similarity_fn_name=ScoringFunction(self.embedder.similarity_fn_name),
            use_instructions=any(self._prompts.values()),
            training_datasets=None,
            adapted_from=adapted,
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Unpack[AnyEncodeOptions],
    ) -> QuantizedVectors:
        """Embed the texts of a data loader.

        Args:
            inputs: batches, each with its texts under ``text``.
            task_metadata: MTEB's facts about the task; they determine only the prompt.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: kind of the texts.
            options: those of `Embedder.encode`, such as ``show_progress_bar`` and ``precision``. ``batch_size`` is not
                used: MTEB always passes 32, and batches are bounded by tokens.

        Returns:
            float32 (n, D) in the order of the texts; for another ``precision``, see `Embedder.encode`.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        name = get_prompt_name(self._prompts, task_metadata, prompt_type)
        by_type = {PromptType.query: self.embedder.encode_query, PromptType.document: self.embedder.encode_document}
        encode = self.embedder.encode if prompt_type is None else by_type[prompt_type]
        options["batch_size"], options["prompt"] = None, None if name is None else self._prompts[name]
        return np.asarray(encode(texts, **options))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarity of each first to each second embedding: float32 (n, m)."""
        return torch.from_numpy(self.embedder.similarity(np.asarray(embeddings1), np.asarray(embeddings2)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return the similarity of each first embedding to the second at the same index: float32 (n,)."""
        return torch.from_numpy(self.embedder.similarity_pairwise(np.asarray(embeddings1), np.asarray(embeddings2)))


def _usable(prompts: Mapping[str, str], default: str | None) -> dict[str, str]:
    """Return the prompts that MTEB's wrapper of sentence-transformers would use, by MTEB's own check of their names.

    sentence-transformers adds empty prompts for queries and documents, so these never fall back to others. The default
    prompt, regardless of its name, is put before texts that are neither.
    """
    everything = {"query": "", "document": "", **prompts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one per name; a single warning below lists all of them
        usable = AbsEncoder.validate_task_to_prompt_name(everything, raise_for_invalid_keys=False)[0]
    if left := [name for name in everything if name not in usable and name != default]:
        warn(
            f"prompts that are not used: {', '.join(map(repr, left))}. MTEB uses those named query and document, or "
            "after a task of its registry or a type of tasks, such as 'Retrieval-query'",
            UserWarning,
        )
    return dict(usable)


def _with_temperature(
    embedder: Embedder | RoutedEmbedder, temperature: TemperatureLike | None
) -> Embedder | RoutedEmbedder:
    """Return the embedder with another temperature: one with its own settings that shares its parameters."""
    if temperature is None:
        return embedder
    if isinstance(embedder, RoutedEmbedder):
        raise InputError("give the temperature of an embedder with several routes to tsjax.load, not beside it")
    other = copy.copy(embedder)
    other.temperature = temperature
    return other


def _slug(temperature: Temperature) -> str:
    """Return the temperature as part of a name: a number in full, any other value abbreviated with a digest."""
    if isinstance(temperature.value, float) and temperature.by_length is None and temperature.query is None:
        return str(temperature.value)
    digest = json_sha256(temperature.to_json())
    return f"{re.sub('[^A-Za-z0-9.]+', '-', str(temperature)).strip('-')}-{digest[:8]}"


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
