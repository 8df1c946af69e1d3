"""``tsjax bench``: measure the speed of a model on this machine."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import (
    add_device_options,
    add_reading_options,
    add_source_options,
    add_temperature,
    load_model,
    placement,
    reading,
    source,
)
from tsjax.errors import InputError
from tsjax.validation.numbers import finite_number, whole_number
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.bench.benchmark import Figures
    from tsjax.encoders.embedder import Embedder

# Tokens of generated texts in a pass, by JAX's name of the device.
_TOKENS = {"cpu": 32_768}
_TOKENS_ACCELERATOR = 1 << 21

_COLUMNS = (
    "workload",
    "texts",
    "tokens",
    "padding",
    "shapes",
    "compile s",
    "tokenize s",
    "tokens/s",
    "texts/s",
    "GFLOP/s",
    "of limit",
    "peak MB",
)


def add(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="how fast a model is on this machine",
        description="Measure a model on made texts of several lengths and on batches of fixed shape. Compiling is "
        "apart from the rates; the limit is the rate of bare matrix products of the model's sizes.",
        epilog="example: tsjax bench --workloads 139,mixed,32x128 --json bench.json",
    )
    # A program cached by another process would be fetched, and the fetch measured as compilation.
    command.set_defaults(command=run, truncate_dim=None, no_compile_cache=True)
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    command.add_argument(
        "--random", metavar="SIZE", help="random weights, minilm or bert-base, with the tokenizer of --model"
    )
    add_source_options(command)
    add_temperature(command, "of the attention softmax (default: the one saved with the model, usually 1)")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    command.add_argument(
        "--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens (default: 512 if the model can)"
    )
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch on each device")
    command.add_argument(
        "--workloads",
        metavar="W,…",
        help="of: a number of tokens (about so many a text), mixed (10 to 512, log-uniform), rows x tokens (the "
        "network alone), texts (those of --texts); default: 10,139,304,mixed, six shapes, and texts if there are any",
    )
    command.add_argument("--texts", metavar="FILE", help="a workload of your own, read as tsjax embed reads it")
    command.add_argument("--column", metavar="NAME", help="key or column of the text (default: text)")
    add_reading_options(command)
    command.add_argument("--tokens", metavar="N", type=int, help="tokens of a pass over made texts")
    command.add_argument("--repeats", metavar="N", type=int, default=3, help="timed passes, at most (default: 3)")
    command.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=20.0,
        help="begin no pass of a workload after so many (default: 20)",
    )
    add_device_options(command)
    command.add_argument("--json", metavar="FILE", help="write everything measured; replaces the file")


def run(options: argparse.Namespace) -> None:
    import jax

    from tsjax.bench.benchmark import measure
    from tsjax.bench.operations import matrix_rate
    from tsjax.storage.atomic import check_absent, replacing

    whole_number("--repeats", options.repeats)
    if options.tokens is not None:
        whole_number("--tokens", options.tokens)
    finite_number("--seconds", options.seconds, positive=True)
    if options.json is not None:
        check_absent(Path(options.json), overwrite=True)
    workloads = _workloads(options)
    texts = _texts(options) if "texts" in workloads else None
    with _embedder(options) as embedder:
        workloads = _possible(workloads, embedder, chosen=options.workloads is not None)
        tokens = options.tokens or _TOKENS.get(jax.default_backend(), _TOKENS_ACCELERATOR)
        limit = matrix_rate(embedder.metadata.model, options.dtype, embedder.token_budget)
        if jax.default_backend() != "cpu":  # a CPU's devices share its cores
            limit *= len(embedder.devices)
        about = _about(embedder, limit)
        where = f"{about['devices']} × {about['device']}"
        print(f"{about['model']}, {about['dtype']}, on {where}; limit {limit / 1e9:,.0f} GFLOP/s")
        if options.devices is not None or about["devices"] > 1:
            _print_placement(about)
        _print_row(_COLUMNS)
        results = []
        for workload in workloads:
            figures = measure(
                embedder,
                workload,
                texts if workload == "texts" else None,
                tokens=tokens,
                repeats=options.repeats,
                seconds=options.seconds,
            )
            _print_row(_cells(figures, limit))
            results.append(figures.to_json(limit))
    if options.json is not None:
        content = json.dumps({**about, "workloads": results}, indent=2, ensure_ascii=False) + "\n"
        with replacing(Path(options.json), overwrite=True) as file:
            file.write_text(content, encoding="utf-8")
        print(f"tsjax: wrote {options.json}", file=sys.stderr)


def _workloads(options: argparse.Namespace) -> list[str]:
    """Return the requested workloads, after checking their names."""
    from tsjax.bench.workloads import SHAPE_WORKLOADS, TEXT_WORKLOADS, parse_shape

    if options.workloads is None:
        return [*TEXT_WORKLOADS, *(["texts"] if options.texts is not None else []), *SHAPE_WORKLOADS]
    names = [name.strip() for name in options.workloads.split(",")]
    for name in names:
        if name != "texts":
            parse_shape(name)
        elif options.texts is None:
            raise InputError("the workload texts needs --texts FILE")
    if options.texts is not None and "texts" not in names:
        raise InputError("--texts is given, but texts is not among --workloads")
    return names


def _texts(options: argparse.Namespace) -> list[str]:
    from tsjax.jobs.input.texts import read_texts

    texts = list(read_texts(options.texts, options.column, reading(options)))
    if not texts:
        raise InputError(f"{options.texts} holds no text")
    return texts


@contextlib.contextmanager
def _embedder(options: argparse.Namespace) -> Iterator[Embedder]:
    """Yield the model to measure; one with random weights is in a directory that lasts as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        embedder = load_model(options).route() if options.random is None else _random(options, Path(folder) / "model")
        if options.max_seq_length is None:
            embedder.max_seq_length = min(512, embedder.metadata.model.encoder.max_length or 512)
        yield embedder


