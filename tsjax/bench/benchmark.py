"""Speed of an embedder: rates, padding, compiled shapes, memory, and the share of the machine's own limit.

This module measures and returns facts; `tsjax.bench.workloads` makes the inputs; `tsjax bench` and
scripts/benchmark/run.py print the results. Compilation is never part of a rate: everything that is timed has run once
before.
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

# A call for a fixed shape is short: this number of calls is timed instead of one pass of a text workload.
_CALLS_A_PASS = 10


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Measurements of one workload.

    Attributes:
        workload: its name.
        texts: texts in one pass.
        tokens: their tokens, special ones included, padding not.
        truncated: texts that were truncated to ``max_seq_length`` tokens.
        seconds: seconds of each timed pass, from texts (or, for a fixed shape, token ids) to vectors in host memory.
        operations: useful floating-point operations of a pass, see `tsjax.bench.operations.useful_operations`.
        padding_share: share of the computed tokens that was padding.
        compiled_shapes: number of programs that the workload needed.
        compile_seconds: time of tracing and compiling them; not part of ``seconds``.
        tokenize_seconds: time of tokenising alone, which is part of ``seconds``; None for token ids.
        peak_resident: maximum bytes of memory of the process during the workload; during its entire life if the system
            only measures that; None if it can measure neither.
        peak_device: maximum bytes of device memory in the life of the process; None if the device does not report it.
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
        """Return the median time of the passes, in seconds."""
        return statistics.median(self.seconds)

    def to_json(self, matrix_rate: float) -> dict[str, Any]:
        """Return plain JSON values, with the rates that follow from them."""
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
    """Measure one workload, starting with an empty in-memory compilation cache.

    Args:
        embedder: the embedder, with its temperature, dtype and ``max_seq_length``.
        workload: a name that `tsjax.bench.workloads` knows, or any name for ``texts``.
        texts: texts to embed instead of generated ones.
        tokens: total number of tokens of generated texts.
        repeats: maximum number of timed passes; ten times as many calls for a fixed shape.
        seconds: time after which no further pass begins.
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
            warnings.simplefilter("ignore", TruncationWarning)  # the figures contain the count
            return embedder.encode(texts, prompt="", show_progress_bar=False)

    return run


def _network(embedder: Embedder, batch: Tokenized) -> Callable[[], object]:
    """Return a function that runs the engine alone, on token ids."""
    return lambda: list(embedder.pipeline.compute([batch], embedder.temperature))


def _tokenizing(tokenizer: TextTokenizer, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: tokenizer.encode(texts)


def _timed(run: Callable[[], object], repeats: int, seconds: float) -> list[float]:
    """Return the seconds of each run: up to ``repeats`` runs within ``seconds``, at least one."""
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class CompileClock:
    """Clock of the time that JAX reports for tracing, lowering and compiling; see `compile_clock`."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    def __call__(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self._spans.append((start_time, end_time))

    @property
    def seconds(self) -> float:
        """Return wall-clock seconds; nested or concurrent work counts once."""
        total, reached = 0.0, float("-inf")
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total


@contextlib.contextmanager
def compile_clock() -> Iterator[CompileClock]:
    """Count compilation anywhere in the process until the block ends."""
    clock = CompileClock()
    jax.monitoring.register_event_time_span_listener(clock)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_time_span_listener(clock)


def peak_device() -> int | None:
    """Return the maximum bytes of memory that any one device had in use; None if devices do not report it."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [int(peak) for peak in peaks if peak is not None]
    return max(known) if known else None
