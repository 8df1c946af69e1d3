"""The command line of the library. Data goes to standard output, everything else to standard error.

Heavy imports wait until a command needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from tsjax._version import __version__
from tsjax.cli import batch, bench, collapse, convert, doctor, embed, export, info, learn, search, sweep
from tsjax.cli.interrupts import Interrupted, Interrupts
from tsjax.errors import AssumptionWarning, TsjaxError
from tsjax.storage.atomic import expanded
from tsjax.wording import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# The options that name the output of a command.
_OUTPUTS = ("output", "destination", "save", "json")


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process: the entry point of ``tsjax`` and ``python -m tsjax``."""
    Interrupts().install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    status = main(arguments)
    if status > 128:
        # The device may still be computing an abandoned result; a normal exit of the interpreter crashes on that.
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit status: 0, 2 for a user error, 128 plus the signal's number for an interrupt, or a status that the
        command defines, such as 3 for a search of an unfinished output.
    """
    parser = _parser()
    parser.check_options(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    try:
        _expand_outputs(options)
        command: Callable[[argparse.Namespace], int | None] = options.command
        with _one_line_warnings():
            status = command(options) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except TsjaxError as error:
        print(f"tsjax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _silence_stdout()  # the reader closed the pipe (e.g. `head`)
        return 0
    except OSError as error:  # such as a full disk under standard output, or a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        print(f"tsjax: {where}{reason(error)}", file=sys.stderr)
        _silence_stdout()
        return 2
    except KeyboardInterrupt as interrupt:
        status = 128 + signal.SIGINT
        if isinstance(interrupt, Interrupted):
            interrupt.caught.set()
            status = interrupt.status
        with contextlib.suppress(OSError):  # the reader of standard error may have gone
            print("tsjax: interrupted", file=sys.stderr, flush=True)
    return status


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print assumptions about a model as one line, like all other messages."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, AssumptionWarning):
                print(f"tsjax: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _expand_outputs(options: argparse.Namespace) -> None:
    """Replace ``~`` by the home directory, because a shell does not expand it in ``--output=~/vectors``."""
    for name in _OUTPUTS:
        if isinstance(given := getattr(options, name, None), str):
            setattr(options, name, str(expanded(given)))


def _silence_stdout() -> None:
    """Prevent a second error when Python closes a standard output that accepts no data."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> _Parser:
    parser = _Parser(prog="tsjax", description="Text embeddings in JAX, with a temperature in every attention softmax.")
    parser.add_argument("--version", action="version", version=f"tsjax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (embed, batch, search, convert, export, info, sweep, collapse, learn, bench, doctor):
        command.add(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all other errors, and that accepts no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def check_options(self, arguments: Sequence[str], outer: frozenset[str] = frozenset()) -> None:
        """Exit with the first option that does not exist, because argparse may take the word after it for an action.

        Args:
            arguments: the words of the command line that this parser gets.
            outer: options of the command that contains this parser's command.
        """
        known = outer.union(self._option_string_actions)
        nested = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        commands = {name: parser for choices in nested for name, parser in choices.items()}
        for place, word in enumerate(arguments):
            if word == "--":
                return
            if word in commands:
                commands[word].check_options(arguments[place + 1 :], known)
                return
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                close = difflib.get_close_matches(name, known, 1)
                self.error(f"there is no option {name}" + (f"; did you mean {close[0]}?" if close else ""))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


if __name__ == "__main__":
    run()