def _random(options: argparse.Namespace, directory: Path) -> Embedder:
    from tsjax.bench.workloads import write_random_model
    from tsjax.checkpoints.format import read_header
    from tsjax.encoders.embedder import Embedder
    from tsjax.hub import resolve

    write_random_model(directory, options.random, read_header(resolve(options.model, **source(options))))
    return Embedder(
        directory,
        temperature=options.temperature,
        dtype=options.dtype,
        max_seq_length=options.max_seq_length,
        token_budget=options.token_budget,
        **placement(options),
    )


def _possible(workloads: list[str], embedder: Embedder, *, chosen: bool) -> list[str]:
    """Return the workloads whose texts fit the model. One that does not fit is an error if chosen, else omitted."""
    from tsjax.bench.workloads import needed_length

    longest = embedder.max_seq_length
    too_long = [name for name in workloads if name != "texts" and needed_length(name) > longest]
    if too_long and chosen:
        raise InputError(f"the workload {too_long[0]} needs longer texts than this model's {longest} tokens")
    if too_long:
        print(f"tsjax: left out, since texts have {longest} tokens at most: {', '.join(too_long)}", file=sys.stderr)
    return [name for name in workloads if name not in too_long]


def _about(embedder: Embedder, limit: float) -> dict[str, Any]:
    """Return a description of the model and the machine that the figures belong to."""
    import jax

    from tsjax._version import __version__
    from tsjax.bench import machine

    return {
        "model": embedder.metadata.source,
        "dtype": embedder.dtype,
        "temperature": embedder.temperature.to_json(),
        "max_seq_length": embedder.max_seq_length,
        "token_budget": embedder.token_budget,
        "platform": jax.default_backend(),
        "device": embedder.devices[0].device_kind,
        "devices": len(embedder.devices),
        "parameter_bytes": embedder.pipeline.engine.bytes_per_device(),
        "shapes": [list(shape) for shape in embedder.shapes],
        "machine": machine.describe(),
        "versions": {"tsjax": __version__, "jax": jax.__version__},
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "matrix_operations_per_second": limit,
    }


def _print_placement(about: dict[str, Any]) -> None:
    """Print the placement of the parameters and of a batch."""
    for device, held in about["parameter_bytes"].items():
        print(f"{device}: parameters {held / 1e6:,.1f} MB, 1/{about['devices']} of each batch's rows")
    shapes = ", ".join(f"{rows} × {tokens}" for rows, tokens in about["shapes"])
    print(f"{counted(len(about['shapes']), 'shape')} of batches, rows × tokens: {shapes}")


def _cells(figures: Figures, limit: float) -> tuple[str, ...]:
    rates = figures.to_json(limit)
    peak = figures.peak_resident if figures.peak_device is None else figures.peak_device
    return (
        figures.workload,
        f"{figures.texts:,}",
        f"{figures.tokens:,}",
        f"{figures.padding_share:.1%}",
        f"{figures.compiled_shapes}",
        f"{figures.compile_seconds:.1f}",
        "" if figures.tokenize_seconds is None else f"{figures.tokenize_seconds:.2f}",
        f"{rates['tokens_per_second']:,.0f}",
        f"{rates['texts_per_second']:,.1f}",
        f"{rates['operations_per_second'] / 1e9:,.0f}",
        f"{rates['share_of_matrix_rate']:.0%}",
        "" if peak is None else f"{peak / 1e6:,.0f}",
    )


def _print_row(cells: tuple[str, ...]) -> None:
    """Print a line of the table immediately."""
    print(f"{cells[0]:10}" + "".join(f"{cell:>11}" for cell in cells[1:]), flush=True)
