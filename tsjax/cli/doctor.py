"""``tsjax doctor``: check that this machine computes correctly."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tsjax.cli.options import on_terminal
from tsjax.wording import counted


def add(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="check that this machine computes right",
        description="Print versions, devices, attention kernels and caches, and compare this machine's results with "
        "float64: operations that compilers are known to get wrong, and small networks on every device, in every "
        "dtype and by every kernel. A line a check; 'warn' is what does not touch tsjax itself. Ends with 1 if a "
        "check fails.",
        epilog="example: tsjax doctor --quiet",
    )
    command.set_defaults(command=run)
    command.add_argument("--quiet", action="store_true", help="print warnings, failures and the summary only")
    command.add_argument("--json", action="store_true", help="as JSON, one object a line")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tsjax.doctor.running import examine

    if on_terminal():
        print("tsjax: comparing this machine with float64; about two minutes on two cores", file=sys.stderr)
    bar = tqdm(unit=" checks", file=sys.stderr, disable=not on_terminal(), leave=False)

    def starting(name: str, total: int | None) -> None:
        bar.total = total
        bar.set_description_str(name[:40].ljust(40))

    counts = {"ok": 0, "warn": 0, "fail": 0}
    advice: dict[str, None] = {}
    for result in examine(starting=starting):
        bar.update()
        counts[result.found.status] += 1
        if result.found.advice:
            advice[result.found.advice] = None
        if options.json:
            line = json.dumps({"check": result.name, **result.found._asdict()}, ensure_ascii=False)
        elif not options.quiet or result.found.status != "ok":
            line = f"{result.found.status:4}  {result.name}: {result.found.detail}"
        else:
            continue
        with bar.external_write_mode(file=sys.stdout):
            print(line, flush=True)
    bar.close()
    summary = f"{counted(counts['ok'], 'check')} passed, {counts['warn']} warned, {counts['fail']} failed"
    if counts["fail"]:
        summary += "; do not trust the vectors that this machine computes before that is resolved"
    if not options.json:
        for text in advice:
            print(f"to do: {text}")
    print(summary, file=sys.stderr if options.json else sys.stdout)
    return 1 if counts["fail"] else 0
