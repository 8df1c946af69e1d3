"""The two ends of a pipe: an engine in a process of its own, and whoever has it work. One JSON object a line each way.

A worker is stopped (SIGSTOP) whenever it is not asked anything, so that threads of its that wait by spinning, as those
of ONNX Runtime do, take nothing from the engine whose turn it is; and none has to be told not to spin, which would cost
it in its own turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tsjax.bench import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Engine(Protocol):
    """What a worker serves: texts to normalised vectors, token ids to vectors, both ending in host memory."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Normalised vectors of the texts, in order, tokenised as the engine does it."""

    def network(self, ids: np.ndarray) -> Callable[[], object]:
        """A function that runs the network and pools, on int32 ids (rows, tokens) that are made ready here."""

    def warm(self, run: Callable[[], object]) -> dict[str, Any]:
        """Run once, compiling what must be; what there is to say of that."""

    def matrix_rate(self, width: int, wide: int, tokens: int) -> float | None:
        """Floating-point operations a second of (tokens, width) · (width, wide) and back; None if it has none."""

    def about(self) -> dict[str, Any]:
        """Versions, threads, device."""


def serve(make: Callable[[], Engine]) -> None:
    """Make an engine and do what standard input asks until it ends; answers go to standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    engine, run = make(), None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            match message["do"]:
                case "about":
                    answer = engine.about()
                case "prepare":
                    run = _prepare(engine, Path(message["file"]))
                    machine.reset_peak_resident()
                    answer = engine.warm(run)
                case "run":
                    assert run is not None, "nothing is prepared"
                    answer = {"seconds": _timed(run, **message["limits"]), "peak_resident": machine.peak_resident()}
                case "vectors":
                    np.save(message["out"], engine.encode(_read(Path(message["file"]))["texts"]))
                    answer = {}
                case "matrix_rate":
                    answer = {"rate": engine.matrix_rate(**message["sizes"])}
                case other:
                    raise ValueError(f"a worker cannot {other!r}")
        except Exception as error:  # whoever asked must know
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()  # stopped, it could not
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _prepare(engine: Engine, file: Path) -> Callable[[], object]:
    workload = _read(file)
    if "texts" in workload:
        texts = workload["texts"]
        return lambda: engine.encode(texts)
    return engine.network(np.array(workload["ids"], np.int32))


def _timed(run: Callable[[], object], calls: int, seconds: float) -> list[float]:
    """Seconds of each call: so many, or as many as begin within the seconds; one at least."""
    times: list[float] = []
    while not times or (len(times) < calls and sum(times) < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class Worker:
    """Our end: a process that serves an engine, stopped whenever nothing is asked of it.

    Args:
        command: what to start.
        log: file for all that it prints.
        environment: variables on top of ours.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, **environment},
            )

    @property
    def worked(self) -> float:
        """Seconds of processor time that it has used."""
        return machine.process_seconds(self._process.pid) or 0.0

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Let the worker go on, have it do something, stop it again; its answer.

        Raises:
            RuntimeError: it could not do it, or is no more.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise RuntimeError(f"the process ended while it had to {do} (see {self._log}): {' | '.join(end)}")
        self._stop()
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"it could not {do} (see {self._log}): {answer['error']}")
        return answer

    def _stop(self) -> None:
        """Stop it, and wait until it is: the next engine's turn begins then."""
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # macOS has none
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        """End the process, politely first."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
