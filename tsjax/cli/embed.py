"""``tsjax embed``: embed the texts of files into a file of vectors."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import (
    add_compile_cache_option,
    add_device_options,
    add_embedding_options,
    add_reading_options,
    load_model,
    on_terminal,
    reading,
)
from tsjax.errors import InputError, NoTokensError, TruncationWarning
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tsjax.encoders.embedder import Embedder

_BLOCK = 4096
_GOES_ON = "tsjax batch lists such a row in rejected.jsonl and goes on without it"


def add(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        help="texts in a file to vectors in a file",
        description="Embed the texts of one or several files, in order, into one file of vectors.",
        epilog="example: tsjax embed scripts/demo.jsonl -o vectors.npy --temperature 0.9",
    )
    command.set_defaults(command=run)
    command.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="one text a line (an empty line is an empty text), or .jsonl, .json, .csv, .tsv, .parquet, .arrow with "
        "--column, also compressed; - for standard input",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help=".npy, .npz (array embeddings), .jsonl or .parquet (text, embedding); - for JSONL to standard output",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    command.add_argument("--column", metavar="NAME", help="key or column of the text (default: text)")
    add_reading_options(command)
    add_embedding_options(command)
    command.add_argument("--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    command.add_argument(
        "--precision", choices=("float32", "binary", "ubinary"), default="float32", help="to store (default: float32)"
    )
    command.add_argument("--batch-size", metavar="N", type=int, help="the most texts in a batch")
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch on each device")
    add_device_options(command)
    add_compile_cache_option(command)


def run(options: argparse.Namespace) -> None:
    import numpy as np

    from tsjax.jobs.input.texts import STDIN, check_texts, count_texts, read_texts
    from tsjax.jobs.output.vector_files import STDOUT, check_output, open_vectors
    from tsjax.storage.atomic import check_absent

    check_output(options.output)
    if options.output != STDOUT:
        if os.path.realpath(options.output) in map(os.path.realpath, options.files):
            raise InputError(f"{options.output} is the output and one of the inputs; leave it out of the inputs")
        check_absent(Path(options.output), overwrite=options.overwrite)
    if options.files.count(STDIN) > 1:
        raise InputError("standard input can be read once only")
    said = reading(options)
    check_texts(options.files, options.column, said)
    embedder = load_model(options).route(options.task)
    total = None
    if on_terminal():
        counts = [count_texts(file, said, options.column) for file in options.files]
        total = None if None in counts else sum(count for count in counts if count is not None)

    texts = _explained(itertools.chain.from_iterable(read_texts(file, options.column, said) for file in options.files))
    binary = options.precision in ("binary", "ubinary")
    dimension = -(-embedder.embedding_dimension // 8) if binary else embedder.embedding_dimension
    dtype = np.dtype({"float32": "f4", "binary": "i1", "ubinary": "u1"}[options.precision])
    encode = embedder.encode if options.task is None else getattr(embedder, f"encode_{options.task}")
    done, seconds = 0, 0.0
    with (
        open_vectors(options.output, dimension, dtype, overwrite=options.overwrite) as writer,
        _progress(total) as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", TruncationWarning)  # the summary states the number
        while block := list(itertools.islice(texts, _BLOCK)):
            start = time.perf_counter()
            try:
                vectors = encode(
                    block,
                    prompt_name=options.prompt_name,
                    prompt=options.prompt,
                    batch_size=options.batch_size,
                    precision=options.precision,
                    normalize_embeddings=options.normalize,
                    show_progress_bar=False,
                )
            except NoTokensError as error:
                raise InputError(f"{NoTokensError(done + error.index)}; {_GOES_ON}") from None
            seconds += time.perf_counter() - start
            writer.write(block, vectors)
            done += len(block)
            progress(len(block))
    _summarise(embedder, done, seconds, options.output)


def _explained(texts: Iterator[str]) -> Iterator[str]:
    """Yield the texts; the error for a row without a text names the command that continues."""
    from tsjax.jobs.input.columns import RejectedRowError

    try:
        yield from texts
    except RejectedRowError as error:
        raise RejectedRowError(f"{error}; {_GOES_ON}") from error


def _summarise(embedder: Embedder, texts: int, seconds: float, output: str) -> None:
    done = embedder.statistics
    rate = done.tokens / seconds if seconds else 0.0
    print(
        f"tsjax: {counted(texts, 'text')}, {counted(done.tokens, 'token')} in {seconds:.1f} s "
        f"({rate:,.0f} tokens/s, compiling included; {done.padding_share:.0%} of the computed tokens were padding)",
        file=sys.stderr,
    )
    cut = {0: "no text was", 1: "1 text was"}.get(done.truncated, f"{done.truncated:,} texts were")
    where = "standard output" if output == "-" else output
    print(f"tsjax: {cut} cut at {embedder.max_seq_length} tokens; written to {where}", file=sys.stderr)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    if not on_terminal():
        yield lambda texts: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=" texts", file=sys.stderr) as bar:
        yield bar.update
