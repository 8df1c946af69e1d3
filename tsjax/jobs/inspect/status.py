"""The status of a job, from its files on disk. No vector is read and no worker is disturbed."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsjax.jobs.plan import ShardKey, group_label, missing_shard
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tsjax.jobs.output.directory import Output

# Maximum number of sentences about missing parts.
_MOST_MISSING = 100


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: its name, whether it has finished, and whether it is running, i.e. holds its lock; None if unknown."""

    name: str
    complete: bool
    running: bool | None


@dataclass(frozen=True)
class Status:
    """The status of a job.

    Attributes:
        path: the path of the output.
        shards: number of shards that have a record, and files with the sizes of the record.
        rows: number of vectors in these shards.
        input_rows: number of input rows that the shards cover.
        rejected: number of these rows that could not be embedded.
        finished_share: share of the input's bytes in groups of files that have all their shards.
        idle_seconds: seconds since the last shard; None if there is no shard.
        workers: the workers that have started.
        missing: what is left to do or to repair, one sentence each; the first hundred.
        finished: whether nothing is missing: every shard exists, and one worker, or all of several, have finished.
    """

    path: str
    shards: int
    rows: int
    input_rows: int
    rejected: int
    finished_share: float
    idle_seconds: float | None
    workers: tuple[WorkerStatus, ...]
    missing: tuple[str, ...]
    finished: bool

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain JSON values."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the status as lines of text for people."""
        lines = [
            f"{self.path}: {'finished' if self.finished else 'not finished'}; {counted(self.shards, 'shard')} of "
            f"{counted(self.input_rows, 'row')} of the input so far: {counted(self.rows, 'vector')}, "
            f"{counted(self.rejected, 'row')} rejected",
            self._files_done()
            + ("" if self.idle_seconds is None else f"; the last shard came {self.idle_seconds:,.0f} s ago"),
        ]
        for worker in self.workers:
            now = {True: "running", False: "stopped", None: "unfinished"}[worker.running]
            lines.append(f"worker {worker.name}: {'finished' if worker.complete else now}")
        if not any(worker.running for worker in self.workers):
            lines.extend(self.missing)
        return [*lines, self.advice] if self.advice else lines

    @property
    def advice(self) -> str:
        """Return advice for a job that has not finished; empty if it has finished or a worker is running."""
        if self.finished or any(worker.running for worker in self.workers):
            return ""
        again = "give the same command again, and it goes on where it stopped"
        if any(worker.running is None for worker in self.workers):
            return f"the job has not finished, and whether a worker is running cannot be seen here; if none is, {again}"
        return f"the job has stopped (no worker is running): {again}"

    def _files_done(self) -> str:
        """Describe the share of the input in finished files.

        Only complete files count: a row's share of its file is known only at the end of the file.
        """
        if not self.finished_share and not self.finished:
            return "no file of the input is done to its end yet (small files are done several at a time)"
        return f"files that are done to their end make up {self.finished_share:.1%} of the input's bytes"


def status(output: Output, *, ask_locks: bool = True) -> Status:
    """Return the status of the job of an output.

    Args:
        output: the output.
        ask_locks: whether to find out which workers are running. This takes each worker's lock for a moment.

    Raises:
        InputError: there is no job.
        CheckpointError: the manifests are damaged.
    """
    job, manifests = output.job(), output.read_manifests()
    rows = input_rows = rejected = 0
    newest: float | None = None
    present: dict[ShardKey, int] = {}
    last: dict[int, ShardKey] = {}
    missing: list[str] = []
    for key in output.record_keys():
        record = output.read_record(key)
        if record is None or record.job != job.fingerprint:
            missing.append(f"the record of shard {key} cannot be read, or is of another job")
        elif not output.has_files(record):
            missing.append(f"the files of shard {key} are missing, or not as large as its record says")
        else:
            present[key], rows, input_rows = record.input_rows, rows + record.rows, input_rows + record.input_rows
            rejected += len(record.rejected)
            newest = max(newest or 0.0, output.record_file(key).stat().st_mtime)
            if record.last:
                last[key.group] = key
    sizes = job.group_bytes()
    gaps = dict(_gaps(present, last, job.group_files(), job.facts["options"]["rows_per_shard"]))
    missing += itertools.chain.from_iterable(gaps.values())
    share = sum(size for group, size in enumerate(sizes) if group not in gaps) / (sum(sizes) or 1)
    workers = tuple(
        WorkerStatus(f"{index} of {count}", manifest.complete, output.is_locked(index, count) if ask_locks else None)
        for manifest in manifests.values()
        for index, count in [manifest.worker]
    )
    complete: dict[int, list[bool]] = {}
    for manifest in manifests.values():
        complete.setdefault(manifest.worker[1], []).append(manifest.complete)
    # The job is complete with one worker that did everything, e.g. after a merge of manifests, or with all of several.
    if not any(len(ended) == count and all(ended) for count, ended in complete.items()):
        missing += [f"worker {worker.name} has not finished" for worker in workers if not worker.complete]
        missing += [
            f"not started: {counted(count - len(ended), 'worker')} of {count:,}"
            for count, ended in complete.items()
            if len(ended) < count
        ]
    idle = None if newest is None else max(0.0, time.time() - newest)
    return Status(
        path=str(output.path),
        shards=len(present),
        rows=rows,
        input_rows=input_rows,
        rejected=rejected,
        finished_share=share,
        idle_seconds=idle,
        workers=workers,
        missing=tuple(missing[:_MOST_MISSING]),
        finished=not missing,
    )


def missing_shards(
    rows: Mapping[ShardKey, int], last: Mapping[int, ShardKey], groups: Sequence[Sequence[str]], rows_per_shard: int
) -> list[str]:
    """Describe the missing shards of a job, one sentence per gap.

    Args:
        rows: number of input rows in each existing shard.
        last: the last shard of each group whose end is known.
        groups: the names of the files of each group.
        rows_per_shard: number of rows of a complete range.
    """
    return [sentence for _, sentences in _gaps(rows, last, groups, rows_per_shard) for sentence in sentences]


def _gaps(
    rows: Mapping[ShardKey, int], last: Mapping[int, ShardKey], groups: Sequence[Sequence[str]], rows_per_shard: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield each incomplete group with the descriptions of its missing shards."""
    highest: dict[int, ShardKey] = {}
    for key in rows:
        highest[key.group] = max(key, highest.get(key.group, key))
    for group, files in enumerate(groups):
        sentences = []
        if group not in last:
            sentences.append(f"the end of {group_label(group, files)} is missing: no shard says that it is the last")
        end = last.get(group, highest.get(group))
        for index in range(end.index + 1 if end is not None else 0):
            gap = missing_shard(rows, group, index, rows_per_shard, last.get(group))
            # If the end of a group is missing, the end of its last range is missing too.
            if gap is not None and (group in last or gap < highest[group]):
                sentences.append(f"shard {gap} is missing")
        if sentences:
            yield group, sentences
