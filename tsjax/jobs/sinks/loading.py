"""Loading of shards from disk into a sink: each row exactly once, despite interruptions and concurrent processes.

The shards on disk are the source of truth. Missing and wrong rows of a sink are found by counting its rows by label.
This has three consequences:

- A job that is killed between two steps continues with the next step.
- A finished output can be loaded without embedding anything.
- Rows that a second process added by mistake are corrected.
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

# Rows that are added at a time. Fewer steps make fewer and larger fragments in the database; a kill costs one step.
ROWS_A_STEP = 1 << 18

# Number of rounds that correct concurrent changes of other processes before an error is raised.
_ROUNDS = 5


class Loaded(NamedTuple):
    """The number of the given shards and rows that a sink holds, and of the shards that this call added."""

    shards: int
    rows: int
    added_shards: int


def load(output: Output, keys: Iterable[ShardKey], sink: Sink, rows_a_step: int = ROWS_A_STEP) -> Loaded:
    """Load every row of these shards into a sink exactly once.

    Args:
        output: the output with the shards.
        keys: the shards to load.
        sink: the sink.
        rows_a_step: approximate number of rows that are added at a time; at least one complete shard.

    Raises:
        OutputError: the sink cannot be written, or still lacks shards after all attempts.
        CheckpointError: a shard differs from its record, or cannot be read.
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
    """Return the label of a shard's rows: the shard's key and a digest of its bytes."""
    digest = hashlib.sha256("".join(file.sha256 for file in record.files).encode()).hexdigest()
    return f"{record.key}/{digest[:16]}"


def _compare(shards: Sequence[StoredShard], counts: dict[str, int]) -> tuple[set[ShardKey], list[StoredShard]]:
    """Return the keys of the shards whose rows in a sink are wrong, and the shards that must be added."""
    wanted = {shard.key: shard for shard in shards}
    wrong = set()
    for found, count in counts.items():
        with contextlib.suppress(ValueError):  # a label that tsjax has not written
            shard = wanted.get(ShardKey.parse(found.partition("/")[0]))
            if shard is not None and (found, count) != (shard.label, shard.rows):
                wrong.add(shard.key)
    missing = [shard for shard in shards if shard.rows and (shard.key in wrong or shard.label not in counts)]
    return wrong, missing


def _steps(shards: Sequence[StoredShard], rows: int) -> Iterator[list[StoredShard]]:
    """Yield groups of shards with at most ``rows`` rows together, or a single larger shard."""
    step: list[StoredShard] = []
    for shard in shards:
        if step and sum(other.rows for other in step) + shard.rows > rows:
            yield step
            step = []
        step.append(shard)
    if step:
        yield step
