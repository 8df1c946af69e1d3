"""The `Embedder`: a model, its tokenizer and its prompts, which turn texts into vectors.

Keyword names and behaviour are those of ``SentenceTransformer`` in sentence-transformers 6, so that switching means
changing an import. Additions are ``temperature``, ``stream``, ``warmup``, ``statistics`` and ``encoding_fingerprint``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, TypeVar, cast, get_args

import jax.numpy as jnp
import numpy as np

from tsjax.checkpoints import format as checkpoint
from tsjax.checkpoints.resaving import with_metadata
from tsjax.encoders.lifecycle import Lifecycle
from tsjax.encoders.prompts import name_for
from tsjax.encoders.quantization import Precision, check_precision, quantize_embeddings
from tsjax.encoders.saving import Saving
from tsjax.encoders.settings import Settings, check_device, check_unused, dtype_name
from tsjax.encoders.signatures import OutputValue, encode_method, stream_method
from tsjax.encoders.similarity import Similarity, normalize, similarity, similarity_pairwise
from tsjax.engine.batching import Shape
from tsjax.engine.engine import Engine
from tsjax.engine.jax_modes import usual_modes
from tsjax.engine.pipeline import Pipeline
from tsjax.engine.statistics import Statistics
from tsjax.errors import CheckpointError, InputError, NoTokensError, TruncationWarning
from tsjax.temperature import Temperature
from tsjax.text.tokenizer import TextTokenizer, as_text_list, check_texts, chunk_by_characters
from tsjax.validation.keywords import strict_keywords
from tsjax.validation.numbers import whole_number
from tsjax.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import jax
    from jax.typing import DTypeLike
    from numpy.typing import ArrayLike, NDArray

    from tsjax.encoders.signatures import Encoded, TextDetails
    from tsjax.engine.executor import Computed
    from tsjax.temperature import TemperatureLike

logger = logging.getLogger("tsjax")

_Progress: TypeAlias = "Callable[[int], object] | None"
Vectors = TypeVar("Vectors", bound="NDArray[Any]")


class _Request(NamedTuple):
    """Resolved options of one call."""

    prompt: str
    temperature: Temperature
    max_texts: int | None
    truncate_dim: int | None
    normalize: bool


class Embedder(Lifecycle, Saving, Settings):
    """Model that embeds texts; made by `tsjax.load`. Safe to use from many threads.

    It can be pickled, copied and closed (see `close`; ``with`` closes it at its end). A pickle holds the checkpoint's
    directory and the settings. The directory must exist where the pickle is loaded, and hold the same model. Devices
    that were given as a number, or not at all, are chosen there in the same way; JAX devices are found by their ids.
    ``copy.copy`` and ``copy.deepcopy`` share the parameters in memory. Statistics start at zero in both.

    Args:
        directory: a checkpoint that `tsjax convert` made; `tsjax.load` takes any model, and the same keywords.
        temperature: τ of the attention softmax; None for the value saved with the model.
        dtype: compute dtype of the encoder: float32, bfloat16 or float16, as JAX takes dtypes (``"bfloat16"``,
            ``jnp.bfloat16``, ``np.float16``). Vectors are always float32.
        max_seq_length: maximum length in tokens; longer texts are truncated; None for the model's own.
        prompts: prompts by name; they are added to the model's, or replace them.
        default_prompt_name: name of the prompt used when a call names none.
        truncate_dim: number of leading dimensions to keep.
        similarity_fn_name: cosine, dot, euclidean or manhattan.
        token_budget: maximum tokens of a batch on each device, padding included, unless one text has more; None for a
            default that suits the device.
        devices: JAX devices to compute on, or their number; None for all devices of this process.
        shard_parameters: shard the parameters over the devices, for a model that does not fit on one.

    Raises:
        CheckpointError: the directory is incomplete or damaged.
        InputError: an option cannot be used.
        LifecycleError: JAX was in use when this process was forked.
    """

    @strict_keywords()
    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        temperature: TemperatureLike | None = None,
        dtype: DTypeLike = "float32",
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        similarity_fn_name: Similarity | None = None,
        token_budget: int | None = None,
        devices: int | jax.Device | Sequence[jax.Device] | None = None,
        shard_parameters: bool = False,
    ) -> None:
        dtype = dtype_name(dtype)
        header = checkpoint.read_header(Path(directory).absolute())
        if header.metadata.kind != "embedder":
            raise CheckpointError(f"{header.path} holds a cross-encoder, which scores pairs: tsjax.load gives it")
        super().__init__(
            header,
            TextTokenizer(
                checkpoint.read_tokenizer(header),
                header.metadata.max_seq_length,
                token_types=header.metadata.token_types,
            ),
            dtype,
            temperature=temperature,
            max_seq_length=max_seq_length,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            truncate_dim=truncate_dim,
            similarity_fn_name=similarity_fn_name,
        )
        self._engine = Engine.load(header, dtype, token_budget, devices, shard_parameters=shard_parameters)

    def _load(self, directory: str | os.PathLike[str], **options: Any) -> None:
        Embedder.__init__(self, directory, **options)

    def __repr__(self) -> str:
        encoder = self._config.encoder
        return (
            f"Embedder({self.metadata.source!r}, {encoder.num_layers} layers × {encoder.hidden_size}, "
            f"{self.embedding_dimension} dimensions, max_seq_length={self.max_seq_length}, τ={self.temperature}, "
            f"{self._dtype})"
        )

    # -- properties ---------------------------------------------------------------------------------------------------

    @property
    def token_budget(self) -> int:
        """Return the maximum tokens of a batch on each device, padding included, unless one text has more."""
        return self._engine.token_budget

    @property
    def embedding_dimension(self) -> int:
        """Return the width of the vectors, after ``truncate_dim``."""
        return self.truncate_dim or self._config.embedding_dimension

    def get_embedding_dimension(self) -> int:
        """Return `embedding_dimension`, under sentence-transformers' name."""
        return self.embedding_dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Return `embedding_dimension`, under sentence-transformers' old name."""
        return self.embedding_dimension

    @property
    def statistics(self) -> Statistics:
        """Return counts of this embedder's work so far, as a copy."""
        return self._engine.statistics

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Return the devices to compute on; the rows of a batch are spread over all of them."""
        return self._engine.devices

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline from texts to token ids to vectors, with the present ``max_seq_length``."""
        return Pipeline(self._engine, self._tokenizer)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Return all batch shapes that may be compiled, with the present ``max_seq_length``."""
        return self._engine.shapes(self.max_seq_length).shapes

    def route(self, task: str | None = None) -> Embedder:
        """Return the embedder for texts of a task: this one, for every task."""
        return self

    # -- embedding ----------------------------------------------------------------------------------------------------

    @encode_method
    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        temperature: TemperatureLike | None = None,
        task: str | None = None,
        sentences: str | Iterable[str] | None = None,
    ) -> Encoded:
        """Embed texts.

        Args:
            inputs: one text or several.
            prompt_name: name of the prompt in `prompts` to put before each text.
            prompt: text to put before each text; takes precedence over ``prompt_name``.
            batch_size: maximum texts in a batch; the tokens of a batch are bounded by `token_budget` in any case. Small
                values leave shapes half empty and cost speed.
            show_progress_bar: None shows it if the logger ``tsjax`` is at level INFO or below.
            output_value: ``sentence_embedding`` for one vector per text, ``token_embeddings`` for one per token (a list
                of float32 (tokens, D)), None for a list of dicts with both, the token ids and the attention mask.
            precision: see `tsjax.quantize_embeddings`; the range of a dimension is taken over the whole result.
            convert_to_numpy: False returns a list of JAX arrays, one per text.
            convert_to_tensor: True returns one JAX array.
            device: None, or the name of the device that the model computes on (``cpu``, ``cuda``, ``tpu``): JAX places
                the model when it is loaded.
            normalize_embeddings: divide each vector by its Euclidean norm, after ``truncate_dim``.
            truncate_dim: number of leading dimensions to keep; None for the embedder's own.
            pool: only None; there are no worker processes.
            chunk_size: only None; there are no worker processes.
            temperature: τ for this call; None for the embedder's own. A new value causes no compilation.
            task: purpose of the texts; ``query`` selects the temperature of queries, if that differs. It also selects
                among the encoders of a `RoutedEmbedder`; this class has one.
            sentences: the old name of ``inputs``.

        Returns:
            float32 (n, D) in input order for several texts, (D,) for one text; (0, D) for an empty list.

        Raises:
            InputError: a text is not a string or has no tokens, or an argument cannot be used.
            LifecycleError: the embedder was closed, or JAX was in use when this process was forked.

        Warns:
            TruncationWarning: some texts were longer than `max_seq_length` and were truncated.
        """
        self._engine.check_usable()
        if (inputs is None) == (sentences is None):
            raise InputError("give the texts: as inputs, or under their old name sentences, and not both")
        check_device(device, self.devices)
        check_unused(pool=pool, chunk_size=chunk_size)
        check_precision(precision)
        if output_value is not None and output_value not in get_args(OutputValue):
            raise InputError(f"output_value {output_value!r} does not exist; it can be {get_args(OutputValue)} or None")
        tau = self._temperature if temperature is None else self.check_temperature(temperature)
        request = _Request(
            prompt=self.prompt_text(prompt_name, prompt),
            temperature=tau.for_task(task),
            max_texts=None if batch_size is None else whole_number("batch_size", batch_size),
            truncate_dim=self.truncate_dim if truncate_dim is None else self._checked_dim(truncate_dim),
            # As in sentence-transformers, outputs other than sentence embeddings are returned as the model made them.
            normalize=normalize_embeddings and output_value == "sentence_embedding",
        )
        given = sentences if inputs is None else inputs
        single = isinstance(given, str)
        texts = check_texts([given] if single else as_text_list(given))
        with progress_bar(len(texts), show_progress_bar) as progress:
            if output_value == "sentence_embedding":
                vectors = quantize_embeddings(self._embed(texts, request, progress), precision)
                embedded = as_container(vectors, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
                return embedded[0] if single else embedded
            details = cast("list[TextDetails]", self._embed_tokens(texts, request, progress))
        if output_value is None:
            return details[0] if single else details
        tokens = [item["token_embeddings"] for item in details]
        return tokens[0] if single else tokens

    @encode_method
    def encode_query(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *positional: Any,
        **options: Any,
    ) -> Encoded:
        """Embed queries: `encode` with the prompt named ``query``, unless a prompt is given.

        As in sentence-transformers, that prompt is empty if the model has none, and the default prompt is not used.
        """
        name = self.prompt_name_for("query", prompt_name, prompt)
        return self.encode(inputs, name, prompt, *positional, task="query", **options)

    @encode_method
    def encode_document(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *positional: Any,
        **options: Any,
    ) -> Encoded:
        """Embed documents: `encode` with the prompt named ``document``, unless a prompt is given.

        As in sentence-transformers, that prompt is empty if the model has none. A prompt named ``passage`` or
        ``corpus`` is used only if ``document`` was removed from `prompts`, or with ``prompt_name="passage"``.
        """
        name = self.prompt_name_for("document", prompt_name, prompt)
        return self.encode(inputs, name, prompt, *positional, task="document", **options)

    @stream_method
    def stream(
        self, inputs: Iterable[str], *, block_size: int = 4096, precision: Precision = "float32", **options: Any
    ) -> Iterator[Encoded]:
        """Embed any number of texts in constant memory; yield arrays of ``block_size`` vectors, in input order.

        The settings are those at the time of the call, also for blocks that are computed after a setting has changed.

        Args:
            inputs: any iterable of texts; it is read one block at a time.
            block_size: texts in a block. Texts are sorted by length within a block, so a small value costs speed.
            precision: float32, binary or ubinary; int8 and uint8 need ranges over all vectors, so quantize afterwards.
            options: those of `encode`.

        Raises:
            InputError: as for `encode`.
            LifecycleError: as for `encode`; also at the next block after the embedder was closed.
        """
        self._engine.check_usable()
        check_precision(precision)
        if precision in ("int8", "uint8"):
            raise InputError(
                f"{precision} needs the range of all vectors, which a stream does not know; quantize later"
            )
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            what = "one string" if isinstance(inputs, str) else repr(inputs)
            raise InputError(f"stream takes several texts, not {what}")
        size = whole_number("block_size", block_size)
        present = self._with_present_settings()

        def blocks() -> Iterator[Encoded]:
            iterator, start = iter(inputs), 0
            while block := list(itertools.islice(iterator, size)):
                check_texts(block, first_index=start)
                try:
                    vectors = present.encode(block, precision=precision, **options)
                except NoTokensError as error:
                    raise NoTokensError(start + error.index) from None
                yield vectors
                start += len(block)

        return blocks()

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the similarity of each first to each second embedding, by `similarity_fn_name`: float32 (n, m)."""
        return similarity(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the similarity of each first embedding to the second at the same index: float32 (n,)."""
        return similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)

    def warmup(self, *, verbose: bool = True) -> dict[Shape, float]:
        """Compile every shape of `shapes`, so that no later call for sentence embeddings has to compile.

        Args:
            verbose: print each shape and its time.

        Returns:
            seconds by shape; near 0 for one that was compiled before.
        """
        typed = self.metadata.token_types
        return self._engine.warmup(self.max_seq_length, self._temperature, typed=typed, verbose=verbose)

    def _source(self) -> Path:
        return self._header.path

    def _write(self, destination: Path, *, overwrite: bool) -> None:
        parts = with_metadata(self._header, self.present_metadata())
        checkpoint.save(destination, *parts, overwrite=overwrite)

    # -- computation --------------------------------------------------------------------------------------------------

    def _with_present_settings(self) -> Self:
        """Return an embedder with this one's engine and statistics, whose settings no later setter changes."""
        present = object.__new__(type(self))
        present.__dict__.update(self.__dict__, _prompts=dict(self._prompts))
        return present

    def _embed(self, texts: Sequence[str], request: _Request, progress: _Progress) -> NDArray[np.float32]:
        """Return one vector per text, in input order."""
        vectors = np.empty((len(texts), self._config.embedding_dimension), np.float32)
        order, blocks = self._blocks(texts)
        for computed in self._compute(blocks, request, progress, order):
            vectors[order[computed.indices]] = computed.embeddings
        return _finish(vectors, request)

    def _embed_tokens(
        self, texts: Sequence[str], request: _Request, progress: _Progress
    ) -> list[dict[str, NDArray[Any]]]:
        """Return token ids, attention mask, token vectors and sentence vector of each text, in input order."""
        items: list[dict[str, NDArray[Any]]] = [{} for _ in texts]
        order, blocks = self._blocks(texts)
        for computed in self._compute(blocks, request, progress, order, with_tokens=True):
            assert computed.tokens is not None  # requested above
            vectors = _finish(computed.embeddings, request)
            for place, vector, ids, tokens in zip(
                order[computed.indices], vectors, computed.input_ids, computed.tokens, strict=True
            ):
                items[place] = {
                    "input_ids": ids,
                    "attention_mask": np.ones_like(ids),
                    "token_embeddings": tokens,
                    "sentence_embedding": vector.copy(),  # a view would keep the batch alive
                }
        return items

    def _blocks(self, texts: Sequence[str]) -> tuple[NDArray[np.intp], Iterator[list[str]]]:
        """Return the order in which to compute texts, and the texts in that order, in blocks.

        If each text has a row of its own, texts of similar length should come together; the number of characters is a
        good enough estimate.
        """
        if self._engine.shapes(self.max_seq_length).packed:
            order = np.arange(len(texts))
        else:
            order = np.argsort([-len(text) for text in texts], kind="stable")
        return order, chunk_by_characters((texts[place] for place in order.tolist()), self._engine.block_characters)

    def _compute(
        self,
        blocks: Iterable[list[str]],
        request: _Request,
        progress: _Progress,
        order: NDArray[np.intp],
        *,
        with_tokens: bool = False,
    ) -> Iterator[Computed]:
        """Compute block after block, and warn if texts were truncated."""
        pipeline = self.pipeline  # read once: another thread may set another max_seq_length meanwhile
        texts, cut = 0, 0
        with _named_as_given(order):
            for computed in pipeline.embed(
                blocks,
                request.temperature,
                prompt=request.prompt,
                max_texts=request.max_texts,
                with_tokens=with_tokens,
                progress=progress,
            ):
                texts, cut = texts + len(computed.indices), cut + computed.truncated
                yield computed
        if cut:
            warn(
                f"{cut} of {texts} texts were longer than max_seq_length = {pipeline.max_length} tokens and were cut",
                TruncationWarning,
            )

    def prompt_for(self, task: Literal["query", "document"]) -> str:
        """Return the text that `encode_query` or `encode_document` puts before each text by default."""
        return self.prompt_text(self.prompt_name_for(task, None, None), None)

    def prompt_name_for(self, task: str, prompt_name: str | None, prompt: str | None) -> str | None:
        """Return the first of the task's prompt names that exists, unless the call gives a prompt or a name."""
        if prompt_name is not None or prompt is not None:
            return prompt_name
        return name_for(task, self.prompts)


@contextlib.contextmanager
def _named_as_given(order: NDArray[np.intp]) -> Iterator[None]:
    """Name a text without tokens by its index in the input, not by its index among the reordered texts."""
    try:
        yield
    except NoTokensError as error:
        raise NoTokensError(int(order[error.index])) from None


def _finish(vectors: NDArray[np.float32], request: _Request) -> NDArray[np.float32]:
    """Truncate, then normalise if requested: the order of sentence-transformers."""
    if request.truncate_dim is not None:
        vectors = np.ascontiguousarray(vectors[:, : request.truncate_dim])
    return normalize(vectors) if request.normalize else vectors


@usual_modes()
def as_container(vectors: Vectors, *, to_numpy: bool, to_tensor: bool) -> Vectors | jax.Array | list[jax.Array]:
    """Return the container that sentence-transformers would return, with JAX arrays in place of PyTorch's."""
    if to_tensor:
        return jnp.asarray(vectors)
    return vectors if to_numpy else [jnp.asarray(vector) for vector in vectors]


@contextlib.contextmanager
def progress_bar(total: int | None, shown: bool | None) -> Iterator[_Progress]:
    """Show a progress bar, and yield a function that advances it.

    Args:
        total: number of items; None if it is known only after reading the inputs.
        shown: whether to show it; None shows it if the logger ``tsjax`` is at level INFO or below.
    """
    if not (logger.getEffectiveLevel() <= logging.INFO if shown is None else shown):
        yield None
        return
    from tqdm import tqdm  # noqa: PLC0415  # only who wants a bar pays for it

    with tqdm(total=total, unit="text") as bar:
        yield bar.update
