"""The accounting of a job: its shards and manifests, independent of the engine that computes the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tsjax.errors import InputError
from tsjax.jobs.plan import ALONE, Made, Part, Plan, ShardKey, Worker, missing_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tsjax.jobs.job import Job
    from tsjax.jobs.output.directory import Output, StartedWith
    from tsjax.jobs.output.shard_record import Record


@dataclass(frozen=True)
class Summary:
    """The totals of a worker's shards, including those of earlier runs."""

    shards: int = 0
    input_rows: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    chunked: int = 0
    duplicates: int = 0
    rejected: int = 0
    computed_shards: int = 0

    def plus(self, record: Record) -> Summary:
        """Return the totals with another shard added."""
        return Summary(
            self.shards + 1,
            self.input_rows + record.input_rows,
            self.rows + record.rows,
            self.tokens + record.tokens,
            self.truncated + record.truncated,
            self.chunked + record.chunked,
            self.duplicates + record.duplicates,
            self.rejected + len(record.rejected),
            self.computed_shards,
        )


class Books:
    """The shards that an output has of a job.

    Args:
        output: the output directory.
        plan: the plan of the expected shards.
        job: the job that the shards must belong to.
    """

    def __init__(self, output: Output, plan: Plan, job: Job) -> None:
        self.output, self.plan, self.job = output, plan, job
        self._fingerprint = job.fingerprint

    def mine(self, part: Part) -> list[ShardKey]:
        """Return the shards of a part that have a readable record, in order.

        Raises:
            CheckpointError: a record cannot be read from the disk.
        """
        return [key for key in self._recorded(part) if self.output.read_record(key) is not None]

    def _recorded(self, part: Part) -> list[ShardKey]:
        return [key for key in self.output.record_keys() if self.plan.is_for(part, key)]

    def check_no_rejections(self, part: Part) -> None:
        """Raise an InputError if an earlier run rejected a row of a part."""
        for rejection in self.output.rejections(self._recorded(part)):
            raise InputError(rejection.sentence)

    def whole(self, part: Part) -> dict[ShardKey, Made]:
        """Return the shards of a part whose files match their records, with the facts of their input rows.

        Raises:
            InputError: a record belongs to another job.
        """
        found = ((key, self._whole(key)) for key in self._recorded(part))
        return {key: record.made for key, record in found if record is not None}

    def is_whole(self, key: ShardKey) -> bool:
        """Return whether a shard has a record and its files match the record.

        Raises:
            InputError: the record belongs to another job.
        """
        return self._whole(key) is not None

    def _whole(self, key: ShardKey) -> Record | None:
        record = self.output.read_record(key)
        if record is None:
            return None
        if record.job != self._fingerprint:
            raise InputError(
                f"{self.output.record_file(key)} is of another job than this; remove the folder, or choose another"
            )
        return record if self.output.is_whole(record) else None

    def groups_left(self, part: Part, done: Mapping[ShardKey, Made]) -> list[int]:
        """Return the groups in which a part has unfinished shards.

        A group whose end is not known yet is included, because it may have unfinished shards.
        """
        groups = self.plan.groups_for(part)
        last = self._last_shards(set(groups))
        rows = {key: done[key].rows for key in done}
        return [group for group in groups if group not in last or self._lacks(part, last[group], rows)]

    def _last_shards(self, groups: set[int]) -> dict[int, ShardKey]:
        """Return the last shard of each group whose end is known."""
        records = (self.output.read_record(key) for key in self.output.record_keys() if key.group in groups)
        return {record.key.group: record.key for record in records if record is not None and record.last}

    def _lacks(self, part: Part, last: ShardKey, rows: Mapping[ShardKey, int]) -> bool:
        """Return whether a part lacks shards in the group that ends with the shard ``last``."""
        group, most = last.group, self.plan.rows_per_shard
        indices = (index for index in range(last.index + 1) if self.plan.is_for(part, ShardKey(group, index)))
        return any(missing_shard(rows, group, index, most, last) is not None for index in indices)


class Engine(Protocol):
    """An engine that computes a job."""

    def join(self) -> Job:
        """Check that an existing output belongs to this job, and return the job with its ranges."""

    def compute(self, books: Books, partial: Path) -> int:
        """Compute every missing shard and return their number. Files are first written in the folder ``partial``."""


def run_job(
    engine: Engine,
    output: Output,
    plan: Plan,
    started_with: StartedWith,
    worker: Worker = ALONE,
    joined: Callable[[Job], object] = lambda job: None,
) -> Summary:
    """Compute a job, or one worker's part of it, and write its manifest.

    Args:
        engine: the engine that computes the shards.
        output: the output directory.
        plan: the plan that divides the inputs.
        started_with: the locations of the inputs and the model, for the manifest.
        worker: the worker that this process is.
        joined: called with the job before anything is computed; may refuse the job.

    Returns:
        The totals of the worker's shards, including those of earlier runs.

    Raises:
        InputError: the output belongs to another job.
        OutputError: the output cannot be written, or another process is writing to it.
    """
    with output.working(worker) as partial:
        job = engine.join()
        joined(job)
        books = Books(output, plan, job)
        if not output.manifest_file(worker).exists():
            output.write_manifest(worker, job, books.mine(worker), partial, complete=False, started_with=started_with)
        computed = engine.compute(books, partial)
        mine = books.mine(worker)
        output.write_rejected(worker, mine, partial)
        output.write_manifest(worker, job, mine, partial, complete=True, started_with=started_with)
        summary = Summary(computed_shards=computed)
        for key in mine:
            if (record := output.read_record(key)) is not None:
                summary = summary.plus(record)
    return summary
