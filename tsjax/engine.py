"""Token ids to vectors: plans batches, runs the compiled model, counts what it did.

It knows neither text nor what a user may ask; `tsjax.embedder` does. A faster plan, more devices or another order of
dispatch belong here.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.checkpoint import read_network_weights
from tsjax.errors import InputError
from tsjax.model.forward import Output, cast_params, compiled_apply, trace_counts, unflatten, weight_shapes
from tsjax.settings import Dtype, positive
from tsjax.text.batching import Batch, Shape, ShapeLadder, pad, plan
from tsjax.text.tokenizer import Tokenized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tsjax.checkpoint import Header
    from tsjax.model.config import ModelConfig
    from tsjax.model.forward import Params
    from tsjax.temperature import Temperature

# Tokens of a batch, padding included. On a processor a batch should fit the caches; an accelerator wants much work.
_TOKEN_BUDGET = {"cpu": 4096}
_TOKEN_BUDGET_ACCELERATOR = 65536

# Batches on their way at a time: enough to keep a device busy, bounded in memory.
_IN_FLIGHT = 3


@dataclass
class Statistics:
    """What an embedder has done so far.

    Attributes:
        texts: embedded texts.
        tokens: their tokens, special ones included, after truncation.
        truncated: texts that lost their end.
        computed_tokens: tokens that were computed, padding included.
        batches: calls of a compiled program.
        compilations: programs compiled in this process for this architecture, by whichever embedder; counted when JAX
            traces them.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    computed_tokens: int = 0
    batches: int = 0
    compilations: int = 0

    @property
    def padding_share(self) -> float:
        """The part of the computed tokens that was padding, 0 to 1."""
        return 1 - self.tokens / self.computed_tokens if self.computed_tokens else 0.0


class Computed(NamedTuple):
    """The output for some of the texts.

    Attributes:
        indices: their places in the input.
        embeddings: float32 (texts, E).
        tokens: float32 (texts, T, D), padding included; None unless asked for.
    """

    indices: NDArray[np.intp]
    embeddings: NDArray[np.float32]
    tokens: NDArray[np.float32] | None


