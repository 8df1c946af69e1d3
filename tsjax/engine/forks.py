"""Detection of a fork after JAX was in use, which JAX does not survive.

The threads of JAX's runtime exist only in the parent, so a forked child would wait for them forever. This module
imports neither JAX nor NumPy, and `tsjax` imports it first, so that it sees every later fork.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tsjax.errors import LifecycleError

_used = False
_forked = False


def check_not_forked() -> None:
    """Raise a LifecycleError if JAX was in use when this process was forked."""
    if _forked:
        raise LifecycleError(
            "this process was forked from one in which JAX was already in use, and JAX cannot run in a forked child: "
            "start the child with the method 'spawn' or 'forkserver' (multiprocessing.get_context('spawn')), or load "
            "no model before the fork and load it in the child"
        )


def is_forked() -> bool:
    """Return whether JAX was in use when this process was forked."""
    return _forked


def mark_used() -> None:
    """Record that JAX is in use from here on, also while its backends are still being started.

    Raises:
        LifecycleError: JAX cannot run in this process.
    """
    global _used  # noqa: PLW0603  # a fact about the process
    check_not_forked()
    _used = True


def _in_use() -> bool:
    """Return whether JAX is in use, by tsjax or by any other code.

    JAX's own `backends_are_initialized` takes a lock, which another thread may have held at the time of the fork.
    """
    bridge = sys.modules.get("jax._src.xla_bridge")
    lock = getattr(bridge, "_backend_lock", None)
    return _used or bool(getattr(bridge, "_backends", None)) or (lock is not None and lock.locked())


def _after_fork() -> None:
    global _forked  # noqa: PLW0603  # a fact about the process
    _forked = _forked or _in_use()


def _threads() -> int | None:
    """Return the operating system's count of threads in this process; None if it provides none."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    # The fork may have preceded this import. A process that uses JAX has several threads; a forked child starts with
    # one.
    _forked = _in_use() and _threads() == 1
