"""Computation of vectors from token ids: batches are planned, computed in a few threads, and returned when done.

This module knows neither texts nor a user's options; `tsjax.engine.pipeline` puts a tokenizer before it. `batching`
plans, `shapes` defines the shapes of batches, `executor` computes one batch, `placement` holds the parameters.
"""

from __future__ import annotations

import collections
import copy
import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.checkpoints.format import read_network_weights
from tsjax.engine.batching import Batch, BucketShapes, Shape, pack, plan
from tsjax.engine.devices import check_devices, device_names, local_devices
from tsjax.engine.executor import Call, Computed, Executor
from tsjax.engine.forks import check_not_forked, is_forked, mark_used
from tsjax.engine.jax_modes import usual_modes
from tsjax.engine.placement import Placement
from tsjax.engine.prefetch import submit
from tsjax.engine.shapes import bucket_shapes
from tsjax.engine.statistics import Counter, Statistics
from tsjax.errors import LifecycleError, NoTokensError
from tsjax.model.config import Dtype
from tsjax.model.forward import weight_shapes
from tsjax.model.kernels.dispatch import Kernel, kernel_for
from tsjax.model.params import cast_params, unflatten
from tsjax.text.tokenizer import Tokenized, without_tokens
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from tsjax.checkpoints.format import Header
    from tsjax.model.config import ModelConfig
    from tsjax.model.params import Params
    from tsjax.temperature import Temperature

# Tokens of a batch on each device, padding included. On a CPU a batch should fit into the caches; an accelerator needs
# much work at a time.
_TOKEN_BUDGET = {"cpu": 2048}
TOKEN_BUDGET_ACCELERATOR = 65536

# Threads of an engine, each with one batch in progress. An accelerator computes them one after the other, so that the
# next is ready when one is done. A CPU computes two at once, since within one batch cores wait for each other between
# any two operations.
_THREADS = {"cpu": 2}
_THREADS_ACCELERATOR = 3

# A call of one batch of fewer tokens is computed in the caller's thread: a short query should not wait for another
# call.
_INLINE_TOKEN_LIMIT = 256

# Characters of texts that are planned together, per token of a batch, and the minimum. They amount to many batches, so
# that the padding of the last ones does not matter, and still take little memory as tokens.
_CHARACTERS_PER_TOKEN = 64
_LEAST_CHARACTERS = 1_000_000


