"""How far a job is, from what it has left on disk; reads no vector and disturbs no worker."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsjax.jobs.plan import ShardKey

if TYPE_CHECKING:
    from tsjax.jobs.records import Output


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: its number, whether it has finished, and whether it holds its lock now; None where that is unknown."""

    name: str
    complete: bool
    running: bool | None


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        path: its output.
        shards: that are whole.
        rows: vectors in them.
        input_rows: rows of the input that they cover.
        rejected: of these, rows that could not be embedded.
        finished_share: the part of the input's bytes that lies in groups of files of which every shard is there.
        idle_seconds: since the last shard; None without any.
        workers: those that have started.
        finished: whether all workers have started and ended, and every shard is there.
    """

    path: str
    shards: int
    rows: int
    input_rows: int
    rejected: int
    finished_share: float
    idle_seconds: float | None
    workers: tuple[WorkerStatus, ...]
    finished: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.path}: {'finished' if self.finished else 'not finished'}; {self.shards:,} shards so far, with "
            f"{self.rows:,} vectors, {self.rejected:,} rows rejected",
            f"{self.finished_share:.1%} of the input's bytes are in files that are done"
            + ("" if self.idle_seconds is None else f"; the last shard came {self.idle_seconds:,.0f} s ago"),
        ]
        for worker in self.workers:
            now = {True: "running", False: "stopped", None: "unfinished"}[worker.running]
            lines.append(f"worker {worker.name}: {'finished' if worker.complete else now}")
        return lines


def status(output: Output) -> Status:
    """How far the job of an output is.

    Raises:
        InputError: there is none.
        CheckpointError: its manifests are damaged.
    """
    job, manifests = output.job(), output.read_manifests()
    rows = input_rows = rejected = shards = 0
    newest: float | None = None
    present: dict[int, set[int]] = {}
    last: dict[int, int] = {}
    for key in output.record_keys():
        record = output.read_record(key)
        if record is None:
            continue
        shards, rows, input_rows = shards + 1, rows + record.rows, input_rows + record.input_rows
        rejected += len(record.rejected)
        newest = max(newest or 0.0, output.record_file(key).stat().st_mtime)
        present.setdefault(key.group, set()).add(key.index)
        if record.last:
            last[key.group] = key.index
    sizes = job.group_bytes()
    done = [group for group, end in last.items() if present[group] >= set(range(end + 1))]
    share = sum(sizes[group] for group in done if group < len(sizes)) / (sum(sizes) or 1)
    workers = tuple(
        WorkerStatus(f"{index} of {count}", manifest["complete"], output.is_locked(index, count))
        for manifest in manifests.values()
        for index, count in [manifest["worker"]]
    )
    idle = None if newest is None else max(0.0, time.time() - newest)
    complete = [manifest["complete"] for manifest in manifests.values()]
    ended = all(complete) and all(len(complete) == manifest["worker"][1] for manifest in manifests.values())
    finished = ended and len(done) == len(sizes)
    return Status(str(output.path), shards, rows, input_rows, rejected, share, idle, workers, finished)


def missing_shards(keys: set[ShardKey], last: dict[int, int], groups: int) -> list[str]:
    """What is not there of a job's shards, in words."""
    missing = []
    highest: dict[int, int] = {}
    for key in keys:
        highest[key.group] = max(key.index, highest.get(key.group, -1))
    for group in range(groups):
        if group not in last:
            missing.append(
                f"the end of group {group} is missing: no shard says that it is the last; if the job has not finished, "
                "its command goes on with it"
            )
        end = last.get(group, highest.get(group, -1))
        missing += [
            f"shard {ShardKey(group, index)} is missing"
            for index in range(end + 1)
            if ShardKey(group, index) not in keys
        ]
    return missing
