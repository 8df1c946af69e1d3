"""One batch at a time: its arrays, its compiled program, its vectors."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.profiler import TraceAnnotation

from tsjax.engine.batching import fill, pack
from tsjax.engine.jax_modes import usual_modes
from tsjax.errors import InputError
from tsjax.model.forward import Inputs, Output, compiled_apply, traced_programs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.engine.batching import Batch, BucketShapes
    from tsjax.engine.placement import Placement
    from tsjax.engine.statistics import Counter
    from tsjax.model.config import ModelConfig
    from tsjax.model.kernels.dispatch import Kernel
    from tsjax.model.packing import Packing
    from tsjax.temperature import Temperature
    from tsjax.text.tokenizer import Tokenized

# Devices that exchange parameters have to take all programs in one order, or they wait for each other forever.
_COLLECTIVE_LOCK = threading.Lock()


class Computed(NamedTuple):
    """The output for some of the texts.

    Attributes:
        indices: their places in the input.
        embeddings: float32 (texts, E).
        truncated: how many of them had lost their end.
        input_ids: the token ids of each.
        tokens: float32 (tokens, D) of each; None unless asked for.
    """

    indices: NDArray[np.intp]
    embeddings: NDArray[np.float32]
    truncated: int
    input_ids: list[NDArray[np.int32]]
    tokens: list[NDArray[np.float32]] | None


@dataclass(frozen=True)
class Call:
    """The choices that all batches of a call share.

    Attributes:
        placement: the parameters, which the call keeps although another thread may close the engine.
        shapes: the shapes that batches may have.
        temperature: τ.
        per_head: float32 τ by layer and head, before a law of length.
        prompt_length: leading tokens that pooling leaves out.
        with_tokens: whether to return token vectors too.
    """

    placement: Placement
    shapes: BucketShapes
    temperature: Temperature
    per_head: NDArray[np.float32]
    prompt_length: int
    with_tokens: bool


class Executor:
    """Computes batches of one model. Safe to use from many threads.

    Args:
        config: the architecture.
        kernel: the attention kernel.
        pad_token_id: id that fills up a batch.
        counter: is told of each batch.
        exchanging: whether devices exchange parameters while they compute.
    """

    def __init__(
        self, config: ModelConfig, kernel: Kernel, pad_token_id: int, counter: Counter, *, exchanging: bool
    ) -> None:
        self._config, self._kernel, self._pad_token_id, self._counter = config, kernel, pad_token_id, counter
        self._exchanging = exchanging
        self._launching = _COLLECTIVE_LOCK if exchanging else threading.Lock()
        self._launched: set[tuple[object, ...]] = set()

    @usual_modes()
    def run(self, call: Call, tokenized: Tokenized, batch: Batch, offset: int) -> Computed:
        """Compute a batch, wait for it, check it and count it.

        Args:
            call: the call that it belongs to.
            tokenized: the texts that it was planned from.
            batch: which of them, and where each stands.
            offset: the place of the first of ``tokenized`` in the input.

        Raises:
            InputError: the vectors are not finite.
        """
        packing = pack(tokenized.lengths, batch, call.shapes.slots(batch.shape))
        output = self.launch(call, tokenized, batch, packing)
        with TraceAnnotation("tsjax.fetch"):
            embeddings, tokens = jax.device_get(output)
        embeddings = np.concatenate([embeddings[row, : len(texts)] for row, texts in enumerate(batch.rows)])
        if not np.isfinite(embeddings).all():
            raise InputError(
                "the vectors are not finite: the dtype cannot hold what the model computes at this temperature"
            )
        truncated = int(tokenized.truncated[batch.indices].sum())
        self._counter.add(
            texts=len(embeddings),
            tokens=int(packing.lengths.sum()),
            truncated=truncated,
            computed_tokens=batch.shape.rows * batch.shape.tokens,
            batches=1,
        )
        if tokens is not None:
            places = [
                (row, packing.starts[row, slot], packing.lengths[row, slot])
                for row, texts in enumerate(batch.rows)
                for slot in range(len(texts))
            ]
            # Copies, so that one text's tokens do not keep the whole batch alive.
            tokens = [tokens[row, start : start + length].copy() for row, start, length in places]
        input_ids = [tokenized.ids[text] for text in batch.indices]
        return Computed(batch.indices + offset, embeddings, truncated, input_ids, tokens)

    def launch(self, call: Call, tokenized: Tokenized, batch: Batch, packing: Packing) -> Output:
        """Start a batch; JAX returns before the device is done."""
        with TraceAnnotation("tsjax.place"):
            # NumPy's arrays, which the compiled function takes as they are.
            ids: Any = fill(tokenized.ids, batch, self._pad_token_id)
            types: Any = None if tokenized.type_ids is None else fill(tokenized.type_ids, batch, 0)
            prompts: Any = np.full_like(packing.lengths, call.prompt_length)
            lengths: Any = packing.lengths
            by_row = (Inputs(ids, packing, prompts, types), call.temperature.factors(lengths))
        # Two threads would both compile a new program. A known one need not wait for that, unless the order matters.
        program = (batch.shape, types is None, call.with_tokens)
        known = program in self._launched and not self._exchanging
        with contextlib.nullcontext() if known else self._launching, TraceAnnotation("tsjax.compute"):
            inputs, factors = call.placement.by_rows(by_row)
            before = traced_programs()
            output: Output = compiled_apply(
                call.placement.params,
                inputs,
                call.per_head,
                factors,
                config=self._config,
                kernel=self._kernel,
                with_tokens=call.with_tokens,
                **call.placement.program_key,
            )
            if compiled := traced_programs() - before:
                self._counter.add(compilations=compiled)
        self._launched.add(program)
        return output
