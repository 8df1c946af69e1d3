"""Scores of pairs of texts: what a reranker gives.

Keyword names and behaviour are those of ``CrossEncoder`` in sentence-transformers 6. A pair goes through the encoder
as one input, so its attention has the temperature too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, TypedDict, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.checkpoints import format as checkpoint
from tsjax.checkpoints.resaving import with_metadata
from tsjax.encoders.embedder import as_container, progress_bar
from tsjax.encoders.lifecycle import Lifecycle
from tsjax.encoders.saving import Saving
from tsjax.encoders.settings import ModelSettings, check_device, check_unused, dtype_name
from tsjax.encoders.signatures import OF_LOAD
from tsjax.encoders.similarity import top_indices
from tsjax.engine.batching import Shape
from tsjax.engine.engine import Engine
from tsjax.engine.jax_modes import usual_modes
from tsjax.engine.prefetch import prefetch_map
from tsjax.engine.statistics import Statistics
from tsjax.errors import CheckpointError, InputError, NoTokensError, TruncationWarning
from tsjax.model.activations import activate
from tsjax.model.config import Activation
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import as_text_list, check_texts, chunk_by_characters, ordered
from tsjax.validation.keywords import strict_keywords
from tsjax.validation.numbers import whole_number
from tsjax.warn import warn

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    from jax.typing import DTypeLike
    from jaxtyping import Array
    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Metadata
    from tsjax.encoders.signatures import DeviceName
    from tsjax.temperature import Temperature, TemperatureLike
    from tsjax.text.tokenizer import Tokenized

    Scoring: TypeAlias = Activation | Callable[[Array], Array]
    Pair: TypeAlias = tuple[str, str] | list[str]
    # One pair's score, or its scores by label, and those of several pairs.
    PairScores: TypeAlias = np.float32 | NDArray[np.float32]
    Scores: TypeAlias = PairScores | jax.Array | list[jax.Array]


class PredictOptions(TypedDict, total=False):
    """Keywords of `CrossEncoder.predict` that do not change the type of what it returns."""

    batch_size: int | None
    show_progress_bar: bool | None
    activation_fn: Scoring | None
    apply_softmax: bool
    device: DeviceName | None
    pool: None
    chunk_size: None
    temperature: TemperatureLike | None


class RankedDocument(TypedDict):
    """A document as `CrossEncoder.rank` returns it.

    Attributes:
        corpus_id: its place among the documents.
        score: larger is better.
        text: the document, if asked for.
    """

    corpus_id: int
    score: float
    text: NotRequired[str]


class CrossEncoder(Lifecycle, Saving, ModelSettings[PairTokenizer]):
    """A model ready to score pairs; made by `tsjax.load`. Safe to use from many threads.

    It is pickled, copied and closed as an `Embedder` is. An activation that is a function is pickled as functions are:
    ``pickle`` takes those of a module's own, ``cloudpickle`` JAX's and lambdas, too; those with a name go by it.

    Args:
        directory: one that `tsjax convert` made of a sequence classification model.
        temperature: τ of the attention softmax; None for the one saved with the model.
        dtype: what the encoder computes in, as for `Embedder`; scores are float32 in any case.
        max_seq_length: tokens at which pairs are cut, the longer text first; None for the model's own.
        prompts: more prompts, or others, by name.
        default_prompt_name: the prompt used where a call names none.
        token_budget: the most tokens of a batch on each device, padding included, unless one text has more; None for
            what suits the device.
        devices: what to compute on: JAX's devices, or how many; None for all that this process has.
        shard_parameters: share the parameters out among the devices, for a model that one cannot hold.
        activation: what is applied to the logits, by name or as a function of a JAX array; None for the model's own.

    Raises:
        CheckpointError: the directory is incomplete or damaged, or holds an embedding model.
        InputError: an option that cannot be used.
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
        token_budget: int | None = None,
        devices: int | jax.Device | Sequence[jax.Device] | None = None,
        shard_parameters: bool = False,
        activation: Scoring | None = None,
    ) -> None:
        dtype = dtype_name(dtype)
        header = checkpoint.read_header(Path(directory).absolute())
        if header.metadata.kind != "cross_encoder":
            raise CheckpointError(f"{header.path} holds an embedding model, not a cross-encoder")
        super().__init__(
            header,
            PairTokenizer(checkpoint.read_tokenizer(header), header.metadata.max_seq_length),
            dtype,
            temperature=temperature,
            max_seq_length=max_seq_length,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
        )
        self.activation = header.metadata.activation if activation is None else activation
        self._engine = Engine.load(header, dtype, token_budget, devices, shard_parameters=shard_parameters)

    def _load(self, directory: str | os.PathLike[str], **options: Any) -> None:
        CrossEncoder.__init__(self, directory, **options)

    def __repr__(self) -> str:
        encoder = self._config.encoder
        return (
            f"CrossEncoder({self.metadata.source!r}, {encoder.num_layers} layers × {encoder.hidden_size}, "
            f"{self.num_labels} labels, max_seq_length={self.max_seq_length}, τ={self.temperature}, {self._dtype})"
        )

    def check_temperature(self, value: TemperatureLike) -> Temperature:
        temperature = super().check_temperature(value)
        if temperature.query is not None:
            raise InputError("a cross-encoder reads query and document together: they can only have one temperature")
        return temperature

    @property
    def num_labels(self) -> int:
        """Scores that each pair gets."""
        return self._config.embedding_dimension

    @property
    def activation(self) -> Scoring:
        """What is applied to the logits where a call does not say. Settable."""
        return self._activation

    @activation.setter
    def activation(self, value: Scoring) -> None:
        self._activation = _checked(value)

    def _decisive(self) -> list[Any]:
        named = self.activation if isinstance(self.activation, str) else "a function"
        return [*super()._decisive(), named]

    def present_metadata(self) -> Metadata:
        """Return what a checkpoint with the present settings says.

        Raises:
            InputError: the activation is a function.
        """
        if not isinstance(self.activation, str):
            raise InputError(
                f"the activation {self.activation!r} is a function, which a checkpoint cannot hold; set one by name"
            )
        return dataclasses.replace(super().present_metadata(), activation=self.activation)

    def _source(self) -> Path:
        return self._header.path

    def _write(self, destination: Path, *, overwrite: bool) -> None:
        parts = with_metadata(self._header, self.present_metadata())
        checkpoint.save(destination, *parts, overwrite=overwrite)

    @property
    def statistics(self) -> Statistics:
        """What this cross-encoder has done so far, as a copy; a text there is a pair."""
        return self._engine.statistics

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """What it computes on; a batch's rows are spread over all of them."""
        return self._engine.devices

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every batch shape that can be asked of the compiler, with the present ``max_seq_length``."""
        return self._engine.shapes(self.max_seq_length).shapes

    @overload
    def predict(
        self,
        inputs: Pair,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> PairScores: ...
    @overload
    def predict(
        self,
        inputs: Iterable[Pair],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        convert_to_numpy: Literal[True] = ...,
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> NDArray[np.float32]: ...
    @overload
    def predict(
        self,
        inputs: Pair | Iterable[Pair],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        convert_to_numpy: bool = ...,
        convert_to_tensor: Literal[True],
        **options: Unpack[PredictOptions],
    ) -> jax.Array: ...
    @overload
    def predict(
        self,
        inputs: Pair,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> jax.Array: ...
    @overload
    def predict(
        self,
        inputs: Iterable[Pair],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        *,
        convert_to_numpy: Literal[False],
        convert_to_tensor: Literal[False] = ...,
        **options: Unpack[PredictOptions],
    ) -> list[jax.Array]: ...
    @overload  # by position, as sentence-transformers orders them, or with values that are known at run time only
    def predict(
        self,
        inputs: Iterable[Sequence[str]] | Sequence[str],
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int | None = ...,
        show_progress_bar: bool | None = ...,
        activation_fn: Scoring | None = ...,
        apply_softmax: bool = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        device: DeviceName | None = ...,
        pool: None = ...,
        chunk_size: None = ...,
        *,
        temperature: TemperatureLike | None = ...,
    ) -> Scores: ...
    @strict_keywords(elsewhere=OF_LOAD)
    def predict(
        self,
        inputs: Iterable[Sequence[str]] | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Scoring | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: DeviceName | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        temperature: TemperatureLike | None = None,
    ) -> Scores:
        """Score pairs.

        Pairs are read and tokenised some at a time, so that memory beyond the scores does not grow with their number.

        Args:
            inputs: one pair of texts, or several: any iterable that has an order, such as a generator.
            prompt_name: which of `prompts` to put before the first text of each pair.
            prompt: text to put there; wins over ``prompt_name``.
            batch_size: the most pairs in a batch, which is bounded by tokens anyway.
            show_progress_bar: None shows it if the logger ``tsjax`` is at level INFO or below.
            activation_fn: what is applied to the logits; None for `activation`. ``"identity"`` gives the logits.
            apply_softmax: with several labels, make each pair's scores sum to 1.
            convert_to_numpy: False gives a list of JAX arrays, one a pair.
            convert_to_tensor: True gives one JAX array.
            device: None, or the name of what the model computes on (``cpu``, ``cuda``, ``tpu``).
            pool: only None; there are no worker processes.
            chunk_size: only None, for the same reason.
            temperature: τ for this call; None for the model's own. No value of it causes a compilation.

        Returns:
            float32 (n,) with one label, (n, labels) with several; without the first axis for one pair.

        Raises:
            InputError: what is not pairs of strings, a pair without tokens, or an argument that cannot be used.
            LifecycleError: the cross-encoder was closed, or JAX was in use when this process was forked.

        Warns:
            TruncationWarning: some pairs were longer than `max_seq_length` and were cut.
        """
        self._engine.check_usable()
        check_device(device, self.devices)
        check_unused(pool=pool, chunk_size=chunk_size)
        single, pairs = _pairs(inputs)
        before = self.prompt_text(prompt_name, prompt)
        used = self.activation if activation_fn is None else _checked(activation_fn)
        tau = self._temperature if temperature is None else self.check_temperature(temperature)
        max_texts = None if batch_size is None else whole_number("batch_size", batch_size)
        with progress_bar(1 if single else _count(inputs), show_progress_bar) as progress:
            logits = self._logits(pairs, before, tau, max_texts, progress)
        scores = _scored(logits, used, softmax=apply_softmax and self.num_labels > 1)
        if self.num_labels == 1:
            scores = scores[:, 0]
        result = as_container(scores, to_numpy=convert_to_numpy, to_tensor=convert_to_tensor)
        return result[0] if single else result

    def _logits(
        self,
        pairs: Iterable[tuple[str, str]],
        prompt: str,
        temperature: Temperature,
        max_texts: int | None,
        progress: Callable[[int], object] | None,
    ) -> NDArray[np.float32]:
        """Return the logits of pairs in input order; block after block is tokenised while the device works."""
        tokenizer = self._tokenizer  # once: another thread may set another max_seq_length meanwhile
        logits = np.empty((1, self.num_labels), np.float32)
        count, cut = 0, 0

        def tokenize(block: list[tuple[str, str]]) -> Tokenized:
            tokenized = tokenizer.encode(block, prompt)
            return tokenized if self.metadata.token_types else tokenized._replace(type_ids=None)

        blocks = chunk_by_characters(pairs, self._engine.block_characters, _length)
        with contextlib.closing(prefetch_map(tokenize, blocks)) as tokenized, _of_pairs():
            for computed in self._engine.compute(
                tokenized, temperature, max_length=tokenizer.max_length, max_texts=max_texts, progress=progress
            ):
                while computed.indices.max() >= len(logits):
                    logits = np.concatenate([logits, np.empty_like(logits)])
                logits[computed.indices] = computed.embeddings
                count, cut = count + len(computed.indices), cut + computed.truncated
        if cut:
            warn(
                f"{cut} of {count} pairs were longer than max_seq_length = {tokenizer.max_length} tokens and were cut",
                TruncationWarning,
            )
        return logits[:count]

    @strict_keywords(elsewhere=OF_LOAD)
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Scoring | None = None,
        device: DeviceName | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        temperature: TemperatureLike | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> list[RankedDocument]:
        """Rank documents for a query, best first; documents of equal scores stay in order.

        Args:
            query: one text.
            documents: several, read some at a time.
            top_k: the number of documents to return; None for all.
            return_documents: return the texts, too.
            prompt_name: this and the following as for `predict`.
            prompt: text to put before the query.
            batch_size: the most pairs in a batch.
            show_progress_bar: None shows it if the logger ``tsjax`` is at level INFO or below.
            activation_fn: what is applied to the logits.
            device: None, or the name of what the model computes on.
            pool: only None.
            chunk_size: only None.
            temperature: τ for this call.
            apply_softmax: this and the following have no effect, as in sentence-transformers 5.
            convert_to_numpy: no effect.
            convert_to_tensor: no effect.

        Returns:
            a dict for each document: ``corpus_id``, its place in ``documents``, ``score``, and perhaps ``text``.

        Raises:
            InputError: the model gives several scores a pair, or as for `predict`.
        """
        if self.num_labels != 1:
            raise InputError(f"rank needs one score a pair; this model gives {self.num_labels}: use predict")
        count = None if top_k is None else whole_number("top_k", top_k)
        check_texts([query])
        pairs = _Asked(query, documents, keep=return_documents)
        scores = self.predict(
            pairs,
            prompt_name,
            prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
            temperature=temperature,
        )
        ranked: list[RankedDocument] = []
        for place in top_indices(scores, len(scores) if count is None else count).tolist():
            ranked.append({"corpus_id": place, "score": float(scores[place])})
            if return_documents:
                ranked[-1]["text"] = pairs.kept[place]
        return ranked

    def warmup(self, *, verbose: bool = True) -> dict[Shape, float]:
        """Compile every shape of `shapes`, so that no later call has to.

        Args:
            verbose: print each shape and its time.

        Returns:
            seconds by shape.
        """
        typed = self.metadata.token_types
        return self._engine.warmup(self.max_seq_length, self._temperature, typed=typed, verbose=verbose)


class _Asked:
    """Pairs of a query and each document, made as they are read."""

    def __init__(self, query: str, documents: Iterable[str], *, keep: bool) -> None:
        if isinstance(documents, str):
            raise InputError("rank takes several documents, not one string")
        self._query, self._documents, self._keep = query, ordered(documents), keep
        self.kept: list[str] = []

    def __len__(self) -> int:
        return len(self._documents)  # type: ignore[arg-type]  # a TypeError where they have no length, as it should be

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for index, text in enumerate(self._documents):
            check_texts([text], first_index=index)
            if self._keep:
                self.kept.append(text)
            yield self._query, text


@contextlib.contextmanager
def _of_pairs() -> Iterator[None]:
    """Name a pair without tokens as such."""
    try:
        yield
    except NoTokensError as error:
        raise NoTokensError(error.index, "pair") from None


def _pairs(inputs: Any) -> tuple[bool, Iterator[tuple[str, str]]]:
    """Return whether one pair was given, and the pairs, which are read and checked one by one."""
    if isinstance(inputs, str):
        raise InputError("expected pairs of texts, not one string")
    given = iter(inputs if isinstance(inputs, np.ndarray) and inputs.ndim else ordered(inputs))
    first = list(itertools.islice(given, 1))
    given = itertools.chain(first, given)
    single = bool(first) and isinstance(first[0], str)
    return single, map(_pair, itertools.count(), [list(itertools.islice(given, 3))] if single else given)


def _pair(index: int, given: Any) -> tuple[str, str]:
    try:
        texts = [given] if isinstance(given, str) else check_texts(as_text_list(given))
    except InputError as error:
        raise InputError(f"pair {index}: {error}") from error
    if len(texts) != 2:
        raise InputError(f"pair {index} is {given!r:.60}, not two texts")
    return texts[0], texts[1]


def _length(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])


def _count(inputs: Any) -> int | None:
    """Return how many there are; None where only reading them tells."""
    try:
        return len(inputs)
    except TypeError:
        return None


def _checked(activation: Scoring) -> Scoring:
    if not callable(activation) and activation not in get_args(Activation):
        raise InputError(
            f"activation {activation!r} does not exist; it can be a function, or {', '.join(get_args(Activation))}"
        )
    return activation


@usual_modes()
def _scored(logits: NDArray[np.float32], activation: Scoring, *, softmax: bool) -> NDArray[np.float32]:
    """What the activation makes of the logits, checked to be a score for each of them."""
    count = len(logits)
    if isinstance(activation, str):
        # As many as a power of two, since each number of them is a program to compile.
        full = np.zeros((1 << max(count - 1, 0).bit_length(), logits.shape[1]), np.float32)
        full[:count] = logits
        scores = activate(jnp.asarray(full), activation)
    else:
        try:
            scores = jnp.asarray(activation(jnp.asarray(logits)))
        except Exception as error:  # whatever a function of the user's may raise
            raise InputError(
                f"activation_fn {activation!r} failed on a JAX array: {error}; "
                "activations also go by name, as 'sigmoid'"
            ) from error
        if scores.shape != logits.shape or not jnp.isfinite(scores).all():
            raise InputError(f"activation_fn {activation!r} must give one finite number for each logit")
    if softmax:
        scores = jax.nn.softmax(scores, axis=-1)
    return np.array(np.asarray(scores)[:count], np.float32)
