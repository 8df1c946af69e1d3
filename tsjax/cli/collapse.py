"""``tsjax collapse``: measure how close the vectors of longer texts are, and the effect of a temperature on it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import (
    add_compile_cache_option,
    add_device_options,
    add_reading_options,
    add_source_options,
    comma_separated,
    load_model,
    on_terminal,
    parse_temperature,
    reading,
)
from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def add(commands: Any) -> None:
    command = commands.add_parser(
        "collapse",
        help="how vectors crowd together with length, and what τ does to it",
        description="Measure length collapse at several temperatures: how vectors lie by length, and what attention "
        "does by layer and head. To tell length from content, texts are measured as they are, cut to each length, and "
        "as repeats of one passage. Writes a directory: report.json, CSV tables, PNG plots (with matplotlib) and "
        "index.html.",
        epilog="example: tsjax collapse --texts scripts/demo.jsonl --temperature 1.0,0.8 -o collapse",
    )
    command.set_defaults(command=run, truncate_dim=None)
    command.add_argument(
        "--texts",
        metavar="FILE",
        required=True,
        help="at least three texts, better some hundred, read as tsjax embed reads them; - for standard input",
    )
    command.add_argument("-o", "--output", metavar="DIR", required=True, help="directory to make")
    command.add_argument("--overwrite", action="store_true", help="replace the directory if it exists")
    command.add_argument("--column", metavar="NAME", help="key or column of the text (default: text)")
    add_reading_options(command)
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    add_source_options(command)
    command.add_argument(
        "--temperature",
        metavar="τ,…",
        type=_grid,
        action="extend",
        help="numbers, separated by commas, or one temperature in JSON as in tsjax embed; may be repeated "
        "(default: 1.0,0.9,0.8)",
    )
    command.add_argument(
        "--lengths",
        metavar="N,…",
        type=comma_separated(int, "whole numbers, such as 32,128,512"),
        help="tokens at which a bucket ends, rising (default: powers of two up to the longest text, at most seven)",
    )
    command.add_argument(
        "--texts-per-bucket", metavar="N", type=int, default=64, help="the most texts of a length (default: 64)"
    )
    command.add_argument(
        "--layer-texts",
        metavar="N",
        type=int,
        default=4,
        help="measure attention in so many of them; 0 leaves it out (default: 4)",
    )
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the choice of texts (default: 0)")
    command.add_argument("--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch on each device")
    add_device_options(command)
    add_compile_cache_option(command)


def run(options: argparse.Namespace) -> None:
    from tsjax.jobs.input.texts import check_texts, read_texts
    from tsjax.lab.analysis.collapse import study_collapse
    from tsjax.lab.analysis.report import is_report, lines, write_report
    from tsjax.storage.atomic import check_absent, replacing

    output = Path(options.output)
    if options.overwrite and (output.exists() or output.is_symlink()) and not is_report(output):
        raise InputError(
            f"{output} is no report of tsjax collapse, or holds more, so it is not replaced; choose another name"
        )
    check_absent(output, directory=True, overwrite=options.overwrite)
    if options.seed < 0:
        raise InputError(f"--seed must be at least 0, not {options.seed}")
    said = reading(options)
    check_texts([options.texts], options.column, said)
    texts = list(read_texts(options.texts, options.column, said))
    if not texts:
        raise InputError(f"{options.texts} holds no text")
    grid = options.temperature or [1.0, 0.9, 0.8]
    options.temperature = None  # the model's saved temperature is not measured
    embedder = load_model(options).route("document")
    with _progress() as progress:
        found = study_collapse(
            embedder,
            texts,
            grid,
            lengths=options.lengths,
            texts_per_bucket=options.texts_per_bucket,
            layer_texts=options.layer_texts,
            seed=options.seed,
            progress=progress,
        )
    print("\n".join(lines(found)), flush=True)  # first, so that a full disk does not lose the result
    with replacing(output, directory=True, overwrite=options.overwrite) as directory:
        plotted = write_report(found, directory)
    for note in found.notes:
        _say(note)
    if not plotted:
        _say("no plots: they need matplotlib; install it with: pip install 'tsjax[lab]'")
    _say(f"written to {output}; open {output / 'index.html'}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], object]]:
    """Yield a function that reports each step: a bar with the estimated remaining time on a terminal, or a line."""
    if not on_terminal():
        yield lambda what, done, steps: _say(f"step {done + 1} of {steps}: {what}")
        return
    from tqdm import tqdm

    _say("measuring vectors and attention at each temperature and length; minutes on a CPU, --layer-texts 0 is quicker")
    with tqdm(unit=" steps", file=sys.stderr, leave=False) as bar:

        def show(what: str, done: int, steps: int) -> None:
            bar.total, bar.n = steps, done
            bar.set_description_str(what)

        yield show


_say: Callable[[str], object] = lambda text: print(f"tsjax: {text}", file=sys.stderr)  # noqa: E731


def _grid(text: str) -> list[Any]:
    """Parse one temperature in JSON, or numbers separated by commas."""
    if text.lstrip().startswith(("[", "{")) or text.endswith(".json"):
        return [parse_temperature(text)]
    return [parse_temperature(part.strip()) for part in text.split(",")]
