"""``tsjax convert``: convert a checkpoint of Hugging Face or sentence-transformers to a tsjax checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tsjax.cli.options import add_kind_option, add_source_options, add_temperature, source


def add(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="a Hugging Face or sentence-transformers checkpoint to a tsjax directory",
        description="Convert a checkpoint. Any model is converted on first use anyway; this is for keeping the result.",
        epilog="example: tsjax convert all-MiniLM-L6-v2 minilm-tau-0.9 --temperature 0.9",
    )
    command.set_defaults(command=run)
    command.add_argument("source", metavar="SOURCE", help="hub name or directory")
    command.add_argument("destination", metavar="DEST", help="the directory to make")
    command.add_argument("--overwrite", action="store_true", help="replace a tsjax directory at DEST")
    add_source_options(command)
    add_kind_option(command)
    add_temperature(command, "to save as the model's default")


def run(options: argparse.Namespace) -> None:
    from tsjax.hub import convert_to
    from tsjax.temperature import Temperature

    header = convert_to(
        options.source,
        Path(options.destination),
        temperature=None if options.temperature is None else Temperature.of(options.temperature),
        **source(options),
        kind=options.kind,
        overwrite=options.overwrite,
    )
    print(f"tsjax: wrote {header.path}, checkpoint fingerprint {header.fingerprint[:16]}", file=sys.stderr)
