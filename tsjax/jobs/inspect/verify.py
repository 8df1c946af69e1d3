"""Verification of an output: checksums, counts, every id of the input exactly once, no line lost, no NaN.

Counts of tokens are compared only between records and manifests, because counting them again requires the model.
Everything is read as a stream. Ids are compared with those of the input row by row, because both have the same order.
Duplicate ids are found by their hashes, which are sorted into files and checked one file at a time.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from tsjax.errors import NO_TOKENS, CheckpointError, InputError, TsjaxError
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.output_filter import OutputFilter
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.inspect.compare import Expected, Ids, InputRows, Unique
from tsjax.jobs.inspect.status import missing_shards, status
from tsjax.jobs.inspect.verdict import Verdict
from tsjax.jobs.output.directory import file_facts
from tsjax.jobs.output.precision import CALIBRATED, to_float
from tsjax.jobs.output.shard_record import summary_json
from tsjax.jobs.output.shards import Layout, read_shard
from tsjax.jobs.plan import ALONE, Plan, ShardKey, Worker
from tsjax.wording import counted, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tsjax.jobs.job import Job
    from tsjax.jobs.output.directory import Manifest, Output
    from tsjax.jobs.output.shard_record import Record

# Maximum difference of a norm from 1, by the precision that the numbers were rounded to.
_NORM_TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1e-2}


def verify(output: Output, inputs: Sequence[str] = (), *, compare_inputs: bool = True) -> Verdict:
    """Check an output. If it has no problems, merge the manifests and rejected rows of several workers.

    Args:
        output: the output.
        inputs: the job's input files, if they are no longer at the locations in the manifest.
        compare_inputs: whether to read the inputs again.

    Returns:
        The verdict, with the problems as sentences. If there are none, ``manifest.json`` and ``rejected.jsonl`` are
        complete.

    Raises:
        InputError: there is no job.
        CheckpointError: the manifests cannot be read, or are of different jobs.
        OutputError: there is no room for the hashes of the ids.
    """
    job, verdict = output.job(), Verdict(str(output.path))
    columns = Columns.from_json(job.facts["options"]["columns"])
    layout = Layout.recorded(job)
    records = _records(output, job, verdict)
    by_group: dict[int, list[Record]] = {}
    for record in records.values():
        by_group.setdefault(record.key.group, []).append(record)
    _check_names(output, records.values(), verdict)
    last = {key.group: key for key, record in records.items() if record.last}
    rows = {key: record.input_rows for key, record in records.items()}
    for problem in missing_shards(rows, last, job.group_files(), job.facts["options"]["rows_per_shard"]):
        verdict.add(problem)
    plan = _plan(output, job, inputs, verdict) if compare_inputs else None
    verdict.compared = plan is not None
    with Unique(output.path / ".tsjax") as unique:
        for group in range(len(job.facts["groups"])):
            expected = None if plan is None else Expected(plan, group, columns, verdict)
            with contextlib.closing(expected) if expected is not None else contextlib.nullcontext():
                for record in by_group.get(group, ()):
                    _check_shard(output, layout, job, record, expected, unique, verdict)
                if expected is not None:
                    expected.finish(verdict)
        unique.report(verdict)
    if not verdict.problems:
        _merge(output, job, list(records))
    else:
        verdict.advice = status(output).advice
    return verdict


def _records(output: Output, job: Job, verdict: Verdict) -> dict[ShardKey, Record]:
    """Return the job's records in order, after comparing them with its manifests."""
    records, summaries = {}, {}
    for key in output.record_keys():
        record = output.read_record(key)
        if record is None:
            verdict.add(f"the record of shard {key} cannot be read")
        elif record.job != job.fingerprint:
            verdict.add(f"shard {key} is of another job")
        else:
            records[key] = replace(record, rejected=())  # there may be many rejections; they are read again later
            verdict.rejected += len(record.rejected)
            verdict.input_rows += record.input_rows
            summaries[key] = summary_json(record)
    _check_manifests(output, summaries, verdict)
    _check_rejected(output, list(records), verdict)
    return records


def _check_names(output: Output, records: Iterable[Record], verdict: Verdict) -> None:
    """Report files in the shard folder that belong to no recorded shard, because readers take every file as a shard."""
    known = {facts.name for record in records for facts in record.files}
    for path in sorted(output.vectors.iterdir()) if output.vectors.is_dir() else ():
        # Readers ignore hidden files, e.g. those that a file system keeps for removed files.
        if path.name not in known and not path.name.startswith("."):
            verdict.add(f"{path.name} is of no shard that is recorded, and would be read with the others")


def _check_manifests(output: Output, summaries: dict[ShardKey, dict[str, Any]], verdict: Verdict) -> None:
    """Check that the shards listed in each manifest have records with the same facts."""
    for file, manifest in output.read_manifests().items():
        for listed in manifest.shards:
            key, values = listed.key, to_builtins(listed)
            summary = summaries.get(key)
            if summary is None:
                verdict.add(f"{file.name} lists shard {key}, of which there is no record")
            elif differing := [name for name in summary if values[name] != summary[name]]:
                verdict.add(f"{file.name} and the record of shard {key} differ in {', '.join(differing)}")


def _check_rejected(output: Output, keys: list[ShardKey], verdict: Verdict) -> None:
    """Compare the lists of rejected rows with the records. A missing list is written again at the end."""
    for manifest in output.read_manifests().values():
        worker = Worker(*manifest.worker)
        listed = [shard.key for shard in manifest.shards]
        if not manifest.complete or (worker == ALONE and listed != keys):
            continue  # the list is written before the manifest is complete
        file = output.rejected_file(worker)
        if file.exists() and not _lists_rejected(output, file, listed):
            verdict.add(
                f"{file.name} was changed: it is not the list of the rows that were rejected; delete it, and verify "
                "again to have it rewritten"
            )


