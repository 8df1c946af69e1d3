"""The record of a complete shard, with strict reading from JSON, because the file may have been changed."""

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
    """The facts of a complete shard, as in its record or in a manifest.

    Attributes:
        shard: the shard's key as text.
        job: the job's fingerprint.
        last: whether the shard is the last of its group.
        first_row, last_row: the shard's first and last row of the input, ``[file, row]``; None if it has no rows.
        input_rows: number of input rows, including rejected ones.
        input_digest: digest of these rows, 32 hexadecimal digits; see `tsjax.jobs.input.row_digests.RowsDigest`.
        rows: number of vectors.
        tokens: number of embedded tokens, including special tokens; duplicates count once.
        truncated: number of truncated texts.
        chunked: number of texts with more than one chunk.
        duplicates: number of rows that share the vector of another row.
        rejected: the rows that could not be embedded; in a manifest, their number.
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
        self.key  # noqa: B018  # raises a ValueError if the key cannot be parsed

    @property
    def key(self) -> ShardKey:
        """Return the shard's key."""
        return ShardKey.parse(self.shard)

    @property
    def made(self) -> Made:
        """Return the number and the digest of the input rows that the shard was made of."""
        return Made(self.input_rows, self.input_digest)


Record: TypeAlias = ShardFacts[tuple[Rejection, ...]]
ListedShard: TypeAlias = ShardFacts[int]


def record_json(record: Record) -> dict[str, Any]:
    """Return a record as plain JSON values."""
    return {**to_builtins(record), "rejected": [rejection.to_json() for rejection in record.rejected]}


def summary_json(record: Record) -> dict[str, Any]:
    """Return a record as a manifest lists it."""
    return {**to_builtins(record), "rejected": len(record.rejected)}
