"""Process in which the checks run: it prints one JSON object per line, before and after each check.

Usage: python -m tsjax.doctor FIRST — the number of the first check to run; earlier checks are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import jax

from tsjax.doctor.check import Found
from tsjax.doctor.networks import network_checks
from tsjax.doctor.patterns import pattern_checks
from tsjax.doctor.surroundings import surroundings_checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.doctor.check import Check


def checks() -> Iterator[Check]:
    """Yield every check, always in the same order."""
    yield from surroundings_checks()
    for device in jax.local_devices():
        yield from pattern_checks(device)
        yield from network_checks(device)


def main(first: int) -> None:
    """Run the checks from the given one on; their own output goes to standard error."""
    # Native code (drivers, plugins) writes to the descriptor of standard output, so the parent reads another one.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**content: Any) -> None:
        print(json.dumps(content), file=output, flush=True)  # the parent process reads it

    with contextlib.redirect_stdout(sys.stderr):
        every = list(checks())
        for check in every[first:]:
            tell(started=check.name, ours=check.ours, of=len(every))
            try:
                found = check.run()
            except Exception as error:  # any error of a check is a finding
                advice = "try another version of jax and jaxlib, and report it with the output of tsjax doctor --json"
                found = Found("fail", f"{type(error).__name__}: {error}", advice)
            tell(**found._asdict())


if __name__ == "__main__":
    main(int(sys.argv[1]))
