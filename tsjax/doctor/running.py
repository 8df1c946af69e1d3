"""Running of the checks in a separate process, so that a crash or a hang is a finding and does not end the doctor."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import tsjax
from tsjax.doctor.check import DISTRUST, OTHER_COMPILER, Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Maximum seconds of one check; compiling for an accelerator takes longest.
_PATIENCE = 300.0

# Signal that ends a process that is silent for too long.
_GIVEN_UP = signal.SIGKILL

_COMMAND = (sys.executable, "-m", "tsjax.doctor")

_START = "start of JAX"
_DID_NOT_START = "see whether JAX_PLATFORMS, XLA_FLAGS and the drivers fit this machine"
_BETWEEN = "process of the checks, after one of them"


class _SilentError(Exception):
    """Error for a process that is silent for too long."""


class Result(NamedTuple):
    """Name of a check, and its finding."""

    name: str
    found: Found


def examine(
    command: Sequence[str] = _COMMAND,
    patience: float = _PATIENCE,
    starting: Callable[[str, int | None], object] = lambda name, total: None,
) -> Iterator[Result]:
    """Run every check; yield each result when it is available.

    This process does not start JAX, so that the checks have the devices to themselves. After a check that crashed or
    hung, a new process continues with the next one.

    Args:
        command: command that runs the checks from the number it is given, with the output of `tsjax.doctor.__main__`.
        patience: seconds without output after which a check counts as hanging.
        starting: called with the name of each check when it starts, and the number of checks.
    """
    first, ended = 0, False
    while not ended:
        with tempfile.TemporaryFile() as errors, _started(command, first, errors) as child:
            name, ours, finished = None, True, 0
            try:
                for content in _lines(child, patience):
                    if "started" in content:
                        name, ours = content["started"], content["ours"]
                        starting(name, content.get("of"))
                    elif name is not None:
                        yield Result(name, Found(**content))
                        name, finished = None, finished + 1
                problem = _problem(child, errors)
            except _SilentError:
                problem = f"nothing was heard of it for {patience:g} s"
            if problem and name is not None:
                yield Result(name, Found("fail", problem, DISTRUST) if ours else Found("warn", problem, OTHER_COMPILER))
            elif problem and first + finished == 0:
                yield Result(_START, Found("fail", problem, _DID_NOT_START))
            elif problem:
                yield Result(_BETWEEN, Found("fail", problem, DISTRUST))
            ended = name is None
            first += finished + 1


def _started(command: Sequence[str], first: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # The child imports the same package as this process.
    package = str(Path(tsjax.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    return subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, stderr=errors, env=environment)


def _lines(child: subprocess.Popen[bytes], patience: float) -> Iterator[dict[str, Any]]:
    """Yield the output of the child, until it ends or is not needed any more.

    Raises:
        _SilentError: it neither printed nor ended in this time, and was ended.
    """
    said: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            said.put(line)
        said.put(b"")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while line := said.get(timeout=patience):
            with contextlib.suppress(ValueError):  # cut short by the end of the process
                yield json.loads(line)
        child.wait(timeout=patience)
    except (queue.Empty, subprocess.TimeoutExpired) as error:
        raise _SilentError from error
    finally:
        if child.poll() is None:
            child.send_signal(_GIVEN_UP)
        reader.join()


def _problem(child: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """Return a description of a child's failure, with its last line on standard error; empty if it did not fail."""
    status = child.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    last = f": {lines[-1]:.300}" if lines else ""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}{last}"
    return f"the process ended with status {status}{last}" if status else ""
