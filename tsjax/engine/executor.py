"""Execution of one batch: its arrays, its compiled program, its vectors."""

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

# Devices that exchange parameters must all run their programs in the same order; otherwise they deadlock.
_COLLECTIVE_LOCK = threading.Lock()


class Computed(NamedTuple):
    """Output of one batch.

    Attributes:
        indices: indices of its texts in the input.
        embeddings: float32 (texts, E).
        truncated: number of its texts that were truncated.
        input_ids: token ids of each text.
        tokens: float32 (tokens, D) of each text; None unless requested.
    """

    indices: NDArray[np.intp]
    embeddings: NDArray[np.float32]
    truncated: int
    input_ids: list[NDArray[np.int32]]
    tokens: list[NDArray[np.float32]] | None


@dataclass(frozen=True)
class Call:
    """Options that all batches of a call share.

    Attributes:
        placement: the parameters, which the call keeps although another thread may close the engine.
        shapes: bucket shapes.
        temperature: τ.
        per_head: float32 τ by layer and head, before a temperature schedule.
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
    """Executor of one model's batches. Safe to use from many threads.

    Args:
        config: the architecture.
        kernel: attention kernel.
        pad_token_id: id of padding tokens.
        counter: counts each batch.
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
            call: the call to which it belongs.
            tokenized: the texts from which it was planned.
            batch: indices of its texts, and their places.
            offset: index of the first text of ``tokenized`` in the input.

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
            # Copied, so that one text's tokens do not keep the batch alive.
            tokens = [tokens[row, start : start + length].copy() for row, start, length in places]
        input_ids = [tokenized.ids[text] for text in batch.indices]
        return Computed(batch.indices + offset, embeddings, truncated, input_ids, tokens)

    def launch(self, call: Call, tokenized: Tokenized, batch: Batch, packing: Packing) -> Output:
        """Start a batch; JAX returns before the device is done."""
        with TraceAnnotation("tsjax.place"):
            # NumPy arrays, which the compiled function takes without conversion.
            ids: Any = fill(tokenized.ids, batch, self._pad_token_id)
            types: Any = None if tokenized.type_ids is None else fill(tokenized.type_ids, batch, 0)
            prompts: Any = np.full_like(packing.lengths, call.prompt_length)
            lengths: Any = packing.lengths
            by_row = (Inputs(ids, packing, prompts, types), call.temperature.factors(lengths))
        # Two threads would both compile a new program. A compiled program needs no lock, unless the order matters.
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
