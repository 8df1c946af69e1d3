"""The object that a user holds: a model, its tokenizer and its prompts, turning texts into vectors.

Keyword names and behaviour are those of ``SentenceTransformer`` in sentence-transformers 6, so that changing over is
changing an import. What is added: ``temperature``, ``stream``, ``warmup`` and ``statistics``.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import checkpoint
from tsjax.engine import Engine, Statistics
from tsjax.errors import InputError, TruncationWarning
from tsjax.model.forward import cast_params, unflatten, weight_shapes
from tsjax.quantization import Precision, check_precision, quantize_embeddings
from tsjax.similarity import Similarity, normalize, similarity, similarity_pairwise
from tsjax.temperature import Temperature
from tsjax.text.batching import Shape
from tsjax.text.tokenizer import TextTokenizer, check_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from tsjax.engine import Computed
    from tsjax.temperature import TemperatureLike
    from tsjax.text.tokenizer import Tokenized

logger = logging.getLogger(__name__)

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
OutputValue: TypeAlias = Literal["sentence_embedding", "token_embeddings"]


class _Request(NamedTuple):
    """One call's choices, resolved."""

    prompt: str
    temperature: Temperature
    max_rows: int | None
    truncate_dim: int | None
    normalize: bool
    show_progress: bool

    def progress(self, total: int) -> Callable[[int], None] | None:
        """Where to report how many texts are done, if anywhere."""
        if not self.show_progress:
            return None
        from tqdm import tqdm  # noqa: PLC0415  # only who wants a bar pays for it

        bar = tqdm(total=total, unit="text")

        def report(texts: int) -> None:
            bar.update(texts)
            if bar.n >= total:
                bar.close()

        return report


