"""How fast an embedder is: rates, padding, compiled shapes, memory, and how near the machine's own limit.

This file measures and returns facts; `tsjax.bench.workloads` makes what is computed; `tsjax bench` and
scripts/benchmark/run.py print the results. Compiling is never in a rate: what is timed has run once before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from tsjax.bench import machine
from tsjax.bench.operations import useful_operations
from tsjax.bench.workloads import draw_lengths, make_texts, parse_shape, random_batch
from tsjax.errors import TruncationWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tsjax.encoders.embedder import Embedder
    from tsjax.text.tokenizer import TextTokenizer, Tokenized

# A call for a fixed shape is short: so many are timed where a text workload has one pass.
_CALLS_A_PASS = 10


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of one workload.

    Attributes:
        workload: its name.
        texts: texts in one pass.
        tokens: their tokens, special ones included, padding not.
        truncated: texts that were cut at ``max_seq_length``.
        seconds: of each timed pass, from texts (or, for a fixed shape, token ids) to vectors in host memory.
        operations: useful floating-point operations of a pass, see `tsjax.bench.operations.useful_operations`.
        padding_share: the part of the computed tokens that was padding.
        compiled_shapes: programs that the workload needed.
        compile_seconds: what tracing and compiling them took; not in ``seconds``.
        tokenize_seconds: what tokenising takes when nothing else runs, part of ``seconds``; None for token ids.
        peak_resident: most bytes of memory of the process during the workload; during its whole life where the system
            cannot tell; None where it tells nothing.
        peak_device: most bytes of device memory in the life of the process, where the device reports it.
    """

    workload: str
    texts: int
    tokens: int
    truncated: int
    seconds: tuple[float, ...]
    operations: int
    padding_share: float
    compiled_shapes: int
    compile_seconds: float
    tokenize_seconds: float | None
    peak_resident: int | None
    peak_device: int | None

    @property
    def median(self) -> float:
        """The middle one of the passes, in seconds."""
        return statistics.median(self.seconds)

    def to_json(self, matrix_rate: float) -> dict[str, Any]:
        """As plain JSON values, with the rates that follow from them."""
        return {
            **dataclasses.asdict(self),
            "seconds": list(self.seconds),
            "tokens_per_second": self.tokens / self.median,
            "texts_per_second": self.texts / self.median,
            "operations_per_second": self.operations / self.median,
            "share_of_matrix_rate": self.operations / self.median / matrix_rate,
        }


def measure(
    embedder: Embedder,
    workload: str,
    texts: Sequence[str] | None = None,
    *,
    tokens: int,
    repeats: int = 3,
    seconds: float = 20.0,
) -> Figures:
    """Measure one workload, from an empty compilation cache in memory.

    Args:
        embedder: which model, temperature, dtype and ``max_seq_length``.
        workload: a name that `tsjax.bench.workloads` knows, or any name for ``texts``.
        texts: to embed instead of made ones.
        tokens: how many, in made texts.
        repeats: timed passes, at most; ten times as many calls for a fixed shape.
        seconds: after so many no further pass begins.
    """
    shape = None if texts is not None else parse_shape(workload)
    tokenizer, longest = embedder.pipeline.tokenizer, embedder.max_seq_length
    if shape is not None:
        batch = random_batch(*shape, embedder.metadata.model.encoder.vocab_size)
        tokenized, run = batch, _network(embedder, batch)
        tokenize_seconds = None
        repeats *= _CALLS_A_PASS
    else:
        if texts is None:
            texts = make_texts(tokenizer, draw_lengths(workload, tokens, longest))
        tokenized, run = tokenizer.encode(texts), _whole(embedder, texts)
        tokenize_seconds = statistics.median(_timed(_tokenizing(tokenizer, texts), repeats, seconds / 10))
    lengths = tokenized.lengths
    machine.reset_peak_resident()
    jax.clear_caches()  # type: ignore[no-untyped-call]
    before = embedder.statistics
    with compile_clock() as clock:
        run()
    timed = tuple(_timed(run, repeats, seconds))
    after = embedder.statistics
    computed = after.computed_tokens - before.computed_tokens
    return Figures(
        workload=workload,
        texts=len(lengths),
        tokens=int(lengths.sum()),
        truncated=int(tokenized.truncated.sum()),
        seconds=timed,
        operations=useful_operations(embedder.metadata.model, lengths),
        padding_share=1 - (after.tokens - before.tokens) / computed if computed else 0.0,
        compiled_shapes=after.compilations - before.compilations,
        compile_seconds=clock.seconds,
        tokenize_seconds=tokenize_seconds,
        peak_resident=machine.peak_resident(),
        peak_device=peak_device(),
    )


def _whole(embedder: Embedder, texts: Sequence[str]) -> Callable[[], object]:
    # No prompt, since the lengths are those of the texts alone.
    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # the figures say how many
            return embedder.encode(texts, prompt="", show_progress_bar=False)

    return run


def _network(embedder: Embedder, batch: Tokenized) -> Callable[[], object]:
    """The engine alone, on token ids."""
    return lambda: list(embedder.pipeline.compute([batch], embedder.temperature))


def _tokenizing(tokenizer: TextTokenizer, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: tokenizer.encode(texts)


def _timed(run: Callable[[], object], repeats: int, seconds: float) -> list[float]:
    """Seconds of each run: ``repeats`` of them, fewer where the time is up, one at least."""
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class CompileClock:
    """What JAX says that it spent on tracing, lowering and compiling; see `compile_clock`."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def __call__(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self._spans.append((start_time, end_time))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds; what ran inside something else, or beside it, counts once."""
        total, reached = 0.0, float("-inf")
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total


@contextlib.contextmanager
def compile_clock() -> Iterator[CompileClock]:
    """Counts compiling, wherever in the process it happens, until the block ends."""
    clock = CompileClock()
    jax.monitoring.register_event_time_span_listener(clock)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_time_span_listener(clock)


def peak_device() -> int | None:
    """The most bytes of memory that any one device had in use; None where devices do not say."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [int(peak) for peak in peaks if peak is not None]
    return max(known) if known else None