def _plan(output: Output, job: Job, inputs: Sequence[str], verdict: Verdict) -> Plan | None:
    """Return the plan of the unchanged inputs; None if they cannot be found or have changed."""
    urls = list(inputs) or next(iter(output.read_manifests().values())).started_with.inputs
    recorded = job.facts["inputs"]
    columns = Columns.from_json(job.facts["options"]["columns"])
    try:
        readings = {facts["name"]: Reading.recorded(facts) for facts in recorded}
        found = find_sources(urls, readings, columns=columns.needed, leave_out=OutputFilter(output))
    except TsjaxError as error:
        verdict.add(f"{error}; --no-inputs leaves the comparison with the input out")
        return None
    by_name = {source.name: source for source in found}
    sources = [by_name[facts["name"]] for facts in recorded]  # in the order of the job
    for source, facts in zip(sources, recorded, strict=True):
        if source.identity() != facts:
            verdict.add(f"the input {facts['name']} is no longer what was embedded")
            return None
    left = iter(sources)
    groups = tuple(tuple(next(left) for _ in range(count)) for count in job.facts["groups"])
    options = job.facts["options"]
    return Plan(groups, options["rows_per_shard"], options["bytes_per_shard"])


def _check_shard(
    output: Output,
    layout: Layout,
    job: Job,
    record: Record,
    expected: Expected | None,
    unique: Unique,
    verdict: Verdict,
) -> None:
    verdict.shards += 1
    for facts in record.files:
        found = file_facts(output.vectors / facts.name)
        if found is None:
            verdict.add(f"{facts.name} is missing")
        elif found.bytes != facts.bytes:
            verdict.add(f"{facts.name} has {counted(found.bytes, 'byte')}, and its record says {facts.bytes:,}")
        elif found.sha256 != facts.sha256:
            verdict.add(f"{facts.name} was changed: its checksum is not that of its record")
    stored = output.read_record(record.key)
    listed = stored.rejected if stored is not None else ()
    rejected = {(rejection.file, rejection.row) for rejection in listed}
    # Without the model it is unknown whether a readable text has tokens.
    excused = {(rejection.file, rejection.row) for rejection in listed if rejection.reason == NO_TOKENS}
    name, input_rows = f"shard {record.key}", None
    if expected is not None:
        input_rows = InputRows(expected.of(record.key), rejected, excused)
    ids = Ids(name, input_rows, rejected)
    rows = 0
    try:
        for block in read_shard(layout, output.vectors, record.key):
            rows += len(block.ids)
            _check_vectors(layout, job, record.key, block.vectors, verdict)
            unique.add(ids.check(block.ids, block.chunks, verdict))
    except CheckpointError as error:
        verdict.add(str(error))
        ids.drain()
    else:
        ids.finish(verdict)
        verdict.rows += rows
        if rows != record.rows:
            verdict.add(f"{name} has {counted(rows, 'row')}, and its record says {record.rows:,}")
    if input_rows is not None:
        # A job rejects readable rows that have no tokens and, depending on its options, rows that are too long.
        by_length = job.facts["options"]["long_texts"] == "reject"
        input_rows.compare(name, record, verdict, may_reject=by_length)


def _check_vectors(layout: Layout, job: Job, key: ShardKey, stored: NDArray[Any], verdict: Verdict) -> None:
    if stored.dtype.kind != "f":
        return  # integers are always finite, and their norm is lost
    vectors = to_float(stored, layout.precision, layout.dimension, job.ranges)
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        verdict.add(f"shard {key} has {counted(bad, 'vector')} not finite")
    elif job.facts["vectors"]["normalized"] and layout.precision not in CALIBRATED and len(vectors):
        off = np.abs(np.linalg.norm(vectors, axis=1) - 1)
        if bad := int((off > _NORM_TOLERANCE[layout.precision]).sum()):
            verdict.add(f"shard {key} has {counted(bad, 'vector')} whose norm is not 1")


def _merge(output: Output, job: Job, keys: list[ShardKey]) -> None:
    """Write one manifest and one list of rejected rows, for several workers or a job that was stopped at its end."""
    manifests = output.read_manifests()
    if _is_merged(output, job, keys, manifests.get(output.manifest_file(ALONE))):
        return
    started_with = next(iter(manifests.values())).started_with
    try:
        with output.working(ALONE) as partial:
            output.write_rejected(ALONE, keys, partial)
            output.write_manifest(ALONE, job, keys, partial, complete=True, started_with=started_with)
    except OSError as error:
        said = f"{output.path} is whole and sound, but its manifests cannot be merged: {reason(error)}"
        raise InputError(said) from error


def _is_merged(output: Output, job: Job, keys: list[ShardKey], manifest: Manifest | None) -> bool:
    """Return whether the manifest and the list of rejected rows are the same as if they were written now."""
    if manifest is None or not manifest.complete or manifest.fingerprint != job.fingerprint:
        return False
    if [listed.key for listed in manifest.shards] != keys:
        return False  # the facts of each shard have been compared with the records
    return _lists_rejected(output, output.rejected_file(ALONE), keys)


def _lists_rejected(output: Output, file: Path, keys: list[ShardKey]) -> bool:
    """Return whether a file lists the rejected rows of these shards, as their records do."""
    try:
        with file.open(encoding="utf-8") as lines:
            return all(line == wanted for line, wanted in itertools.zip_longest(lines, output.rejected_lines(keys)))
    except (OSError, UnicodeDecodeError):
        return False