class Embedder:
    """A model ready to embed; made by `tsjax.load`. Safe to use from many threads.

    Attributes:
        metadata: what the checkpoint says: architecture, pooling, heads, and the defaults of what follows.
        fingerprint: SHA-256 of all that decides the vectors, to stamp them with.
        temperature: τ used where a call gives none. Settable.
        prompts: texts to put before the input, by name. Settable.
        default_prompt_name: the prompt used where a call names none. Settable.
        truncate_dim: leading dimensions kept where a call does not say. Settable.
        similarity_fn_name: cosine, dot, euclidean or manhattan. Settable.
        token_budget: the most tokens of a batch, padding included.
    """

    def __init__(
        self,
        directory: Path,
        *,
        temperature: TemperatureLike | None = None,
        dtype: Dtype = "float32",
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        similarity_fn_name: Similarity | None = None,
        token_budget: int | None = None,
    ) -> None:
        """Read a checkpoint directory of ours; `load` takes any model and the same keywords."""
        header = checkpoint.read_header(directory)
        metadata = self.metadata = header.metadata
        self.fingerprint = header.fingerprint
        self._config = metadata.model
        if dtype not in get_args(Dtype):
            raise InputError(f"dtype {dtype!r} is not supported; it can be {', '.join(get_args(Dtype))}")
        self.dtype = dtype
        self._temperature = metadata.temperature
        if temperature is not None:
            self.temperature = temperature
        self.prompts = {**metadata.prompts, **(prompts or {})}
        self.default_prompt_name = metadata.default_prompt_name if default_prompt_name is None else default_prompt_name
        self._prompt_text(None, None)
        self.truncate_dim = self._checked_dim(metadata.truncate_dim if truncate_dim is None else truncate_dim)
        self.similarity_fn_name: Similarity = similarity_fn_name or metadata.similarity_fn_name  # type: ignore[assignment]
        if self.similarity_fn_name not in get_args(Similarity):
            raise InputError(
                f"similarity {similarity_fn_name!r} does not exist; it can be {', '.join(get_args(Similarity))}"
            )
        if token_budget is not None:
            _positive("token_budget", token_budget)
        self._tokenizer = TextTokenizer(checkpoint.read_tokenizer(header), metadata.max_seq_length)
        if max_seq_length is not None:
            self.max_seq_length = max_seq_length
        weights = checkpoint.read_weights(header, weight_shapes(self._config))
        params = cast_params(jax.device_put(unflatten(weights)), jnp.dtype(dtype))
        self._engine = Engine(self._config, params, metadata.pad_token_id, token_budget)

    def __repr__(self) -> str:
        encoder = self._config.encoder
        return (
            f"Embedder({self.metadata.source!r}, {encoder.num_layers} layers × {encoder.hidden_size}, "
            f"{self.embedding_dimension} dimensions, max_seq_length={self.max_seq_length}, τ={self._temperature}, "
            f"{self.dtype})"
        )

    # -- what a user may read and set ---------------------------------------------------------------------------------

    @property
    def temperature(self) -> Temperature:
        """τ used where a call gives none."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: TemperatureLike) -> None:
        self._temperature = self._checked_temperature(value)

    @property
    def max_seq_length(self) -> int:
        """Tokens at which texts are cut, special ones included. Settable up to the positions that the model has."""
        return self._tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        longest = self._config.encoder.max_length
        if _positive("max_seq_length", value) > longest:
            raise InputError(f"max_seq_length {value} is more than the {longest} positions that this model has")
        # A new object, not a changed one: other threads may be using the old.
        self._tokenizer = self._tokenizer.with_max_length(value)

    @property
    def embedding_dimension(self) -> int:
        """Width of the vectors, after ``truncate_dim``."""
        return self.truncate_dim or self._config.embedding_dimension

    def get_embedding_dimension(self) -> int:
        """The same under sentence-transformers' name."""
        return self.embedding_dimension

    @property
    def statistics(self) -> Statistics:
        """What this embedder has done so far, as a copy."""
        return self._engine.statistics

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every batch shape that can be asked of the compiler, with the present ``max_seq_length``."""
        return self._engine.shapes(self.max_seq_length)

    @property
    def token_budget(self) -> int:
        """The most tokens of a batch, padding included."""
        return self._engine.token_budget

    # -- what it is for -----------------------------------------------------------------------------------------------

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
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        temperature: TemperatureLike | None = None,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """Embed texts.

        Args:
            inputs: one text or several.
            prompt_name: which of `prompts` to put before each text.
            prompt: text to put before each text; wins over ``prompt_name``.
            batch_size: the most texts in a batch, which is bounded by `token_budget` anyway; rounded down to a row
                count that has a compiled shape.
            show_progress_bar: None shows it if this module's logger is at level INFO or below.
            output_value: ``sentence_embedding`` for one vector a text, ``token_embeddings`` for one a token (a list of
                float32 (tokens, D)), None for a list of dicts with both, the token ids and the attention mask.
            precision: see `tsjax.quantize_embeddings`; the range of a dimension is taken over the whole result.
            convert_to_numpy: False gives a JAX array.
            normalize_embeddings: divide each vector by its Euclidean norm, after ``truncate_dim``.
            truncate_dim: keep so many leading dimensions; None for the embedder's own.
            temperature: τ for this call; None for the embedder's own. No value of it causes a compilation.
            sentences: the old name of ``inputs``.

        Returns:
            float32 (n, D) in input order for several texts, (D,) for one text; (0, D) for none.

        Raises:
            InputError: a text that is not a string, or an argument that cannot be used.

        Warns:
            TruncationWarning: some texts were longer than `max_seq_length` and were cut.
        """
        if (inputs is None) == (sentences is None):
            raise InputError("give the texts once: as inputs, or under their old name sentences")
        given = sentences if inputs is None else inputs
        assert given is not None  # exactly one is given
        check_precision(precision)
        if output_value is not None and output_value not in get_args(OutputValue):
            raise InputError(f"output_value {output_value!r} does not exist; it can be {get_args(OutputValue)} or None")
        request = _Request(
            prompt=self._prompt_text(prompt_name, prompt),
            temperature=self._temperature if temperature is None else self._checked_temperature(temperature),
            max_rows=None if batch_size is None else _positive("batch_size", batch_size),
            truncate_dim=self.truncate_dim if truncate_dim is None else self._checked_dim(truncate_dim),
            normalize=normalize_embeddings,
            show_progress=logger.getEffectiveLevel() <= logging.INFO
            if show_progress_bar is None
            else show_progress_bar,
        )
        single = isinstance(given, str)
        texts = check_texts([given] if isinstance(given, str) else _listed(given))
        result: Any
        if output_value == "sentence_embedding":
            result = quantize_embeddings(self._embed(texts, request), precision)
            if not convert_to_numpy:
                result = jnp.asarray(result)
        else:
            result = self._embed_tokens(texts, request)
            if output_value == "token_embeddings":
                result = [item["token_embeddings"] for item in result]
        return result[0] if single else result

    def encode_query(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """`encode` with the prompt named ``query``, unless a prompt is given; the model's default where it has none."""
        return self.encode(inputs, **self._with_prompt_for(("query",), options))

    def encode_document(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """`encode` with the first prompt there is of ``document``, ``passage`` and ``corpus``, likewise."""
        return self.encode(inputs, **self._with_prompt_for(("document", "passage", "corpus"), options))

    def stream(
        self, inputs: Iterable[str], *, block_size: int = 4096, precision: Precision = "float32", **options: Any
    ) -> Iterator[NDArray[Any]]:
        """Embed texts without end in constant memory: yields arrays of ``block_size`` vectors, in input order.

        Args:
            inputs: any iterable of texts; it is read one block at a time.
            block_size: texts in a block; within it, texts are sorted by length, so a small one costs speed.
            precision: float32, binary or ubinary; int8 and uint8 need ranges over all vectors, so quantize afterwards.
            options: as for `encode`.
        """
        if precision in ("int8", "uint8"):
            raise InputError(
                f"{precision} needs the range of all vectors, which a stream does not know; quantize them later"
            )
        if isinstance(inputs, str):
            raise InputError("stream takes several texts, not one string")
        _positive("block_size", block_size)
        iterator, start = iter(inputs), 0
        while block := list(itertools.islice(iterator, block_size)):
            check_texts(block, first_index=start)
            yield self.encode(block, precision=precision, **options)
            start += len(block)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """How alike each of the first is to each of the second, by `similarity_fn_name`: float32 (n, m)."""
        return similarity(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """How alike each of the first is to the second of the same place: float32 (n,)."""
        return similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)

    def warmup(self, *, verbose: bool = True) -> dict[Shape, float]:
        """Compile every shape of `shapes`, so that no later call has to.

        Args:
            verbose: print each shape and its time.

        Returns:
            seconds by shape; near 0 for one that was compiled before.
        """
        seconds = {}
        for shape, took in self._engine.warmup(self.max_seq_length, self._temperature):
            seconds[shape] = took
            if verbose:
                print(f"{shape.rows:4d} × {shape.tokens:<5d} {took:6.2f} s")  # noqa: T201  # asked for
        return seconds

    # -- how ----------------------------------------------------------------------------------------------------------

    def _embed(self, texts: Sequence[str], request: _Request) -> NDArray[np.float32]:
        """One vector a text, in input order."""
        vectors = np.empty((len(texts), self._config.embedding_dimension), np.float32)
        for computed in self._compute(texts, request)[1]:
            vectors[computed.indices] = computed.embeddings
        return _finish(vectors, request)

    def _embed_tokens(self, texts: Sequence[str], request: _Request) -> list[dict[str, NDArray[Any]]]:
        """Everything there is to know of each text, in input order."""
        items: list[dict[str, NDArray[Any]]] = [{} for _ in texts]
        tokenized, batches = self._compute(texts, request, with_tokens=True)
        for computed in batches:
            assert computed.tokens is not None  # asked for
            vectors = _finish(computed.embeddings, request)
            for index, vector, tokens in zip(computed.indices, vectors, computed.tokens, strict=True):
                ids = tokenized.ids[index]
                items[index] = {
                    "input_ids": ids,
                    "attention_mask": np.ones_like(ids),
                    # Copies, lest one text's tokens keep the whole batch alive.
                    "token_embeddings": tokens[: len(ids)].copy(),
                    "sentence_embedding": vector.copy(),
                }
        return items

    def _compute(
        self, texts: Sequence[str], request: _Request, *, with_tokens: bool = False
    ) -> tuple[Tokenized, Iterator[Computed]]:
        tokenizer = self._tokenizer  # once: another thread may set another max_seq_length meanwhile
        tokenized = tokenizer.encode([request.prompt + text for text in texts] if request.prompt else texts)
        cut = int(tokenized.truncated.sum())
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} texts were longer than max_seq_length = {tokenizer.max_length} tokens "
                "and were cut",
                TruncationWarning,
                stacklevel=4,  # the caller of encode
            )
        leave_out_prompt = request.prompt and not self._config.pooling.include_prompt
        return tokenized, self._engine.compute(
            tokenized,
            request.temperature,
            max_length=tokenizer.max_length,
            prompt_length=tokenizer.prompt_length(request.prompt) if leave_out_prompt else 0,
            max_rows=request.max_rows,
            with_tokens=with_tokens,
            progress=request.progress(len(texts)),
        )

    # -- checking what a call asks ------------------------------------------------------------------------------------

    def _checked_temperature(self, value: TemperatureLike) -> Temperature:
        temperature = Temperature.of(value)
        temperature.per_head(self._config.encoder.num_layers, self._config.encoder.num_heads)
        return temperature

    def _checked_dim(self, value: int | None) -> int | None:
        if value is not None and _positive("truncate_dim", value) > self._config.embedding_dimension:
            raise InputError(
                f"truncate_dim {value} is more than the {self._config.embedding_dimension} dimensions there are"
            )
        return value

    def _prompt_text(self, name: str | None, prompt: str | None) -> str:
        if prompt is None:
            name = self.default_prompt_name if name is None else name
            if name is None:
                return ""
            if name not in self.prompts:
                known = ", ".join(map(repr, self.prompts)) or "none"
                raise InputError(f"there is no prompt named {name!r}; this model has {known}")
            prompt = self.prompts[name]
        if not isinstance(prompt, str):
            raise InputError(f"a prompt must be a string, not {prompt!r}")
        return prompt

    def _with_prompt_for(self, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            name = next((name for name in names if name in self.prompts), None)
            return {**options, "prompt_name": name}
        return options


def _finish(vectors: NDArray[np.float32], request: _Request) -> NDArray[np.float32]:
    """Truncate, then normalise if asked: the order of sentence-transformers."""
    if request.truncate_dim is not None:
        vectors = np.ascontiguousarray(vectors[:, : request.truncate_dim])
    return normalize(vectors) if request.normalize else vectors


def _listed(inputs: object) -> list[Any]:
    """The texts of any iterable, as a list."""
    if isinstance(inputs, Mapping | bytes) or not isinstance(inputs, Iterable):
        raise InputError(f"expected a string or several, not {type(inputs).__name__}")
    return inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)
