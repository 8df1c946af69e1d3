"""Routed embedders: several embedders, each for the texts of some tasks, as in a Router of sentence-transformers.

Queries go to one encoder and documents to another. Each route is a complete `Embedder`; this module chooses among them,
and sets settings on all of them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from tsjax.checkpoints.resaving import with_metadata
from tsjax.checkpoints.routed import read_routed_header, save_routed
from tsjax.encoders.embedder import Embedder
from tsjax.encoders.saving import Saving
from tsjax.encoders.signatures import EmbedderOptions, encode_method, stream_method
from tsjax.engine.statistics import Statistics
from tsjax.storage.digests import json_sha256
from tsjax.validation.keywords import strict_keywords

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    import jax
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from tsjax.encoders.signatures import Encoded
    from tsjax.encoders.similarity import Similarity
    from tsjax.engine.batching import Shape
    from tsjax.model.config import Dtype
    from tsjax.temperature import Temperature, TemperatureLike

Given = TypeVar("Given")
Kept = TypeVar("Kept")


class _Setting(Generic[Given, Kept]):
    """Setting of every route: read from the first, and set on all or, if one refuses the value, on none."""

    def __init__(self, of: Callable[[list[Kept]], Kept] = lambda values: values[0]) -> None:
        self._of = of

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"{getattr(Embedder, name).__doc__} Of every route."

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: RoutedEmbedder, owner: type) -> Kept: ...
    def __get__(self, instance: RoutedEmbedder | None, owner: type) -> Self | Kept:
        if instance is None:
            return self
        return self._of([getattr(embedder, self._name) for embedder in instance._embedders])

    def __set__(self, instance: RoutedEmbedder, value: Given) -> None:
        before = [getattr(embedder, self._name) for embedder in instance._embedders]
        try:
            for embedder in instance._embedders:
                setattr(embedder, self._name, value)
        except Exception:
            for embedder, old in zip(instance._embedders, before, strict=True):
                setattr(embedder, self._name, old)
            raise


class RoutedEmbedder(Saving):
    """Embedder that sends texts to one of several encoders, by their task; made by `tsjax.load`.

    It has the interface of an `Embedder` except ``metadata``, which the embedders in ``routes`` have. It is pickled,
    copied and closed as they are.

    Args:
        directory: a checkpoint that `tsjax convert` made of a model with a Router; `tsjax.load` takes any model.
        options: those of `Embedder`, for every route.

    Raises:
        CheckpointError: the directory is incomplete or damaged.
        InputError: an option cannot be used with at least one of the routes.
    """

    temperature: _Setting[TemperatureLike, Temperature] = _Setting()
    # Routes may have different lengths; the maximum is reported, as in sentence-transformers.
    max_seq_length: _Setting[int, int] = _Setting(max)
    default_prompt_name: _Setting[str | None, str | None] = _Setting()
    truncate_dim: _Setting[int | None, int | None] = _Setting()
    similarity_fn_name: _Setting[Similarity, Similarity] = _Setting()

    @strict_keywords(EmbedderOptions)
    def __init__(self, directory: str | os.PathLike[str], **options: Unpack[EmbedderOptions]) -> None:
        self._header = header = read_routed_header(Path(directory))
        by_folder = {folder: Embedder(header.path / folder, **options) for folder in header.config.folders}
        self._embedders = tuple(by_folder.values())
        self._routes = {name: by_folder[folder] for name, folder in header.config.routes.items()}
        self.prompts = self.prompts  # one dictionary for all routes, so that a prompt can be added to it

    def __repr__(self) -> str:
        routes = ", ".join(f"{name!r}: {embedder!r}" for name, embedder in self._routes.items())
        return f"RoutedEmbedder({{{routes}}}, default_route={self._header.config.default_route!r})"

    def close(self) -> None:
        """Close every route as `Embedder.close` does; ``with`` calls it at its end."""
        for embedder in self._embedders:
            embedder.close()

    def __enter__(self) -> Self:
        for embedder in self._embedders:
            embedder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # the parameters of the routes are shared, their settings are not

    @property
    def routes(self) -> Mapping[str, Embedder]:
        """Return the embedder of each route, by name; identical routes share one."""
        return MappingProxyType(self._routes)

    def route(self, task: str | None = None) -> Embedder:
        """Return the embedder for texts of a task; the default route's for None.

        Raises:
            InputError: no route serves the task, or the task is None and there is no default route.
        """
        return self._routes[self._header.config.route(task)]

    def _source(self) -> Path:
        return self._header.path

    def _write(self, destination: Path, *, overwrite: bool) -> None:
        headers = self._header.headers.values()
        said = [embedder.present_metadata() for embedder in self._embedders]
        save_routed(destination, self._header.config, map(with_metadata, headers, said), overwrite=overwrite)

    # -- settings -----------------------------------------------------------------------------------------------------

    @property
    def prompts(self) -> dict[str, str]:
        """Return the texts to put before the input, by name, for every route. Settable."""
        return self._embedders[0].prompts

    @prompts.setter
    def prompts(self, value: Mapping[str, str]) -> None:
        self._embedders[0].prompts = value
        for embedder in self._embedders[1:]:
            embedder.share_prompts(self._embedders[0])

    @property
    def encoding_fingerprint(self) -> str:
        """Return the SHA-256 of everything that determines the vectors.

        It covers the route of each task and the fingerprint of every route.
        """
        routes = [embedder.encoding_fingerprint for embedder in self._embedders]
        return json_sha256([self._header.fingerprint, *routes])

    @property
    def fingerprint(self) -> str:
        """Return `encoding_fingerprint`, under its former name."""
        return self.encoding_fingerprint

    @property
    def dtype(self) -> Dtype:
        """Return the compute dtype of the encoders."""
        return self._embedders[0].dtype

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Return the devices to compute on."""
        return self._embedders[0].devices

    @property
    def token_budget(self) -> int:
        """Return the maximum tokens of a batch, padding included."""
        return self._embedders[0].token_budget

    @property
    def embedding_dimension(self) -> int:
        """Return the width of the vectors, after ``truncate_dim``; that of the first route, if they differ."""
        return self._embedders[0].embedding_dimension

    def get_embedding_dimension(self) -> int:
        """Return `embedding_dimension`, under sentence-transformers' name."""
        return self.embedding_dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Return `embedding_dimension`, under sentence-transformers' old name."""
        return self.embedding_dimension

    @property
    def statistics(self) -> Statistics:
        """Return counts of the work of all routes so far, as a copy."""
        done = [embedder.statistics for embedder in self._embedders]
        return Statistics(
            texts=sum(each.texts for each in done),
            tokens=sum(each.tokens for each in done),
            truncated=sum(each.truncated for each in done),
            computed_tokens=sum(each.computed_tokens for each in done),
            batches=sum(each.batches for each in done),
            compilations=sum(each.compilations for each in done),
        )

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Return all batch shapes that may be compiled, of all routes."""
        return tuple(dict.fromkeys(shape for embedder in self._embedders for shape in embedder.shapes))

    # -- embedding ----------------------------------------------------------------------------------------------------

    @encode_method
    def encode(
        self, inputs: str | Iterable[str] | None = None, *positional: Any, task: str | None = None, **options: Any
    ) -> Encoded:
        """Embed texts by `Embedder.encode` of the route for ``task``.

        Raises:
            InputError: no route serves the task, or the task is None and there is no default route; or as for
                `Embedder.encode`.
        """
        return self.route(task).encode(inputs, *positional, task=task, **options)

    @encode_method
    def encode_query(self, inputs: str | Iterable[str] | None = None, *positional: Any, **options: Any) -> Encoded:
        """Embed queries by `Embedder.encode_query` of the route for the task ``query``."""
        return self.route("query").encode_query(inputs, *positional, **options)

    @encode_method
    def encode_document(self, inputs: str | Iterable[str] | None = None, *positional: Any, **options: Any) -> Encoded:
        """Embed documents by `Embedder.encode_document` of the route for the task ``document``."""
        return self.route("document").encode_document(inputs, *positional, **options)

    @stream_method
    def stream(self, inputs: Iterable[str], *, task: str | None = None, **options: Any) -> Iterator[Encoded]:
        """Embed any number of texts by `Embedder.stream` of the route for ``task``."""
        return self.route(task).stream(inputs, task=task, **options)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the similarity of each first to each second embedding, by `similarity_fn_name`: float32 (n, m)."""
        return self._embedders[0].similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the similarity of each first embedding to the second at the same index: float32 (n,)."""
        return self._embedders[0].similarity_pairwise(embeddings1, embeddings2)

    def count_tokens(self, inputs: Sequence[str], *, task: str | None = None) -> NDArray[np.int32]:
        """Count tokens by `Embedder.count_tokens` of the route for ``task``."""
        return self.route(task).count_tokens(inputs)

    def warmup(self, *, verbose: bool = True) -> dict[Shape, float]:
        """Compile the shapes of every route; the seconds of a shape that several routes have are added."""
        seconds: dict[Shape, float] = {}
        for embedder in self._embedders:
            for shape, took in embedder.warmup(verbose=verbose).items():
                seconds[shape] = seconds.get(shape, 0.0) + took
        return seconds
