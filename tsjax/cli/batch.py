"""``tsjax batch``: embed a corpus into shards of vectors, in a job that can be interrupted and resumed."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from tsjax.cli.batch_ray import add_engine_options, check_engine_options, ray_runner
from tsjax.cli.options import (
    add_compile_cache_option,
    add_device_options,
    add_embedding_options,
    add_reading_options,
    load_model,
    on_terminal,
    reading,
    source,
)
from tsjax.errors import CheckpointError, InputError
from tsjax.wording import counted

if TYPE_CHECKING:
    from tsjax.jobs.job import Job
    from tsjax.jobs.output.directory import Output
    from tsjax.jobs.plan import Plan, Worker
    from tsjax.jobs.run.accounting import Summary
    from tsjax.jobs.run.progress import Reporter
    from tsjax.jobs.sinks.sink import Sink


def add(commands: Any) -> None:
    command = commands.add_parser(
        "batch",
        help="a corpus to shards of vectors, resumable, on one machine or many",
        description="Embed a corpus into shards. Killed at any moment and started again with the same command, it ends "
        "with the same bytes. `tsjax batch status OUT` says how far it is, `tsjax batch verify OUT` whether all is "
        "there and sound.",
        epilog="example: tsjax batch --input scripts/demo.jsonl --output build/demo --temperature 0.9",
    )
    command.set_defaults(command=run)
    actions = command.add_subparsers(title="actions on an output", metavar="ACTION")
    status = actions.add_parser(
        "status",
        help="how far a job is",
        description="Say how far a job is, and what is missing of it. Reads no shard, and ends with 0 whether or not "
        "the job has finished.",
    )
    status.set_defaults(command=run_status)
    verify = actions.add_parser(
        "verify",
        help="whether an output is whole and sound",
        description="Check an output: every checksum and row count, every row of the input as it was embedded, every "
        "id exactly once, no NaN, norms of 1 where vectors are normalised. Merges the manifests of several workers. "
        "Ends with 2 where anything is missing or wrong.",
    )
    verify.set_defaults(command=run_verify)
    verify.add_argument(
        "--input", metavar="FILE", nargs="+", action="extend", default=[], help="the job's inputs, if they have moved"
    )
    verify.add_argument("--no-inputs", action="store_true", help="do not read the inputs again to compare the ids")
    for action in (status, verify):
        action.add_argument("output", metavar="OUT", help="the job's output")
        action.add_argument("--json", action="store_true", help="say it as JSON")
    _add_inputs(command)
    _add_model(command)
    _add_outputs(command)
    add_engine_options(command)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("input")
    group.add_argument(
        "--input",
        metavar="FILE",
        nargs="+",
        action="extend",
        default=[],
        help="files or patterns ('corpus/*.parquet', 's3://bucket/*.jsonl.gz'): .parquet, .arrow, .jsonl, .json, .csv, "
        ".tsv, or one text a line; also .gz, .zst, .bz2 and .xz. Folders such as lang=en/ are columns",
    )
    add_reading_options(group)
    group.add_argument("--text-column", metavar="NAME", help="column of the text (default: text)")
    group.add_argument(
        "--template", metavar="T", help=r"text of several columns instead: '{title}\n{body}'; null ones are left empty"
    )
    group.add_argument("--id-column", metavar="NAME", help="column of the id (default: file:row)")
    group.add_argument("--keep", metavar="NAME", nargs="+", action="extend", default=[], help="columns to keep")
    group.add_argument(
        "--on-error",
        choices=("reject", "fail"),
        default="reject",
        help="list rows that cannot be embedded in rejected.jsonl (default), or stop at the first",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    group: Any = command.add_argument_group("model")
    add_embedding_options(group)
    group.add_argument(
        "--max-seq-length", metavar="N", type=int, help="tokens at which a text is too long (default: the model's)"
    )
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    group.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch on each device")
    group.add_argument(
        "--long-texts",
        choices=("cut", "chunk", "late", "reject"),
        default="cut",
        help="texts over the limit are cut (default); embedded as the weighted mean of their chunks; given one vector "
        "a chunk, pooled late; or rejected",
    )
    group.add_argument("--chunk-tokens", metavar="N", type=int, help="the most tokens of a chunk")
    group.add_argument(
        "--overlap-tokens", metavar="N", type=int, default=0, help="tokens that consecutive chunks or windows share"
    )
    group.add_argument("--deduplicate", action="store_true", help="embed equal texts of a shard once")
    add_device_options(group)
    add_compile_cache_option(group)


def _add_outputs(command: argparse.ArgumentParser) -> None:
    from tsjax.jobs.defaults import BYTES_PER_SHARD, CALIBRATION_ROWS, ROWS_PER_SHARD

    group = command.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="OUT", help="a folder; of the same job, if there is something in it")
    group.add_argument("--format", choices=("parquet", "npy"), default="parquet", help="of the shards")
    group.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16", "int8", "uint8", "binary", "ubinary"),
        default="float32",
        help="to store (default: float32)",
    )
    group.add_argument(
        "--calibration-rows",
        metavar="N",
        type=int,
        default=CALIBRATION_ROWS,
        help=f"for int8 and uint8: take ranges from so many first rows (default: {CALIBRATION_ROWS:,})",
    )
    group.add_argument(
        "--rows-per-shard",
        metavar="N",
        type=int,
        default=ROWS_PER_SHARD,
        help=f"rows of the input in a shard at the most (default: {ROWS_PER_SHARD:,}); what a killed job does again",
    )
    group.add_argument(
        "--bytes-per-shard",
        metavar="N",
        type=int,
        help="bytes of text, as UTF-8: the row with which a shard reaches them is its last, before it has "
        f"--rows-per-shard (default: 1,024 for each of these, {BYTES_PER_SHARD:,} at least)",
    )
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="be worker I of N, counted from 0, on the same output; auto: as Slurm, Kubernetes, a TPU slice, "
        "jax.distributed, RANK or OpenMPI say",
    )
    group.add_argument(
        "--sink",
        metavar="URL",
        help="then load the vectors into a database too: lancedb://DIR/TABLE. A finished output is only loaded, by the "
        "same command with this added",
    )
    group.add_argument("--json-log", action="store_true", help="progress and summary as JSON, one object a line")


def run(options: argparse.Namespace) -> None:
    if not options.input or options.output is None:
        raise InputError("tsjax batch needs --input and --output, or one of the actions status and verify")
    from tsjax.jobs.defaults import bytes_per_shard
    from tsjax.jobs.input.columns import Columns
    from tsjax.jobs.input.output_filter import OutputFilter
    from tsjax.jobs.input.rows import check_columns
    from tsjax.jobs.input.sources import find_sources
    from tsjax.jobs.job import Job, Model, Options
    from tsjax.jobs.output.directory import Output
    from tsjax.jobs.plan import Plan, Worker
    from tsjax.jobs.run.progress import Reporter
    from tsjax.jobs.run.worker_loop import JobRunner
    from tsjax.jobs.sinks.sink import open_sink

    check_engine_options(options)
    reporter = Reporter(as_json=options.json_log, terminal=on_terminal())
    worker = _worker(options.shard, reporter) if options.engine == "local" else None
    cut = bytes_per_shard(options.rows_per_shard) if options.bytes_per_shard is None else options.bytes_per_shard
    columns = Columns(options.text_column or "text", options.template, options.id_column, tuple(options.keep))
    chosen = Options(
        columns=columns,
        rows_per_shard=options.rows_per_shard,
        bytes_per_shard=cut,
        file_format=options.format,
        precision=options.precision,
        normalize=options.normalize,
        long_texts=options.long_texts,
        chunk_tokens=options.chunk_tokens,
        overlap_tokens=options.overlap_tokens,
        deduplicate=options.deduplicate,
        calibration_rows=options.calibration_rows,
    )
    output = Output(options.output)
    leave_out = OutputFilter(output, lambda sentence: reporter.say("left_out", sentence))
    sources = find_sources(options.input, reading(options), columns=columns.needed, leave_out=leave_out)
    check_columns(sources, columns, named=options.text_column is not None)
    plan = Plan.of(sources, options.rows_per_shard, cut)
    sinks: list[Sink] = []
    arguments: dict[str, Any] = {
        "options": chosen,
        "plan": plan,
        "output": output,
        "on_error": options.on_error,
        "reporter": reporter,
        "model_source": {"model": options.model, **source(options)},
    }

    def joined(job: Job) -> None:
        """Report problems with the database before the work starts, because the work may take days."""
        sinks.extend([] if options.sink is None else [open_sink(options.sink, job)])

    if worker is None:
        summary = ray_runner(options, **arguments).run(joined)
    else:
        model = Model.of(load_model(options), options.task, options.prompt_name, options.prompt)
        joined(Job.of(model, chosen, plan))
        summary = JobRunner(model, worker=worker, **arguments).run()
    _summarise(reporter, summary, options.output, output.job().facts["model"]["max_seq_length"])
    for sink in sinks:
        _load(sink, options.sink, output, plan, worker or Worker(), reporter)
    alone = worker is None or worker == Worker()  # the part of one of several workers may contain only bad rows
    if alone and summary.input_rows and not summary.rows:
        first = next(output.rejections(output.record_keys()))
        raise InputError(
            f"no row could be embedded: {first.file}, row {first.row}: {first.reason}; {options.output}/rejected.jsonl "
            "lists them all"
        )


def _load(sink: Sink, url: str, output: Output, plan: Plan, worker: Worker, reporter: Reporter) -> None:
    """Load the vectors that this worker has written into the database."""
    from tsjax.jobs.sinks.loading import load

    with output.working(worker):
        loaded = load(output, [key for key in output.record_keys() if plan.is_for(worker, key)], sink)
    rows, shards = counted(loaded.rows, "row"), counted(loaded.shards, "shard")
    text = f"{url} holds {rows} of {shards} ({loaded.added_shards:,} added now)"
    reporter.say("sink", text, url=url, **loaded._asdict())


def _worker(shard: str | None, reporter: Reporter) -> Worker:
    """Return the requested worker; the environment counts only where it was requested."""
    from tsjax.jobs.plan import Worker, parse_worker
    from tsjax.jobs.run.worker_identity import find_worker

    if shard is not None and shard != "auto":
        return parse_worker(shard)
    try:
        found = find_worker()
    except InputError:
        if shard is None:
            return Worker()  # no worker was requested
        raise
    if shard is None:
        if found is not None:
            what = f"{found.by} says that this is worker {found.worker.index} of {found.worker.count}"
            reporter.say("worker", f"{what}, but all is embedded here; --shard auto would share it out")
        return Worker()
    if found is None:
        raise InputError(
            "--shard auto found no worker: neither jax.distributed nor Slurm, Kubernetes (JOB_COMPLETION_INDEX and "
            "JOB_COMPLETIONS), a TPU slice, RANK nor OpenMPI says that there are several; say --shard i/n"
        )
    reporter.say(
        "worker",
        f"worker {found.worker.index} of {found.worker.count}, by {found.by}",
        index=found.worker.index,
        count=found.worker.count,
        by=found.by,
    )
    return found.worker


def _summarise(reporter: Reporter, summary: Summary, output: str, limit: int) -> None:
    import dataclasses

    figures = reporter.figures()
    text = (
        f"{counted(summary.rows, 'vector')} of {counted(summary.input_rows, 'row')} in "
        f"{counted(summary.shards, 'shard')} "
        f"({summary.computed_shards:,} computed now), {summary.rejected:,} rejected, "
        f"{counted(summary.duplicates, 'duplicate')}; {counted(summary.truncated, 'text')} cut at {limit} tokens, "
        f"{summary.chunked:,} in chunks; written to "
        f"{output}"
    )
    if summary.rejected:
        text += f"\ntsjax: the rejected rows are listed with their reasons in {output}/rejected*.jsonl"
    if figures.get("tokens"):
        text += (
            f"\ntsjax: {counted(figures['tokens'], 'token')} in {figures['seconds']:,.1f} s "
            f"({figures['tokens_per_second']:,.0f} tokens/s, compiling included; "
            f"{figures['padding_share']:.0%} of the computed tokens were padding)"
        )
    reporter.say("done", text, **dataclasses.asdict(summary), run=figures)


def run_status(options: argparse.Namespace) -> None:
    from tsjax.jobs.inspect.status import status
    from tsjax.jobs.output.directory import Output

    found = status(Output(options.output))
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        print("\n".join(found.lines()))


def run_verify(options: argparse.Namespace) -> None:
    from tsjax.jobs.inspect.verify import verify
    from tsjax.jobs.output.directory import Output

    found = verify(Output(options.output), inputs=options.input, compare_inputs=not options.no_inputs)
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        for problem in found.problems:
            print(problem)
    sys.stdout.flush()
    if found.problems:
        count = len(found.problems)
        advice = f"; {found.advice}" if found.advice else ""
        raise CheckpointError(f"{options.output} has {counted(count, 'problem')}{advice}")
    if not options.json:
        print(found.sentence())
