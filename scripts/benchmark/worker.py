"""The two ends of a pipe between an engine in its own process and its client, with one JSON object per line each way.

A worker is stopped (SIGSTOP) while it has no request. Threads that wait by spinning, such as those of ONNX Runtime,
therefore take no time from the engine whose turn it is. No engine has to disable spinning, which would cost it time in
its own turn.
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
    """The engine that a worker serves: texts to normalised vectors, token ids to vectors, both in host memory."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return normalised vectors of the texts, in order, tokenised in the engine's own way."""

    def network(self, ids: np.ndarray) -> Callable[[], object]:
        """Return a function that runs the network and pools, on int32 ids (rows, tokens) that are prepared here."""

    def warm(self, run: Callable[[], object]) -> dict[str, Any]:
        """Run once, compiling if necessary, and return information about it."""

    def matrix_rate(self, width: int, wide: int, tokens: int) -> float | None:
        """Return the FLOP/s of (tokens, width) · (width, wide) and back; None if not available."""

    def about(self) -> dict[str, Any]:
        """Return versions, threads, device."""


def serve(make: Callable[[], Engine]) -> None:
    """Create an engine and serve the requests on standard input until it ends; answers go to standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the output of libraries goes to the log
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
        except Exception as error:  # the client must receive every error
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()  # a stopped process could not flush
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
    """Return the seconds of each call: at most ``calls``, begun within ``seconds``, and at least one."""
    times: list[float] = []
    while not times or (len(times) < calls and sum(times) < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class Worker:
    """The client's end: a process that serves an engine, stopped while it has no request.

    Args:
        command: the command to start.
        log: file for all output.
        environment: variables in addition to those of this process.
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
        """Return the seconds of CPU time that it has used."""
        return machine.process_seconds(self._process.pid) or 0.0

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Resume the worker, send it a request, stop it again, and return its answer.

        Raises:
            RuntimeError: the request failed, or the process has ended.
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
        """Stop the process, and wait until it is stopped, because the next engine's turn begins then."""
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # not available on macOS
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        """End the process, by request first."""
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
