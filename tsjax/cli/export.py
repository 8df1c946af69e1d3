"""``tsjax export``: export a tsjax checkpoint to a Hugging Face directory, with τ folded into the weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tsjax.cli.options import add_kind_option, add_source_options, add_temperature, source


def add(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="a model to a Hugging Face directory with the temperature folded into its weights",
        description="Write a model as transformers and sentence-transformers read it. A temperature is folded into the "
        "weights, so that every other engine has it without knowing.",
        epilog="example: tsjax export all-MiniLM-L6-v2 minilm-sharper --temperature 0.9",
    )
    command.set_defaults(command=run)
    command.add_argument("model", metavar="MODEL", help="hub name or directory")
    command.add_argument("destination", metavar="DEST", help="the directory to make")
    add_source_options(command)
    add_kind_option(command)
    add_temperature(command, "to fold into the weights (default: the one saved with the model, usually 1)")


def run(options: argparse.Namespace) -> None:
    from tsjax.hub import export_to
    from tsjax.temperature import Temperature

    tau = export_to(
        options.model,
        Path(options.destination),
        temperature=None if options.temperature is None else Temperature.of(options.temperature),
        **source(options),
        kind=options.kind,
    )
    folded = "" if tau == Temperature() else f", temperature {tau} folded in"
    print(f"tsjax: wrote {options.destination}{folded}", file=sys.stderr)
