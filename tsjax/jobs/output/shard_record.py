"""A shard's record: what is known of a shard that is whole, strictly read back from JSON that may have been changed."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct, to_builtins

from tsjax.jobs.input.columns import Rejection
from tsjax.jobs.plan import Made, ShardKey

R = TypeVar("R")


class ShardFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a shard: its name in ``vectors/``, its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


class ShardFacts(Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shard that is whole: as its record has it, or as a manifest lists it.

    Attributes:
        shard: which.
        job: the job's fingerprint.
        last: whether it is the last of its group.
        first_row, last_row: its first and last row of the input, ``[file, row]``; None for no rows.
        input_rows: rows of the input, rejected ones included.
        input_digest: of these rows, 32 hexadecimal digits; see `tsjax.jobs.input.row_digests.RowsDigest`.
        rows: vectors.
        tokens: that were embedded, special ones included; of duplicates once.
        truncated: texts that lost their end.
        chunked: texts of more than one chunk.
        duplicates: rows that have another's vector.
        rejected: rows that could not be embedded; in a manifest their number.
        files: the shard's files.
    """

    shard: str
    job: str
    last: bool
    first_row: tuple[str, int] | None
    last_row: tuple[str, int] | None
    input_rows: int
    input_digest: str
    rows: int
    tokens: int
    truncated: int
    chunked: int
    duplicates: int
    rejected: R
    files: tuple[ShardFile, ...]

    def __post_init__(self) -> None:
        self.key  # noqa: B018  # a ValueError where it cannot be read

    @property
    def key(self) -> ShardKey:
        """Which shard."""
        return ShardKey.parse(self.shard)

    @property
    def made(self) -> Made:
        """What is known of the rows that the shard was made of."""
        return Made(self.input_rows, self.input_digest)


Record: TypeAlias = ShardFacts[tuple[Rejection, ...]]
ListedShard: TypeAlias = ShardFacts[int]


def record_json(record: Record) -> dict[str, Any]:
    """Return a record as plain JSON values."""
    return {**to_builtins(record), "rejected": [rejection.to_json() for rejection in record.rejected]}


def summary_json(record: Record) -> dict[str, Any]:
    """Return what a manifest says of a record."""
    return {**to_builtins(record), "rejected": len(record.rejected)}
