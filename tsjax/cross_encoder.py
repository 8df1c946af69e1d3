"""Scores of pairs of texts: what a reranker gives.

Keyword names and behaviour are those of ``CrossEncoder`` in sentence-transformers 6. A pair goes through the encoder
as one input, so its attention has the temperature too.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import checkpoint
from tsjax.embedder import progress_bar
from tsjax.engine import Engine, Statistics
from tsjax.errors import CheckpointError, InputError, NoTokensError, TruncationWarning
from tsjax.model.activations import activate
from tsjax.model.config import Activation
from tsjax.settings import Dtype, ModelSettings, check_unused, positive
from tsjax.text.batching import Shape
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import check_texts, listed, without_tokens

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jaxtyping import Array
    from numpy.typing import NDArray

    from tsjax.temperature import Temperature, TemperatureLike

    Scoring: TypeAlias = Activation | Callable[[Array], Array]


class CrossEncoder(ModelSettings[PairTokenizer]):
    """A model ready to score pairs; made by `tsjax.load`. Safe to use from many threads.

    Args:
        directory: one that `tsjax convert` made of a sequence classification model.
        temperature: τ of the attention softmax; None for the one saved with the model.
        dtype: what the encoder computes in; scores are float32 in any case.
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
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        temperature: TemperatureLike | None = None,
        dtype: Dtype = "float32",
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        token_budget: int | None = None,
        devices: int | jax.Device | Sequence[jax.Device] | None = None,
        shard_parameters: bool = False,
        activation: Scoring | None = None,
    ) -> None:
        header = checkpoint.read_header(Path(directory))
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

    def __repr__(self) -> str:
        encoder = self._config.encoder
        return (
            f"CrossEncoder({self.metadata.source!r}, {encoder.num_layers} layers × {encoder.hidden_size}, "
            f"{self.num_labels} labels, max_seq_length={self.max_seq_length}, τ={self.temperature}, {self._dtype})"
        )

    def _checked_temperature(self, value: TemperatureLike) -> Temperature:
        temperature = super()._checked_temperature(value)
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
        return self._engine.ladder(self.max_seq_length).shapes

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
        device: None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        temperature: TemperatureLike | None = None,
    ) -> Any:
        """Score pairs.

        Args:
            inputs: one pair of texts, or several.
            prompt_name: which of `prompts` to put before the first text of each pair.
            prompt: text to put there; wins over ``prompt_name``.
            batch_size: the most pairs in a batch, which is bounded by tokens anyway.
            show_progress_bar: None shows it if the logger of `tsjax.embedder` is at level INFO or below.
            activation_fn: what is applied to the logits; None for `activation`. ``"identity"`` gives the logits.
            apply_softmax: with several labels, make each pair's scores sum to 1.
            convert_to_numpy: False gives a list of JAX arrays, one a pair.
            convert_to_tensor: True gives one JAX array.
            device: only None; JAX places the model.
            pool: only None; there are no worker processes.
            chunk_size: only None, likewise.
            temperature: τ for this call; None for the model's own. No value of it causes a compilation.

        Returns:
            float32 (n,) with one label, (n, labels) with several; without the first axis for one pair.

        Raises:
            InputError: what is not pairs of strings, a pair without tokens, or an argument that cannot be used.

        Warns:
            TruncationWarning: some pairs were longer than `max_seq_length` and were cut.
        """
        check_unused(device=device, pool=pool, chunk_size=chunk_size)
        single, pairs = _pairs(inputs)
        before = self._prompt_text(prompt_name, prompt)
        used = self.activation if activation_fn is None else _checked(activation_fn)
        tau = self._temperature if temperature is None else self._checked_temperature(temperature)
        max_texts = None if batch_size is None else positive("batch_size", batch_size)
        tokenizer = self._tokenizer  # once: another thread may set another max_seq_length meanwhile
        tokenized = tokenizer.encode([(before + first, second) for first, second in pairs])
        if not self.metadata.token_types:
            tokenized = tokenized._replace(type_ids=None)
        if (empty := without_tokens(tokenized)).size:
            raise NoTokensError(int(empty[0]), "pair")
        if cut := int(tokenized.truncated.sum()):
            warnings.warn(
                f"{cut} of {len(pairs)} pairs were longer than max_seq_length = {tokenizer.max_length} tokens "
                "and were cut",
                TruncationWarning,
                stacklevel=2,
            )
        logits = np.empty((len(pairs), self.num_labels), np.float32)
        with progress_bar(len(pairs), show_progress_bar) as progress:
            for computed in self._engine.compute(
                [tokenized], tau, max_length=tokenizer.max_length, max_texts=max_texts, progress=progress
            ):
                logits[computed.indices] = computed.embeddings
        scores = _scored(logits, used, softmax=apply_softmax and self.num_labels > 1)
        if self.num_labels == 1:
            scores = scores[:, 0]
        if convert_to_tensor:
            result: Any = jnp.asarray(scores)
        else:
            result = scores if convert_to_numpy else list(jnp.asarray(scores))
        return result[0] if single else result

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *positional: Any,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query, best first; documents of equal scores stay in order.

        Args:
            query: one text.
            documents: several.
            top_k: give the best so many; None for all.
            return_documents: give the texts too.
            positional: further arguments of `predict`, from ``prompt_name`` on.
            options: likewise, by name.

        Returns:
            a dict for each document: ``corpus_id``, its place in ``documents``, ``score``, and perhaps ``text``.

        Raises:
            InputError: the model gives several scores a pair, or as for `predict`.
        """
        if self.num_labels != 1:
            raise InputError(f"rank needs one score a pair; this model gives {self.num_labels}: use predict")
        count = None if top_k is None else positive("top_k", top_k)
        check_texts([query])
        texts = check_texts(listed(documents))
        scores = self.predict([(query, text) for text in texts], *positional, **options)
        best = np.argsort(-np.asarray(scores), kind="stable")[:count]
        return [
            {"corpus_id": int(i), "score": float(scores[i]), **({"text": texts[i]} if return_documents else {})}
            for i in best
        ]

    def warmup(self, *, verbose: bool = True) -> dict[Shape, float]:
        """Compile every shape of `shapes`, so that no later call has to.

        Args:
            verbose: print each shape and its time.

        Returns:
            seconds by shape.
        """
        typed = self.metadata.token_types
        return self._engine.warmup(self.max_seq_length, self._temperature, typed=typed, verbose=verbose)


def _pairs(inputs: Any) -> tuple[bool, list[tuple[str, str]]]:
    """Whether one pair was given, and the pairs."""
    if isinstance(inputs, str):
        raise InputError("expected pairs of texts, not one string")
    given = inputs.tolist() if isinstance(inputs, np.ndarray) else listed(inputs)
    single = bool(given) and isinstance(given[0], str)
    pairs = []
    for index, pair in enumerate([given] if single else given):
        texts = [pair] if isinstance(pair, str) else listed(pair)  # once: it may be an iterator
        if len(texts) != 2:
            raise InputError(f"pair {index} is {pair!r:.60}, not two texts")
        pairs.append(texts)
    flat = check_texts([text for pair in pairs for text in pair])
    return single, list(zip(flat[::2], flat[1::2], strict=True))


def _checked(activation: Scoring) -> Scoring:
    if not callable(activation) and activation not in get_args(Activation):
        raise InputError(
            f"activation {activation!r} does not exist; it can be a function, or {', '.join(get_args(Activation))}"
        )
    return activation


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