class Engine:
    """A model's parameters on the device. Safe to use from many threads.

    Args:
        config: the architecture.
        params: its parameters, in the compute dtype.
        pad_token_id: id that fills up a batch.
        token_budget: the most tokens of a batch, padding included; None for the device's usual.
    """

    def __init__(self, config: ModelConfig, params: Params, pad_token_id: int, token_budget: int | None = None) -> None:
        self.config = config
        self.token_budget = token_budget or _TOKEN_BUDGET.get(jax.default_backend(), _TOKEN_BUDGET_ACCELERATOR)
        self._params = params
        self._pad_token_id = pad_token_id
        self._statistics = Statistics()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, header: Header, dtype: str, token_budget: int | None) -> Engine:
        """The engine of a checkpoint; parameters go to the device.

        Raises:
            CheckpointError: the weights are damaged, or not those of the architecture.
            InputError: a dtype or a budget that cannot be used.
        """
        if dtype not in get_args(Dtype):
            raise InputError(f"dtype {dtype!r} is not supported; it can be {', '.join(get_args(Dtype))}")
        if token_budget is not None:
            positive("token_budget", token_budget)
        model = header.metadata.model
        weights = read_network_weights(header, weight_shapes(model))
        params = cast_params(jax.device_put(unflatten(weights)), jnp.dtype(dtype))
        return cls(model, params, header.metadata.pad_token_id, token_budget)

    @property
    def statistics(self) -> Statistics:
        """What was done so far, as a copy."""
        with self._lock:
            return dataclasses.replace(self._statistics, compilations=sum(trace_counts(self.config).values()))

    def shapes(self, max_length: int) -> tuple[Shape, ...]:
        """Every batch shape that texts of up to ``max_length`` tokens can need."""
        return ShapeLadder(max_length, self.token_budget).shapes

    def compute(
        self,
        tokenized: Tokenized,
        temperature: Temperature,
        *,
        max_length: int,
        prompt_length: int = 0,
        max_rows: int | None = None,
        with_tokens: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Computed]:
        """Run the model on every text; yields batch after batch, in no particular order.

        Args:
            tokenized: token ids of each text.
            temperature: τ.
            max_length: the longest text that there may be; decides the set of shapes.
            prompt_length: leading tokens that pooling leaves out.
            max_rows: a further bound on the texts in a batch.
            with_tokens: whether to give token vectors too.
            progress: told the number of texts in each batch that is done.

        Raises:
            InputError: the vectors are not finite.
        """
        waiting: list[tuple[Batch, Output]] = []
        for batch in plan(tokenized.lengths, ShapeLadder(max_length, self.token_budget), max_rows):
            output = self._launch(tokenized, batch, prompt_length, temperature, with_tokens=with_tokens)
            waiting.append((batch, output))
            if len(waiting) >= _IN_FLIGHT:
                yield self._fetch(*waiting.pop(0), tokenized, progress)
        for batch, output in waiting:
            yield self._fetch(batch, output, tokenized, progress)

    def warmup(
        self, max_length: int, temperature: Temperature, *, typed: bool = False, verbose: bool = False
    ) -> dict[Shape, float]:
        """Compile and run every shape once, with token types or without; gives (and prints) the seconds of each."""
        seconds = {}
        for shape in self.shapes(max_length):
            start = time.perf_counter()
            ids = [np.full(shape.tokens, self._pad_token_id, np.int32)] * shape.rows
            lengths, cut = np.full(shape.rows, shape.tokens, np.int32), np.zeros(shape.rows, np.bool_)
            types = [np.zeros_like(row) for row in ids] if typed else None
            tokenized = Tokenized(ids, lengths, cut, types)
            output = self._launch(tokenized, Batch(np.arange(shape.rows), shape), 0, temperature, with_tokens=False)
            output.embeddings.block_until_ready()
            seconds[shape] = time.perf_counter() - start
            if verbose:
                print(f"{shape.rows:4d} × {shape.tokens:<5d} {seconds[shape]:6.2f} s")  # noqa: T201  # asked for
        return seconds

    def _launch(
        self,
        tokenized: Tokenized,
        batch: Batch,
        prompt_length: int,
        temperature: Temperature,
        *,
        with_tokens: bool,
    ) -> Output:
        """Start a batch; JAX returns before the device is done."""
        input_ids, lengths = pad(tokenized.ids, batch, self._pad_token_id)
        types = None if tokenized.type_ids is None else pad(tokenized.type_ids, batch, 0)[0]
        encoder = self.config.encoder
        output: Output = compiled_apply(
            self._params,
            input_ids,
            lengths,
            np.full_like(lengths, prompt_length),
            temperature.per_text(encoder.num_layers, encoder.num_heads, lengths),
            types,
            config=self.config,
            with_tokens=with_tokens,
        )
        return output

    def _fetch(
        self, batch: Batch, output: Output, tokenized: Tokenized, progress: Callable[[int], object] | None
    ) -> Computed:
        """Wait for a batch, check it, count it."""
        texts = len(batch.indices)
        embeddings, tokens = jax.device_get(output)
        embeddings = embeddings[:texts]
        if not np.isfinite(embeddings).all():
            raise InputError(
                "the vectors are not finite: the dtype cannot hold what the model computes at this temperature, "
                "or pooling was left without tokens"
            )
        with self._lock:
            self._statistics.texts += texts
            self._statistics.tokens += int(tokenized.lengths[batch.indices].sum())
            self._statistics.truncated += int(tokenized.truncated[batch.indices].sum())
            self._statistics.computed_tokens += batch.shape.rows * batch.shape.tokens
            self._statistics.batches += 1
        if progress is not None:
            progress(texts)
        return Computed(batch.indices, embeddings, None if tokens is None else tokens[:texts])
