"""What a database has to offer for a job's shards to be loaded into it, and which databases there are.

Another one is a module with `Sink` and `open_sink`, and a line in `_MODULES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tsjax.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from tsjax.jobs.job import Job
    from tsjax.jobs.plan import ShardKey

# By the scheme of a URL: the module that has `open_sink`, imported where it is asked for.
_MODULES = {"lancedb": "tsjax.jobs.sinks.lance"}


class StoredShard(NamedTuple):
    """A shard as a sink takes it.

    Attributes:
        key: which.
        label: its key and a digest of its bytes; every row that a sink takes from it is labelled so.
        rows: of it, each a vector.
        path: its Parquet file.
    """

    key: ShardKey
    label: str
    rows: int
    path: Path


class Sink(Protocol):
    """A table, collection or index that holds rows of shards, each with its shard's label.

    The database itself says what it holds, so nothing that is written elsewhere can disagree with it after a kill.
    Neither `add` nor `remove` has to be atomic, as long as rows and labels come and go together.
    """

    def counts(self) -> dict[str, int]:
        """How many rows there are of each label, those of other workers included."""

    def remove(self, keys: Collection[ShardKey]) -> None:
        """Remove all rows of some shards, whatever the digest in their label."""

    def add(self, shards: Sequence[StoredShard]) -> None:
        """Add all rows of some shards, of which there is none."""


def open_sink(url: str, job: Job) -> Sink:
    """The sink of a URL, for this job's rows only.

    Raises:
        InputError: no such kind of database, an address that says too little, vectors that it cannot hold, or a table
            that holds something else.
        MissingExtraError: the database's package is not installed.
        OutputError: it cannot be opened.
    """
    scheme, separator, address = url.partition("://")
    if not separator or scheme not in _MODULES:
        known = ", ".join(f"{name}://" for name in _MODULES)
        raise InputError(f"there is no sink for {url!r}; known are {known}, such as lancedb://DIR/TABLE")
    if job.facts["options"]["format"] != "parquet":
        raise InputError("a sink is loaded from Parquet shards; leave --format npy out, or --sink")
    sink: Sink = importlib.import_module(_MODULES[scheme]).open_sink(address, job)
    return sink
