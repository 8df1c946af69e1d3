"""The command line: a thin door on the library. Data goes to standard output, everything else to standard error.

Heavy imports wait until a command needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tsjax import __version__
from tsjax.errors import InputError, TruncationWarning, TsjaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tsjax.checkpoint import Header
    from tsjax.embedder import Embedder
    from tsjax.routed_checkpoint import RoutedHeader
    from tsjax.router import RoutedEmbedder

_BLOCK = 4096


class _Interrupted(KeyboardInterrupt):
    """An interrupt that knows its signal."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.status = 128 + signum


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process: what the commands ``tsjax`` and ``python -m tsjax`` do."""
    _install_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    status = main(arguments)
    if status > 128:
        # The device may still be computing what nobody wants any more; the interpreter's own end crashes on that.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit status: 0, 2 for an error of the user's, 128 and the signal's number for an interrupt.
    """
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except TsjaxError as error:
        print(f"tsjax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _silence_stdout()  # whoever read our output has seen enough
        return 0
    except OSError as error:  # such as a full disk under standard output, or a folder that one may not enter
        where = f"{error.filename}: " if error.filename else ""
        print(f"tsjax: {where}{error.strerror or error}", file=sys.stderr)
        _silence_stdout()
        return 2
    except KeyboardInterrupt as interrupt:
        print("tsjax: interrupted", file=sys.stderr)
        return interrupt.status if isinstance(interrupt, _Interrupted) else 128 + signal.SIGINT
    return 0


def _silence_stdout() -> None:
    """Keep Python from complaining once more when it closes a standard output that takes nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _embed(options: argparse.Namespace) -> None:
    import numpy as np

    from tsjax.files import check_absent
    from tsjax.jobs.texts import STDIN, check_readable, count_texts, read_texts
    from tsjax.jobs.vectors import STDOUT, check_output, open_vectors

    check_output(options.output)
    if options.output != STDOUT:
        check_absent(Path(options.output), overwrite=options.overwrite)
    if options.files.count(STDIN) > 1:
        raise InputError("standard input can be read once only")
    for file in options.files:
        check_readable(file)
    embedder = _load(options).route(options.prompt_type)
    total = None
    if _on_terminal():
        counts = [count_texts(file, options.input_format) for file in options.files]
        total = None if None in counts else sum(count for count in counts if count is not None)

    texts = itertools.chain.from_iterable(
        read_texts(file, options.column, options.input_format) for file in options.files
    )
    binary = options.precision in ("binary", "ubinary")
    dimension = -(-embedder.embedding_dimension // 8) if binary else embedder.embedding_dimension
    dtype = np.dtype({"float32": "f4", "binary": "i1", "ubinary": "u1"}[options.precision])
    encode = embedder.encode if options.prompt_type is None else getattr(embedder, f"encode_{options.prompt_type}")
    done, seconds = 0, 0.0
    with (
        open_vectors(options.output, dimension, dtype, overwrite=options.overwrite) as writer,
        _progress(total) as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", TruncationWarning)  # the summary says how many
        while block := list(itertools.islice(texts, _BLOCK)):
            start = time.perf_counter()
            vectors = encode(
                block,
                prompt_name=options.prompt_name,
                prompt=options.prompt,
                batch_size=options.batch_size,
                precision=options.precision,
                normalize_embeddings=options.normalize,
                show_progress_bar=False,
            )
            seconds += time.perf_counter() - start
            writer.write(block, vectors)
            done += len(block)
            progress(len(block))
    _summarise(embedder, done, seconds, options.output)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _summarise(embedder: Embedder, texts: int, seconds: float, output: str) -> None:
    done = embedder.statistics
    rate = done.tokens / seconds if seconds else 0.0
    print(
        f"tsjax: {texts:,} {'text' if texts == 1 else 'texts'}, {done.tokens:,} tokens in {seconds:.1f} s "
        f"({rate:,.0f} tokens/s, compiling included; {done.padding_share:.0%} of the computed tokens were padding)",
        file=sys.stderr,
    )
    cut = {0: "no text was", 1: "1 text was"}.get(done.truncated, f"{done.truncated:,} texts were")
    where = "standard output" if output == "-" else output
    print(f"tsjax: {cut} cut at {embedder.max_seq_length} tokens; written to {where}", file=sys.stderr)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    if not _on_terminal():
        yield lambda texts: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=" texts", file=sys.stderr) as bar:
        yield bar.update


def _convert(options: argparse.Namespace) -> None:
    from tsjax.hub import convert_to
    from tsjax.temperature import Temperature

    header = convert_to(
        options.source,
        Path(options.destination),
        temperature=None if options.temperature is None else Temperature.of(options.temperature),
        **_source(options),
        overwrite=options.overwrite,
    )
    print(f"tsjax: wrote {header.path}, fingerprint {header.fingerprint[:16]}", file=sys.stderr)


def _info(options: argparse.Namespace) -> None:
    from tsjax.checkpoint import read_header, verify_files
    from tsjax.hub import resolve
    from tsjax.routed_checkpoint import is_routed, read_routed_header

    path = resolve(options.model, **_source(options))
    routed = read_routed_header(path) if is_routed(path) else None
    headers = [read_header(path)] if routed is None else list(routed.headers.values())
    for header in headers:
        verify_files(header)
    if options.json:
        content = _content(headers[0]) if routed is None else _routed_content(routed)
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    rows = [] if routed is None else list(_describe_routed(routed))
    for header in headers:
        rows += _describe(header)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _content(header: Header) -> dict[str, Any]:
    from tsjax.checkpoint import parameter_count

    return {**header.metadata.to_json(), "parameters": parameter_count(header), "fingerprint": header.fingerprint}


def _routed_content(routed: RoutedHeader) -> dict[str, Any]:
    folders = {folder: _content(header) for folder, header in routed.headers.items()}
    return {"router": dataclasses.asdict(routed.config), "folders": folders, "fingerprint": routed.fingerprint}


def _describe_routed(routed: RoutedHeader) -> Iterator[tuple[str, str]]:
    """Which task takes which route; what each folder holds comes after."""
    config = routed.config
    for task, route in config.tasks.items():
        yield f"task {task!r}", f"route {route!r}, in {config.routes[route]}"
    yield "other tasks", "an error" if config.other_tasks is None else f"route {config.other_tasks!r}"
    yield "without a task", "an error" if config.default_route is None else f"route {config.default_route!r}"
    yield "all routes", f"{routed.fingerprint} (the fingerprint of them together)"


def _describe(header: Header) -> Iterator[tuple[str, str]]:
    from tsjax.checkpoint import parameter_count

    metadata, encoder = header.metadata, header.metadata.model.encoder
    yield "model", metadata.source
    yield "directory", str(header.path)
    yield (
        "architecture",
        f"{encoder.num_layers} layers, {encoder.hidden_size} wide, {encoder.num_heads} heads of {encoder.head_dim}, "
        f"feed-forward {encoder.intermediate_size} ({encoder.activation}), {encoder.norm_placement}-norm, "
        f"{encoder.positions} positions",
    )
    yield "parameters", f"{parameter_count(header):,}"
    yield "vocabulary", f"{encoder.vocab_size:,} tokens"
    yield "longest text", f"{metadata.max_seq_length} tokens (the positions allow {encoder.max_length or 'any'})"
    pooling = metadata.model.pooling
    yield "pooling", " + ".join(pooling.modes) + ("" if pooling.include_prompt else ", without the prompt")
    for head in metadata.model.heads:
        widths = f" {head.in_features} → {head.out_features}, {head.activation}" if head.kind == "dense" else ""
        yield "then", head.kind + widths
    yield "dimensions", str(metadata.truncate_dim or metadata.model.embedding_dimension)
    yield "similarity", metadata.similarity_fn_name
    for name, prompt in metadata.prompts.items():
        default = " (default)" if name == metadata.default_prompt_name else ""
        yield f"prompt {name!r}", repr(prompt) + default
    if not metadata.prompts:
        yield "prompts", "none"
    yield "temperature", str(metadata.temperature)
    yield "fingerprint", f"{header.fingerprint} (files verified)"


def _source(options: argparse.Namespace) -> dict[str, Any]:
    """What `_add_source_options` asked for, as the library names it."""
    return {
        "revision": options.revision,
        "local_files_only": options.local_files_only,
        "ignore_config_fields": options.ignore_config_field,
        "task": options.task,
        "position_stride": options.position_stride,
    }


def _load(options: argparse.Namespace) -> Embedder | RoutedEmbedder:
    from tsjax.api import load

    return load(
        options.model,
        **_source(options),
        temperature=options.temperature,
        dtype=options.dtype,
        max_seq_length=options.max_seq_length,
        truncate_dim=options.truncate_dim,
        token_budget=options.token_budget,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tsjax", description="Text embeddings in JAX, with a temperature in every attention softmax.")
    parser.add_argument("--version", action="version", version=f"tsjax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_embed(commands)
    _add_convert(commands)
    _add_info(commands)
    return parser


def _add_embed(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        help="texts in a file to vectors in a file",
        description="Embed the texts of one or several files, in order, into one file of vectors.",
        epilog="example: tsjax embed scripts/demo.jsonl -o vectors.npy --temperature 0.9",
    )
    command.set_defaults(command=_embed)
    command.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="one text a line (an empty line is an empty text), or .jsonl, .csv, .tsv, .parquet with --column; "
        "- for standard input",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help=".npy, .npz (array embeddings), .jsonl or .parquet (text, embedding); - for JSONL to standard output",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    command.add_argument("--column", metavar="NAME", default="text", help="key or column of the text (default: text)")
    command.add_argument(
        "--input-format", choices=("txt", "jsonl", "csv", "tsv", "parquet"), help="instead of going by the suffix"
    )
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    _add_source_options(command)
    _add_temperature(command, "of the attention softmax (default: the one saved with the model, usually 1)")
    command.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts, put before each text")
    command.add_argument("--prompt", metavar="TEXT", help="text put before each text; wins over --prompt-name")
    command.add_argument(
        "--prompt-type",
        choices=("query", "document"),
        help="use the model's prompt, and its encoder if it has several, for queries or for documents",
    )
    command.add_argument("--normalize", action="store_true", help="divide each vector by its norm")
    command.add_argument("--truncate-dim", metavar="N", type=int, help="keep so many leading dimensions")
    command.add_argument("--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    command.add_argument(
        "--precision", choices=("float32", "binary", "ubinary"), default="float32", help="to store (default: float32)"
    )
    command.add_argument("--batch-size", metavar="N", type=int, help="the most texts in a batch")
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens in a batch, padding included")


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="a Hugging Face or sentence-transformers checkpoint to a tsjax directory",
        description="Convert a checkpoint. Any model is converted on first use anyway; this is for keeping the result.",
        epilog="example: tsjax convert all-MiniLM-L6-v2 minilm-tau-0.9 --temperature 0.9",
    )
    command.set_defaults(command=_convert)
    command.add_argument("source", metavar="SOURCE", help="hub name or directory")
    command.add_argument("destination", metavar="DEST", help="the directory to make")
    command.add_argument("--overwrite", action="store_true", help="replace a tsjax directory at DEST")
    _add_source_options(command)
    _add_temperature(command, "to save as the model's default")


def _add_info(commands: Any) -> None:
    command = commands.add_parser(
        "info",
        help="what a model is",
        description="Architecture, sizes, pooling, prompts, temperature and fingerprint of a model; checks its files.",
        epilog="example: tsjax info all-MiniLM-L6-v2",
    )
    command.set_defaults(command=_info)
    command.add_argument("model", metavar="MODEL", nargs="?", help="hub name or directory (default: all-MiniLM-L6-v2)")
    command.add_argument("--json", action="store_true", help="as JSON")
    _add_source_options(command)


def _add_source_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--revision", metavar="R", help="branch, tag or commit on the hub")
    command.add_argument("--local-files-only", action="store_true", help="never use the network")
    command.add_argument(
        "--ignore-config-field",
        metavar="NAME",
        action="append",
        default=[],
        help="accept a field of config.json that tsjax does not know; may be repeated",
    )
    command.add_argument("--task", metavar="NAME", help="merge the model's adapter for this task (default: none)")
    command.add_argument(
        "--position-stride",
        metavar="N",
        type=int,
        help="short texts use every N-th row of the position table (default: what the model is known for, usually 1)",
    )


def _add_temperature(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument(
        "--temperature",
        metavar="τ",
        type=_temperature,
        help=f"temperature {purpose}: one number, or JSON: a list of one a layer, a list of lists of one a head, or "
        '{"value": 0.9, "reference_length": 128} for τ · log 128 / log n',
    )


def _temperature(text: str) -> Any:
    from tsjax.temperature import Temperature

    try:
        value = json.loads(text)
        return Temperature.from_json(value) if isinstance(value, dict) else value
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is neither a number nor a JSON list") from None


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all our errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _install_interrupts() -> None:
    """Make Ctrl-C and a polite kill raise, and raise again where Python swallows it.

    An exception that a signal raises inside a garbage-collection callback (JAX has one) is printed and ignored. What
    was ignored comes to `sys.unraisablehook`, which has it raised a moment later, outside of the callback.
    """
    lost = signal.SIGINT

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise _Interrupted(lost if signum == signal.SIGALRM else signum)

    def ignored(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal lost
        if isinstance(unraisable.exc_value, _Interrupted):
            lost = signal.Signals(unraisable.exc_value.status - 128)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = ignored
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(signum, interrupt)


if __name__ == "__main__":
    run()
