"""The interface of a database that a job's shards can be loaded into, and the list of supported databases.

To add a database, write a module with a `Sink` and `open_sink`, and add a line to `_MODULES`.
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

# The module with `open_sink` for each URL scheme. It is imported only when it is needed.
_MODULES = {"lancedb": "tsjax.jobs.sinks.lance"}


class StoredShard(NamedTuple):
    """A shard to load into a sink.

    Attributes:
        key: the shard's key.
        label: the key and a digest of the shard's bytes; the sink stores it with every row of the shard.
        rows: number of rows, each with one vector.
        path: the shard's Parquet file.
    """

    key: ShardKey
    label: str
    rows: int
    path: Path


class Sink(Protocol):
    """A table, collection or index that holds rows of shards, each with its shard's label.

    The database itself is the only record of its rows, so no other record can disagree with it after a kill.
    Neither `add` nor `remove` has to be atomic, as long as a row and its label are written and removed together.
    """

    def counts(self) -> dict[str, int]:
        """Return the number of rows with each label, including those of other workers."""

    def remove(self, keys: Collection[ShardKey]) -> None:
        """Remove all rows of some shards, regardless of the digest in their label."""

    def add(self, shards: Sequence[StoredShard]) -> None:
        """Add all rows of some shards, none of which the sink holds yet."""


def open_sink(url: str, job: Job) -> Sink:
    """Return the sink of a URL, for this job's rows only.

    Raises:
        InputError: the database is not supported, the address is incomplete, the database cannot hold the vectors, or
            the table holds other data.
        MissingExtraError: the database's package is not installed.
        OutputError: the sink cannot be opened.
    """
    scheme, separator, address = url.partition("://")
    if not separator or scheme not in _MODULES:
        known = ", ".join(f"{name}://" for name in _MODULES)
        raise InputError(f"there is no sink for {url!r}; known are {known}, such as lancedb://DIR/TABLE")
    if job.facts["options"]["format"] != "parquet":
        raise InputError("a sink is loaded from Parquet shards; leave --format npy out, or --sink")
    sink: Sink = importlib.import_module(_MODULES[scheme]).open_sink(address, job)
    return sink
