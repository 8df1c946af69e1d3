"""Shards that are on disk into a sink: each row once, however often it was stopped, or by however many at once.

The shards stay the truth. What a sink lacks, or has otherwise, is found by counting its rows by label: so a job that is
killed between two steps goes on with the next, a finished output can be loaded without embedding anything, and what a
second process added by mistake is put right.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from tsjax.errors import CheckpointError, OutputError
from tsjax.jobs.plan import ShardKey
from tsjax.jobs.sinks.sink import StoredShard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tsjax.jobs.output.directory import Output
    from tsjax.jobs.output.shard_record import Record
    from tsjax.jobs.sinks.sink import Sink

# Rows that are added at a time: fewer steps make fewer and larger pieces in the database, and a kill costs one step.
ROWS_A_STEP = 1 << 18

# How often what others did meanwhile is put right before it is a fault.
_ROUNDS = 5


class Loaded(NamedTuple):
    """What a sink has of some shards, and how many of them were loaded just now."""

    shards: int
    rows: int
    added_shards: int


def load(output: Output, keys: Iterable[ShardKey], sink: Sink, rows_a_step: int = ROWS_A_STEP) -> Loaded:
    """Have a sink hold every row of these shards exactly once.

    Args:
        output: where the shards are.
        keys: which.
        sink: where to.
        rows_a_step: rows that are added at a time, about; a whole shard at least.

    Raises:
        OutputError: the sink cannot be written, or does not come to hold them.
        CheckpointError: a shard that is not what its record says, or cannot be read.
    """
    shards = list(_stored(output, keys))
    added: set[ShardKey] = set()
    for _ in range(_ROUNDS):
        wrong, missing = _compare(shards, sink.counts())
        if not missing and not wrong:
            return Loaded(len(shards), sum(shard.rows for shard in shards), len(added))
        for shard in missing:
            record = output.read_record(shard.key)
            if record is None or label(record) != shard.label or not output.is_whole(record):
                raise CheckpointError(f"{shard.path} is not what its record says; run the job again")
        if wrong:
            sink.remove(wrong)
        for step in _steps(missing, rows_a_step):
            sink.add(step)
            added.update(shard.key for shard in step)
    raise OutputError(
        f"the sink does not come to hold the shards of {output.path}, after {_ROUNDS} attempts; if another process is "
        "changing the same rows, stop it and run this again"
    )


def _stored(output: Output, keys: Iterable[ShardKey]) -> Iterator[StoredShard]:
    for key in keys:
        record = output.read_record(key)
        if record is None:
            raise OutputError(f"the record of shard {key} cannot be read any more; run the job again")
        yield StoredShard(key, label(record), record.rows, output.vectors / record.files[0].name)


def label(record: Record) -> str:
    """What the rows of a shard are labelled with: its key, and a digest of its bytes."""
    digest = hashlib.sha256("".join(file.sha256 for file in record.files).encode()).hexdigest()
    return f"{record.key}/{digest[:16]}"


def _compare(shards: Sequence[StoredShard], counts: dict[str, int]) -> tuple[set[ShardKey], list[StoredShard]]:
    """The keys of which a sink has other rows than it should, and the shards that it needs."""
    wanted = {shard.key: shard for shard in shards}
    wrong = set()
    for found, count in counts.items():
        with contextlib.suppress(ValueError):  # a label that nobody here has given
            shard = wanted.get(ShardKey.parse(found.partition("/")[0]))
            if shard is not None and (found, count) != (shard.label, shard.rows):
                wrong.add(shard.key)
    missing = [shard for shard in shards if shard.rows and (shard.key in wrong or shard.label not in counts)]
    return wrong, missing


def _steps(shards: Sequence[StoredShard], rows: int) -> Iterator[list[StoredShard]]:
    """Shards together up to so many rows."""
    step: list[StoredShard] = []
    for shard in shards:
        if step and sum(other.rows for other in step) + shard.rows > rows:
            yield step
            step = []
        step.append(shard)
    if step:
        yield step