class Engine:
    """A model's parameters on the devices, and the threads that compute with them. Safe to use from many threads.

    Batches run in the engine's own threads. Settings that a caller makes by JAX's context managers (`jax.enable_x64`,
    `jax.debug_nans`) do not reach them; `jax.config.update` does.

    Args:
        config: the architecture.
        params: parameters, in the compute dtype.
        pad_token_id: id of padding tokens.
        dtype: compute dtype of the encoder.
        token_budget: maximum tokens of a batch on each device, padding included; None for the device's default.
        devices: devices to compute on, all of one kind; None for all devices of this process.
        shard_parameters: shard the parameters over the devices, instead of copying them to each.
        kernel: attention kernel; None for the fastest that the device and the model allow.
    """

    @usual_modes()
    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        pad_token_id: int,
        *,
        dtype: Dtype = "float32",
        token_budget: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        shard_parameters: bool = False,
        kernel: Kernel | None = None,
    ) -> None:
        self.config = config
        self.devices = tuple(local_devices() if devices is None else devices)
        first = self.devices[0]
        usual = _TOKEN_BUDGET.get(first.platform, TOKEN_BUDGET_ACCELERATOR)
        self.token_budget = usual if token_budget is None else token_budget
        capability = getattr(first, "compute_capability", None)
        self.kernel: Kernel = kernel or kernel_for(first.platform, capability, config.encoder, dtype)
        self.options: dict[str, Any] = {}  # options of `load`, in a form that can be pickled
        self._pad_token_id = pad_token_id
        self._placement = Placement.of(config, params, self.devices, shard_parameters=shard_parameters)
        self._begin()

    def _begin(self) -> None:
        """Create the state that no two engines share: counts, locks and threads, which start when they are needed."""
        self._closed = False
        self._counter = Counter()
        self._executor = Executor(
            self.config, self.kernel, self._pad_token_id, self._counter, exchanging=self._placement.sharded
        )
        threads = _THREADS.get(self.devices[0].platform, _THREADS_ACCELERATOR)
        if self.devices[0].platform == "cpu" and len(self.devices) > 1:
            threads = 1  # the devices of a CPU share its cores
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tsjax-batch")
        self._most_waiting = threads + 1  # one more batch, for the thread that finishes first

    @classmethod
    @usual_modes()
    def load(
        cls,
        header: Header,
        dtype: Dtype,
        token_budget: int | None,
        devices: int | jax.Device | Sequence[jax.Device] | None,
        *,
        shard_parameters: bool,
    ) -> Engine:
        """Return the engine of a checkpoint, with its parameters on the devices.

        Raises:
            CheckpointError: the weights are damaged, or do not match the architecture.
            InputError: the dtype, the token budget or the devices cannot be used.
            LifecycleError: JAX cannot run in this process.
        """
        if token_budget is not None:
            whole_number("token_budget", token_budget)
        mark_used()
        chosen = check_devices(devices)
        model = header.metadata.model
        weights = read_network_weights(header, weight_shapes(model))
        params = cast_params(model, unflatten(weights), jnp.dtype(dtype))
        engine = cls(
            model,
            params,
            header.metadata.pad_token_id,
            dtype=dtype,
            token_budget=token_budget,
            devices=chosen,
            shard_parameters=shard_parameters,
        )
        asked = devices if devices is None or isinstance(devices, int | np.integer) else device_names(chosen)
        engine.options = {
            "dtype": dtype,
            "token_budget": token_budget,
            "devices": asked,
            "shard_parameters": shard_parameters,
        }
        return engine

    def copy(self) -> Engine:
        """Return an engine that shares the parameters in memory and has its own counts and threads."""
        other = copy.copy(self)
        self.check_open()  # checked last: another thread may have closed it meanwhile
        other._begin()
        return other

    def close(self) -> None:
        """End the threads and release the parameters; a second call does nothing.

        Calls that have begun are finished first, by their callers' threads if necessary.
        """
        self._closed = True
        self._placement = self._placement.released()
        if not is_forked():  # a forked child has none of its parent's threads to wait for
            self._pool.shutdown()

    def check_open(self) -> None:
        """Raise a LifecycleError if this engine was closed."""
        if self._closed:
            raise LifecycleError("this model was closed and computes nothing more; load it again with tsjax.load")

    def check_usable(self) -> None:
        """Raise a LifecycleError if this engine was closed, or if JAX cannot run in this process."""
        check_not_forked()
        self.check_open()

    @property
    def params(self) -> Params:
        """Return the parameters, as a nested dict of arrays; empty after `close`."""
        return self._placement.params

    @property
    def shard_parameters(self) -> bool:
        """Return whether each device holds only a shard of the parameters."""
        return self._placement.sharded

    @property
    def statistics(self) -> Statistics:
        """Return counts of the work so far, as a copy."""
        return self._counter.statistics

    def bytes_per_device(self) -> dict[str, int]:
        """Return the bytes of the parameters on each device, by the device's name."""
        return self._placement.bytes_per_device()

    def shapes(self, max_length: int) -> BucketShapes:
        """Return the bucket shapes for texts of up to ``max_length`` tokens."""
        return bucket_shapes(self.kernel, max_length, self.token_budget, len(self.devices))

    @property
    def block_characters(self) -> int:
        """Return the approximate number of characters of texts that should be planned together."""
        return max(_CHARACTERS_PER_TOKEN * self.token_budget * len(self.devices), _LEAST_CHARACTERS)

    def compute(
        self,
        blocks: Iterable[Tokenized],
        temperature: Temperature,
        *,
        max_length: int,
        prompt_length: int = 0,
        max_texts: int | None = None,
        with_tokens: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Computed]:
        """Run the model on every text; yield one batch after another, in no particular order.

        blocks: token ids of texts, in blocks. Each block is planned separately, and the next one is requested while the
        device still works on the last.
            temperature: τ.
            max_length: maximum tokens of a text; determines the set of shapes.
            prompt_length: leading tokens that pooling leaves out.
            max_texts: additional bound on the texts in a batch.
            with_tokens: whether to return token vectors too.
            progress: called with the number of texts of each finished batch.

        Raises:
            NoTokensError: a text has no tokens to pool.
            InputError: the vectors are not finite.
            LifecycleError: the engine was closed, or JAX cannot run in this process.
        """
        call = self._call(max_length, temperature, prompt_length, with_tokens=with_tokens)
        waiting: collections.deque[Future[Computed]] = collections.deque()

        def reported(computed: Computed) -> Computed:
            if progress is not None:
                progress(len(computed.embeddings))
            return computed

        def next_done() -> Computed:
            computed = waiting[0].result()
            waiting.popleft()  # removed after the wait, so that an interrupted wait does not lose it
            return reported(computed)

        offset = 0
        try:
            for block in blocks:
                if (empty := without_tokens(block, prompt_length)).size:
                    raise NoTokensError(offset + int(empty[0]))
                batches = list(plan(block.lengths, call.shapes, max_texts))
                inline = len(batches) == 1 and math.prod(batches[0].shape) < _INLINE_TOKEN_LIMIT and not waiting
                for batch in batches:
                    run = functools.partial(self._executor.run, call, block, batch, offset)
                    future = None if inline else submit(self._pool, run)
                    if future is None:
                        yield reported(run())
                        continue
                    waiting.append(future)
                    if len(waiting) >= self._most_waiting:
                        yield next_done()
                offset += len(block.lengths)
            while waiting:
                yield next_done()
        finally:
            for future in waiting:
                future.cancel()

    def _call(
        self, max_length: int, temperature: Temperature, prompt_length: int = 0, *, with_tokens: bool = False
    ) -> Call:
        # The placement is read first and kept for all batches: another thread may close the engine.
        placement, encoder = self._placement, self.config.encoder
        self.check_usable()
        per_head = temperature.per_head(encoder.num_layers, encoder.num_heads)
        return Call(placement, self.shapes(max_length), temperature, per_head, prompt_length, with_tokens)

    @usual_modes()
    def warmup(
        self, max_length: int, temperature: Temperature, *, typed: bool = False, verbose: bool = False
    ) -> dict[Shape, float]:
        """Compile and run every shape once.

        Args:
            max_length: maximum tokens of a text.
            temperature: τ.
            typed: whether texts have token types.
            verbose: print each shape and its time.

        Returns:
            seconds by shape.
        """
        call = self._call(max_length, temperature)
        seconds = {}
        for shape in call.shapes.shapes:
            start = time.perf_counter()
            length = min(shape.tokens, max_length)
            ids = [np.full(length, self._pad_token_id, np.int32)] * shape.rows
            lengths, cut = np.full(shape.rows, length, np.int32), np.zeros(shape.rows, np.bool_)
            types = [np.zeros_like(row) for row in ids] if typed else None
            batch = Batch(tuple(np.arange(shape.rows)[:, None]), shape)
            packing = pack(lengths, batch, call.shapes.slots(shape))
            output = self._executor.launch(call, Tokenized(ids, lengths, cut, types), batch, packing)
            output.embeddings.block_until_ready()
            seconds[shape] = time.perf_counter() - start
            if verbose:
                print(f"{shape.rows:4d} × {shape.tokens:<5d} {seconds[shape]:6.2f} s")  # noqa: T201  # asked for
        return seconds
