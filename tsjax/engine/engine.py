"""Token ids to vectors: plans batches, runs the compiled model, counts what it did.

It knows neither text nor what a user may ask; `tsjax.encoders.embedder` does. A faster plan, more devices or another
order of dispatch belong here.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from tsjax.checkpoints.format import read_network_weights
from tsjax.encoders.settings import Dtype, positive
from tsjax.engine import shapes as ladders
from tsjax.engine.batching import Batch, Ladder, Packed, Shape, fill, pack, plan
from tsjax.engine.devices import local_devices
from tsjax.engine.forks import check_not_forked, is_forked, mark_used
from tsjax.engine.jax_modes import usual_modes
from tsjax.engine.prefetch import submit
from tsjax.errors import InputError, LifecycleError, NoTokensError
from tsjax.model.forward import Inputs, Output, compiled_apply, traced_programs, weight_shapes
from tsjax.model.kernels.dispatch import Kernel, kernel_for
from tsjax.model.packing import Packing
from tsjax.model.params import cast_params, unflatten
from tsjax.model.sharding import BY_ROWS, mesh_of, partitions, place
from tsjax.text.tokenizer import Tokenized, without_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from tsjax.checkpoints.format import Header
    from tsjax.model.config import ModelConfig
    from tsjax.model.params import Params
    from tsjax.temperature import Temperature

# Tokens of a batch on each device, padding included. On a processor a batch should fit the caches; an accelerator
# wants much work.
_TOKEN_BUDGET = {"cpu": 2048}
TOKEN_BUDGET_ACCELERATOR = 65536

# Where attention knows the texts of a row, they are packed.
_LADDERS = {
    "windows": ladders.flat,
    "splash": ladders.rows,
    "cudnn": ladders.padded,
    "xla": ladders.padded,
    "mapped": ladders.alike,
}

# Threads of an engine, each with a batch on its way. An accelerator takes them one after the other, and has the next at
# hand; a processor works on two at once, since within one batch cores wait for each other between any two operations.
_THREADS = {"cpu": 2}
_THREADS_ACCELERATOR = 3

# Devices that exchange parameters have to take all programs in one order, or they wait for each other forever.
_EXCHANGE = threading.Lock()

# A call of one batch of fewer tokens is computed in the caller's thread: a short query should not wait for another one.
_FEW = 256


@dataclass
class Statistics:
    """What an embedder has done so far, including batches that were on their way when their caller was interrupted.

    Attributes:
        texts: embedded texts.
        tokens: their tokens, special ones included, after truncation.
        truncated: texts that lost their end.
        computed_tokens: tokens that were computed, padding included.
        batches: calls of a compiled program.
        compilations: programs of the network that JAX traced for calls of this embedder, to compile them or to fetch
            them from the compilation cache. A program that another embedder of the same architecture had compiled in
            this process before is shared and not counted.
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
        truncated: how many of them had lost their end.
        input_ids: the token ids of each.
        tokens: float32 (tokens, D) of each; None unless asked for.
    """

    indices: NDArray[np.intp]
    embeddings: NDArray[np.float32]
    truncated: int
    input_ids: list[NDArray[np.int32]]
    tokens: list[NDArray[np.float32]] | None


class Engine:
    """A model's parameters on the devices. Safe to use from many threads.

    Batches run in threads of the engine's own, which settings that a caller makes by JAX's context managers
    (`jax.enable_x64`, `jax.debug_nans`) do not reach; `jax.config.update` does.

    Args:
        config: the architecture.
        params: its parameters, in the compute dtype.
        pad_token_id: id that fills up a batch.
        dtype: what the encoder computes in.
        token_budget: the most tokens of a batch on each device, padding included; None for the device's usual.
        devices: what to compute on, all of one kind; None for all that this process has.
        shard_parameters: share the parameters out among the devices, rather than have them whole on each.
        kernel: what computes attention; None for the fastest that the device and the model allow.
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
        self.shard_parameters = shard_parameters and len(self.devices) > 1
        self.options: dict[str, Any] = {}  # of `load`, as they can be pickled
        self._pad_token_id = pad_token_id
        self._begin()
        if len(self.devices) == 1:
            self._mesh = None
            self._params = jax.device_put(params, first)
        else:
            self._mesh = mesh_of(self.devices)
            parts = partitions(params, len(self.devices), shared_out=self.shard_parameters)
            self._params = place(params, self._mesh, parts)

    def _begin(self) -> None:
        """Make what no two engines share: counts, locks and threads, which start when they are needed."""
        self._closed = False
        self._statistics = Statistics()
        self._counting = threading.Lock()
        self._launching = _EXCHANGE if self.shard_parameters else threading.Lock()
        self._launched: set[tuple[object, ...]] = set()
        threads = _THREADS.get(self.devices[0].platform, _THREADS_ACCELERATOR)
        if self.devices[0].platform == "cpu" and len(self.devices) > 1:
            threads = 1  # a processor's devices share its cores
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tsjax-batch")
        self._most_waiting = threads + 1  # one that a thread can take up when it is done

    def copy(self) -> Engine:
        """Return an engine with the same parameters in memory, and with counts and threads of its own."""
        other = copy.copy(self)
        self.check_open()  # only now: another thread may have closed it meanwhile
        other._begin()
        return other

    def close(self) -> None:
        """End the threads and let go of the parameters; a second time does nothing.

        Calls that have begun are finished first, by their callers' threads where necessary.
        """
        self._closed = True
        self._params = {}
        if not is_forked():  # a forked child has no threads of its parent's to wait for
            self._pool.shutdown()

    def check_open(self) -> None:
        """Raise a LifecycleError if this engine was closed."""
        if self._closed:
            raise LifecycleError("this model was closed and computes nothing more; load it again with tsjax.load")

    def check_usable(self) -> None:
        """Raise a LifecycleError if this engine was closed, or if JAX cannot run in this process."""
        check_not_forked()
        self.check_open()

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
        """The engine of a checkpoint; parameters go to the devices.

        Raises:
            CheckpointError: the weights are damaged, or not those of the architecture.
            InputError: a dtype, a budget or devices that cannot be used.
            LifecycleError: JAX cannot run in this process.
        """
        if dtype not in get_args(Dtype):
            raise InputError(f"dtype {dtype!r} is not supported; it can be {', '.join(get_args(Dtype))}")
        if token_budget is not None:
            positive("token_budget", token_budget)
        mark_used()
        chosen = _checked_devices(devices)
        model = header.metadata.model
        weights = read_network_weights(header, weight_shapes(model))
        params = cast_params(unflatten(weights), jnp.dtype(dtype))
        engine = cls(
            model,
            params,
            header.metadata.pad_token_id,
            dtype=dtype,
            token_budget=token_budget,
            devices=chosen,
            shard_parameters=shard_parameters,
        )
        asked = devices if devices is None or isinstance(devices, int | np.integer) else named(chosen)
        engine.options = {
            "dtype": dtype,
            "token_budget": token_budget,
            "devices": asked,
            "shard_parameters": shard_parameters,
        }
        return engine

    @property
    def statistics(self) -> Statistics:
        """What was done so far, as a copy."""
        return dataclasses.replace(self._statistics)

    def _count(self, **more: int) -> None:
        # A new object, so that `statistics` reads one whole state without the lock, which a fork may leave held.
        with self._counting:
            done = self._statistics
            self._statistics = dataclasses.replace(
                done, **{name: getattr(done, name) + count for name, count in more.items()}
            )

    def bytes_per_device(self) -> dict[str, int]:
        """The parameters' bytes on each device, by the device's name."""
        held = dict.fromkeys(map(str, self.devices), 0)
        for leaf in jax.tree.leaves(self._params):
            for shard in leaf.addressable_shards:
                held[str(shard.device)] += shard.data.nbytes
        return held

    def ladder(self, max_length: int) -> Ladder:
        """The shapes of batches of texts of up to ``max_length`` tokens."""
        return _LADDERS[self.kernel](max_length, self.token_budget, len(self.devices))

    def compute(
        self,
        pieces: Iterable[Tokenized],
        temperature: Temperature,
        *,
        max_length: int,
        prompt_length: int = 0,
        max_texts: int | None = None,
        with_tokens: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Computed]:
        """Run the model on every text; yields batch after batch, in no particular order.

        Args:
            pieces: token ids of texts, some at a time; each piece is planned by itself, and the next is asked for
                while the device still works on the last.
            temperature: τ.
            max_length: the longest text that there may be; decides the set of shapes.
            prompt_length: leading tokens that pooling leaves out.
            max_texts: a further bound on the texts in a batch.
            with_tokens: whether to give token vectors too.
            progress: told the number of texts in each batch that is done.

        Raises:
            NoTokensError: a text leaves nothing to pool.
            InputError: the vectors are not finite.
            LifecycleError: the engine was closed, or JAX cannot run in this process.
        """
        params = self._params  # first, and kept for all batches: another thread may close the engine
        self.check_usable()
        ladder = self.ladder(max_length)
        waiting: collections.deque[Future[Computed]] = collections.deque()

        def reported(computed: Computed) -> Computed:
            if progress is not None:
                progress(len(computed.embeddings))
            return computed

        def next_done() -> Computed:
            computed = waiting[0].result()
            waiting.popleft()  # only now, lest an interrupted wait lose it
            return reported(computed)

        offset = 0
        try:
            for piece in pieces:
                if (empty := without_tokens(piece, prompt_length)).size:
                    raise NoTokensError(offset + int(empty[0]))
                batches = list(plan(piece.lengths, ladder, max_texts))
                few = len(batches) == 1 and math.prod(batches[0].shape) < _FEW and not waiting
                for batch in batches:
                    run = functools.partial(
                        self._run,
                        params,
                        piece,
                        batch,
                        ladder,
                        prompt_length,
                        temperature,
                        offset,
                        with_tokens=with_tokens,
                    )
                    future = None if few else submit(self._pool, run)
                    if future is None:
                        yield reported(run())
                        continue
                    waiting.append(future)
                    if len(waiting) >= self._most_waiting:
                        yield next_done()
                offset += len(piece.lengths)
            while waiting:
                yield next_done()
        finally:
            for future in waiting:
                future.cancel()

    @usual_modes()
    def warmup(
        self, max_length: int, temperature: Temperature, *, typed: bool = False, verbose: bool = False
    ) -> dict[Shape, float]:
        """Compile and run every shape once, with token types or without; gives (and prints) the seconds of each."""
        params = self._params
        self.check_usable()
        seconds = {}
        ladder = self.ladder(max_length)
        for shape in ladder.shapes:
            start = time.perf_counter()
            length = min(shape.tokens, max_length)
            ids = [np.full(length, self._pad_token_id, np.int32)] * shape.rows
            lengths, cut = np.full(shape.rows, length, np.int32), np.zeros(shape.rows, np.bool_)
            types = [np.zeros_like(row) for row in ids] if typed else None
            batch = Batch(tuple(np.arange(shape.rows)[:, None]), shape)
            tokenized = Tokenized(ids, lengths, cut, types)
            packed = pack(lengths, batch, ladder.slots(shape))
            output = self._launch(params, tokenized, batch, packed, 0, temperature, with_tokens=False)
            output.embeddings.block_until_ready()
            seconds[shape] = time.perf_counter() - start
            if verbose:
                print(f"{shape.rows:4d} × {shape.tokens:<5d} {seconds[shape]:6.2f} s")  # noqa: T201  # asked for
        return seconds

    @usual_modes()
    def _run(
        self,
        params: Params,
        tokenized: Tokenized,
        batch: Batch,
        ladder: Ladder,
        prompt_length: int,
        temperature: Temperature,
        offset: int,
        *,
        with_tokens: bool,
    ) -> Computed:
        """Compute a batch, check it, count it; ``offset`` is the place of its piece's first text."""
        packed = pack(tokenized.lengths, batch, ladder.slots(batch.shape))
        output = self._launch(params, tokenized, batch, packed, prompt_length, temperature, with_tokens=with_tokens)
        embeddings, tokens = jax.device_get(output)
        embeddings = np.concatenate([embeddings[row, : len(texts)] for row, texts in enumerate(batch.rows)])
        if not np.isfinite(embeddings).all():
            raise InputError(
                "the vectors are not finite: the dtype cannot hold what the model computes at this temperature"
            )
        truncated = int(tokenized.truncated[batch.indices].sum())
        self._count(
            texts=len(embeddings),
            tokens=int(packed.lengths.sum()),
            truncated=truncated,
            computed_tokens=batch.shape.rows * batch.shape.tokens,
            batches=1,
        )
        if tokens is not None:
            places = [
                (row, packed.starts[row, slot], packed.lengths[row, slot])
                for row, texts in enumerate(batch.rows)
                for slot in range(len(texts))
            ]
            # Copies, lest one text's tokens keep the whole batch alive.
            tokens = [tokens[row, start : start + length].copy() for row, start, length in places]
        input_ids = [tokenized.ids[text] for text in batch.indices]
        return Computed(batch.indices + offset, embeddings, truncated, input_ids, tokens)

    def _launch(
        self,
        params: Params,
        tokenized: Tokenized,
        batch: Batch,
        packed: Packed,
        prompt_length: int,
        temperature: Temperature,
        *,
        with_tokens: bool,
    ) -> Output:
        """Start a batch; JAX returns before the device is done."""
        # NumPy's arrays, which the compiled function takes as they are.
        ids: Any = fill(tokenized.ids, batch, self._pad_token_id)
        types: Any = None if tokenized.type_ids is None else fill(tokenized.type_ids, batch, 0)
        places: Any = packed
        prompts: Any = np.full_like(packed.lengths, prompt_length)
        encoder = self.config.encoder
        per_head = temperature.per_head(encoder.num_layers, encoder.num_heads)
        by_row = (Inputs(ids, Packing(*places), prompts, types), temperature.factors(packed.lengths))
        # Two threads would both compile a new program. What is known need not wait for that, unless the order matters.
        program = (batch.shape, types is None, with_tokens)
        known = program in self._launched and not self.shard_parameters
        with contextlib.nullcontext() if known else self._launching:
            if self._mesh is not None:
                by_row = jax.device_put(by_row, NamedSharding(self._mesh, BY_ROWS))
            before = traced_programs()
            output: Output = compiled_apply(
                params,
                by_row[0],
                per_head,
                by_row[1],
                config=self.config,
                kernel=self.kernel,
                with_tokens=with_tokens,
                mesh=self._mesh,
                shared_out=self.shard_parameters,
                device=self.devices[0] if self._mesh is None else None,
            )
            if compiled := traced_programs() - before:
                self._count(compilations=compiled)
        self._launched.add(program)
        return output


