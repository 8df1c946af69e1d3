"""``tsjax sweep``: choose a temperature on the user's own task."""

from __future__ import annotations

import argparse
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
    reading,
    source,
)
from tsjax.errors import InputError, require_optional

if TYPE_CHECKING:
    from tsjax.lab.evaluation.sweeping import SweepResult
    from tsjax.lab.evaluation.tasks import Task

_TASKS = ("retrieval", "sts", "classification", "clustering")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "sweep",
        help="choose a temperature on a task of yours",
        description="Try temperatures on a task. τ is chosen on one part of the questions, pairs or texts, and its "
        "gain over τ = 1 reported on another, with a 95 % interval; the last line says what follows.",
        epilog="example: tsjax sweep retrieval my-questions --temperature 1,0.9,0.8,0.7 -o report --save tuned. "
        "retrieval takes a folder as BEIR has it (corpus.jsonl, queries.jsonl, qrels/test.tsv); sts a file with "
        "sentence1, sentence2 and score; classification and clustering one with text and label (.jsonl, .json, .csv, "
        ".tsv, .parquet, .arrow).",
    )
    command.set_defaults(command=run)
    command.add_argument("kind", metavar="TASK", choices=_TASKS, help=", ".join(_TASKS))
    command.add_argument("data", metavar="DATA", help="the task's folder or file")
    add_reading_options(command)
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    command.add_argument(
        "--temperature",
        metavar="τ,…",
        dest="taus",
        type=comma_separated(float, "numbers such as 1,0.9,0.8"),
        help="temperatures to try beside 1 (default: from 1.1 to 0.5)",
    )
    command.add_argument(
        "--law",
        metavar="LAW,…",
        type=comma_separated(str, "laws such as none,log:256"),
        default=("none",),
        help="laws to try each τ under: none; log:N, for τ · log N / log n at n tokens; piecewise:A:B, for 1 up to A "
        "tokens, falling to τ at B (default: none)",
    )
    command.add_argument(
        "--side",
        metavar="SIDE,…",
        type=comma_separated(str, "sides such as both,documents"),
        default=("both",),
        help="whose temperature to vary, while the other's stays 1: both, documents, queries (default: both)",
    )
    command.add_argument(
        "--measure",
        metavar="NAME",
        help="retrieval: MRR@k, nDCG@k, R@k, P@k, MAP@k, Success@k (default: MRR@10); sts: Spearman (default), "
        "Pearson; classification: accuracy (default), macro-F1; clustering: V-measure",
    )
    command.add_argument(
        "--qrels", metavar="NAME", default="test", help="retrieval: which qrels/NAME.tsv (default: test)"
    )
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the split and the interval (default: 0)")
    command.add_argument(
        "-o", "--output", metavar="DIR", help="a directory for report.json, scores.csv, by_length.csv and sweep.png"
    )
    command.add_argument(
        "--save", metavar="DIR", help="save the model with the chosen temperature, as tsjax convert does"
    )
    add_source_options(command)
    command.add_argument("--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch on each device")
    add_device_options(command)
    add_compile_cache_option(command)
    command.set_defaults(temperature=None, truncate_dim=None)  # load_model reads these


def run(options: argparse.Namespace) -> None:
    from tsjax.lab.evaluation import grid, sweep
    from tsjax.lab.evaluation.candidates import DEFAULT_GRID
    from tsjax.lab.evaluation.report import lines, write
    from tsjax.lab.evaluation.sweeping import check_sides
    from tsjax.storage.atomic import check_absent

    # All checks come first, before hours of embedding.
    candidates = grid(DEFAULT_GRID if options.taus is None else options.taus, options.law, options.side)
    for directory in (options.output, options.save):
        if directory is not None:
            check_absent(Path(directory), directory=True, overwrite=None)
    if options.output is not None and options.save is not None and Path(options.output) == Path(options.save):
        raise InputError(f"--output and --save are both {options.save}; choose two directories")
    needed = ["scipy", "ir_measures" if options.kind == "retrieval" else "sklearn"]
    for package in [*needed, *(["matplotlib"] if options.output is not None else [])]:
        require_optional(package, extra="lab")
    task = _task(options)
    task.split(options.seed)
    check_sides(task, candidates)
    result = sweep(
        load_model(options),
        task,
        candidates,
        seed=options.seed,
        report=lambda message: print(f"tsjax: {message}", file=sys.stderr),
        show_progress_bar=on_terminal(),
    )
    # Written first, so that a full disk does not lose the result of hours.
    print("\n".join(lines(result)), flush=True)
    if options.output is not None:
        write(result, Path(options.output))
        print(f"tsjax: wrote {options.output}", file=sys.stderr)
    if options.save is not None:
        _save(options, result)


def _task(options: argparse.Namespace) -> Task:
    from tsjax.jobs.input.formats import Reading
    from tsjax.lab.evaluation import read_classification, read_clustering, read_retrieval, read_sts

    chosen: dict[str, Any] = {} if options.measure is None else {"measure": options.measure}
    said = reading(options)
    if options.kind != "retrieval":
        chosen["reading"] = said
    match options.kind:
        case "retrieval":
            if said != Reading():
                raise InputError("a folder as BEIR has it is JSON lines and TSV; leave out how files are to be read")
            return read_retrieval(options.data, qrels=options.qrels, **chosen)
        case "sts":
            return read_sts(options.data, **chosen)
        case "classification":
            return read_classification(options.data, **chosen)
    return read_clustering(options.data, **chosen)


def _save(options: argparse.Namespace, result: SweepResult) -> None:
    from tsjax.hub import save_with

    save_with(
        options.model,
        Path(options.save),
        temperature=result.chosen.temperature,
        max_seq_length=options.max_seq_length,
        **source(options),
    )
    print(f"tsjax: wrote {options.save}, the model with {result.chosen}", file=sys.stderr)
