"""Cross-encoders, which score pairs of texts, such as rerankers.

Keyword names and behaviour are those of ``CrossEncoder`` in sentence-transformers 6. A pair goes through the encoder as
one input, so the temperature applies to its attention too.
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
    # The score of one pair (or its scores by label), or the scores of several pairs.
    PairScores: TypeAlias = np.float32 | NDArray[np.float32]
    Scores: TypeAlias = PairScores | jax.Array | list[jax.Array]


class PredictOptions(TypedDict, total=False):
    """Keywords of `CrossEncoder.predict` that do not change its return type."""

    batch_size: int | None
    show_progress_bar: bool | None
    activation_fn: Scoring | None
    apply_softmax: bool
    device: DeviceName | None
    pool: None
    chunk_size: None
    temperature: TemperatureLike | None


class RankedDocument(TypedDict):
    """A document in the result of `CrossEncoder.rank`.

    Attributes:
        corpus_id: its index among the documents.
        score: larger is better.
        text: the document, if requested.
    """

    corpus_id: int
    score: float
    text: NotRequired[str]


class CrossEncoder(Lifecycle, Saving, ModelSettings[PairTokenizer]):
    """Model that scores pairs of texts; made by `tsjax.load`. Safe to use from many threads.

    It is pickled, copied and closed as an `Embedder` is. An activation given by name is pickled by name. One given as a
    function is pickled like any function: ``pickle`` takes functions that a module defines, ``cloudpickle`` also takes
    JAX's and lambdas.

    Args:
        directory: a checkpoint that `tsjax convert` made of a sequence classification model.
        temperature: τ of the attention softmax; None for the value saved with the model.
        dtype: compute dtype of the encoder, as for `Embedder`; scores are always float32.
        max_seq_length: maximum length of a pair in tokens, to which the longer text is truncated first; None for the
            model's own.
        prompts: prompts by name; they are added to the model's, or replace them.
        default_prompt_name: name of the prompt used when a call names none.
        token_budget: maximum tokens of a batch on each device, padding included, unless one text has more; None for a
            default that suits the device.
        devices: JAX devices to compute on, or their number; None for all devices of this process.
        shard_parameters: shard the parameters over the devices, for a model that does not fit on one.
        activation: activation of the logits, by name or as a function of a JAX array; None for the model's own.

    Raises:
        CheckpointError: the directory is incomplete or damaged, or holds an embedding model.
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
        """Return the number of scores per pair."""
        return self._config.embedding_dimension

    @property
    def activation(self) -> Scoring:
        """Return the activation of the logits when a call gives none. Settable."""
        return self._activation

    @activation.setter
    def activation(self, value: Scoring) -> None:
        self._activation = _checked(value)

    def _decisive(self) -> list[Any]:
        named = self.activation if isinstance(self.activation, str) else "a function"
        return [*super()._decisive(), named]

    def present_metadata(self) -> Metadata:
        """Return the metadata of a checkpoint with the present settings.

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
        """Return counts of this cross-encoder's work so far, as a copy; each pair counts as one text."""
        return self._engine.statistics

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """Return the devices to compute on; the rows of a batch are spread over all of them."""
        return self._engine.devices

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Return all batch shapes that may be compiled, with the present ``max_seq_length``."""
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
    @overload  # by position, in sentence-transformers' order, or with values known only at run time
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

        Pairs are read and tokenised in chunks, so that memory beyond the scores does not grow with their number.

        Args:
            inputs: one pair of texts, or several, as any ordered iterable such as a generator.
            prompt_name: name of the prompt in `prompts` to put before the first text of each pair.
            prompt: text to put before the first text of each pair; takes precedence over ``prompt_name``.
            batch_size: maximum pairs in a batch; the tokens of a batch are bounded in any case.
            show_progress_bar: None shows it if the logger ``tsjax`` is at level INFO or below.
            activation_fn: activation of the logits; None for `activation`. ``"identity"`` returns the logits.
            apply_softmax: with several labels, make each pair's scores sum to 1.
            convert_to_numpy: False returns a list of JAX arrays, one per pair.
            convert_to_tensor: True returns one JAX array.
            device: None, or the name of the device that the model computes on (``cpu``, ``cuda``, ``tpu``).
            pool: only None; there are no worker processes.
            chunk_size: only None; there are no worker processes.
            temperature: τ for this call; None for the model's own. A new value causes no compilation.

        Returns:
            float32 (n,) with one label, (n, labels) with several; without the first axis for one pair.

        Raises:
            InputError: the inputs are not pairs of strings, a pair has no tokens, or an argument cannot be used.
            LifecycleError: the cross-encoder was closed, or JAX was in use when this process was forked.

        Warns:
            TruncationWarning: some pairs were longer than `max_seq_length` and were truncated.
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
        """Return the logits of pairs in input order; tokenise the next block while the device works on this one."""
        tokenizer = self._tokenizer  # read once: another thread may set another max_seq_length meanwhile
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
        """Rank documents for a query, best first; documents with equal scores keep their order.

        Args:
            query: one text.
            documents: several texts, read in chunks.
            top_k: the number of documents to return; None for all.
            return_documents: return the texts too.
            prompt_name: see `predict` for this and the following.
            prompt: text to put before the query.
            batch_size: maximum pairs in a batch.
            show_progress_bar: None shows it if the logger ``tsjax`` is at level INFO or below.
            activation_fn: activation of the logits.
            device: None, or the name of the device that the model computes on.
            pool: only None.
            chunk_size: only None.
            temperature: τ for this call.
            apply_softmax: this and the following have no effect, as in sentence-transformers 5.
            convert_to_numpy: no effect.
            convert_to_tensor: no effect.

        Returns:
            a dict for each document: ``corpus_id``, its index in ``documents``, ``score``, and ``text`` if requested.

        Raises:
            InputError: the model returns several scores per pair, or as for `predict`.
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
        """Compile every shape of `shapes`, so that no later call has to compile.

        Args:
            verbose: print each shape and its time.

        Returns:
            seconds by shape.
        """
        typed = self.metadata.token_types
        return self._engine.warmup(self.max_seq_length, self._temperature, typed=typed, verbose=verbose)


class _Asked:
    """Pairs of a query and each document, made while they are read."""

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
    """Raise errors about a text without tokens as errors about a pair."""
    try:
        yield
    except NoTokensError as error:
        raise NoTokensError(error.index, "pair") from None


def _pairs(inputs: Any) -> tuple[bool, Iterator[tuple[str, str]]]:
    """Return whether one pair was given, and an iterator of pairs, which are read and checked one by one."""
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
    """Return the number of pairs; None if it is known only after reading them."""
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
    """Return the logits after the activation, checked to be one score per logit."""
    count = len(logits)
    if isinstance(activation, str):
        # Padded to a power of two, since each number of pairs is a program to compile.
        full = np.zeros((1 << max(count - 1, 0).bit_length(), logits.shape[1]), np.float32)
        full[:count] = logits
        scores = activate(jnp.asarray(full), activation)
    else:
        try:
            scores = jnp.asarray(activation(jnp.asarray(logits)))
        except Exception as error:  # a user's function may raise any error
            raise InputError(
                f"activation_fn {activation!r} failed on a JAX array: {error}; "
                "activations also go by name, as 'sigmoid'"
            ) from error
        if scores.shape != logits.shape or not jnp.isfinite(scores).all():
            raise InputError(f"activation_fn {activation!r} must give one finite number for each logit")
    if softmax:
        scores = jax.nn.softmax(scores, axis=-1)
    return np.array(np.asarray(scores)[:count], np.float32)