def named(devices: Sequence[jax.Device]) -> list[tuple[str, int]]:
    """Return the platform and the id of each device, by which `find_devices` of another process finds it."""
    return [(device.platform, device.id) for device in devices]


def find_devices(names: Sequence[tuple[str, int]]) -> list[jax.Device]:
    """Return the devices of this process that have these platforms and ids.

    Raises:
        InputError: this process has no such device.
    """
    mark_used()
    found = []
    for platform, number in names:
        try:
            local = jax.local_devices(backend=platform)
        except RuntimeError:  # there is no such platform
            local = []
        device = next((device for device in local if device.id == number), None)
        if device is None:
            raise InputError(
                f"the model was pickled with the device {platform}:{number}, which this process does not have; "
                "load it with a number as devices, or with None, to pickle it for other machines"
            )
        found.append(device)
    return found


def _checked_devices(devices: int | jax.Device | Sequence[jax.Device] | None) -> list[jax.Device]:
    """What a user may ask for as devices; a number takes the first of this process's."""
    local = local_devices()
    if devices is None:
        return local
    if isinstance(devices, int | np.integer):
        if positive("devices", devices) > len(local):
            raise InputError(f"devices is {devices}, but this process has {len(local)}")
        return local[: int(devices)]
    if isinstance(devices, jax.Device):
        return [devices]
    if not isinstance(devices, Iterable):
        raise InputError(f"devices must be a number or JAX's devices, not {devices!r}")
    chosen = list(devices)
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise InputError(f"devices must be a number or JAX's devices, not {devices!r}")
    if len(set(chosen)) < len(chosen) or len({device.platform for device in chosen}) > 1:
        raise InputError(f"devices must differ, and be of one kind: {devices!r}")
    return chosen
