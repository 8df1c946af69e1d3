"""Handling of Ctrl-C and SIGTERM, which end a command within moments in any state.

Python runs a signal's handler between two Python instructions. Two things can delay or lose the interrupt:

- The signal arrives just before a system call that blocks, such as reading a pipe, or in another thread. The handler
  runs when the call returns, which may be never.
- The handler's exception is raised inside a callback of C code (JAX has some), which prints or drops it.

A thread therefore receives each signal (`signal.set_wakeup_fd`) and sends another signal to the main thread, which
interrupts its system call, until the exception propagates. A propagating exception is alive, because something
references it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# The signal that the thread sends. An alarm ends a process that has no handler for it, and has no other use here.
_REMINDER = signal.SIGALRM
_SECONDS = 0.1


class Interrupted(KeyboardInterrupt):
    """An interrupt that stores its signal.

    Attributes:
        status: the exit status of a process that it ends.
        caught: set by the code that ends the process; no more reminders are sent from then on.
    """

    def __init__(self, signum: int, caught: threading.Event) -> None:
        super().__init__()
        self.status = 128 + signum
        self.caught = caught


class Interrupts:
    """The signals that end a command, after they are installed."""

    def __init__(self) -> None:
        self._signum: int | None = None  # the signal that has arrived and was not handled yet
        self._raised: weakref.ref[Interrupted] | None = None
        self._caught = threading.Event()

    def install(self) -> None:
        """Install handlers that raise `Interrupted` in the main thread, and repeat it until it propagates."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        sys.unraisablehook = self._unraisable
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, _REMINDER):
            signal.signal(signum, self._handle)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._remind, args=(reading,), name="tsjax-interrupts", daemon=True).start()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._caught.is_set():
            return
        if signum != _REMINDER:
            self._signum = signum
        elif self._signum is None or (self._raised and self._raised() is not None):
            return
        error = Interrupted(self._signum, self._caught)
        self._raised = weakref.ref(error)
        try:
            raise error
        finally:
            del error  # this frame belongs to the error's traceback, and would keep it alive

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):  # the thread sends a reminder for those
            sys.__unraisablehook__(unraisable)

    def _remind(self, reading: int) -> None:
        while os.read(reading, 1)[0] == _REMINDER:  # a reminder of this class
            pass
        main = threading.main_thread()
        while not self._caught.wait(_SECONDS) and main.ident is not None:
            signal.pthread_kill(main.ident, _REMINDER)
