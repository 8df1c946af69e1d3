"""A shard's record: what is known of a shard that is whole, strictly read back from JSON that may have been changed."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tsjax.jobs.input.columns import Rejection
from tsjax.jobs.plan import Made, ShardKey

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class ShardFile:
    """A file of a shard: its name in ``vectors/``, its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A shard that is whole.

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
        rejected: rows that could not be embedded.
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
    rejected: tuple[Rejection, ...]
    files: tuple[ShardFile, ...]

    @property
    def key(self) -> ShardKey:
        """Which shard."""
        return ShardKey.parse(self.shard)

    @property
    def made(self) -> Made:
        """What is known of the rows that the shard was made of."""
        return Made(self.input_rows, self.input_digest)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        rejected = [rejection.to_json() for rejection in self.rejected]
        return {**asdict(self), "rejected": rejected}

    def summary(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {**self.to_json(), "rejected": len(self.rejected)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The inverse of `to_json`; a LookupError, TypeError or ValueError where it is none."""
        if not isinstance(data["rejected"], list) or not isinstance(data["files"], list):
            raise TypeError("a record's rejected rows and files are lists")
        record = cls(
            **{
                **data,
                "rejected": tuple(Rejection(**rejection) for rejection in data["rejected"]),
                "files": tuple(ShardFile(**file) for file in data["files"]),
                "first_row": data["first_row"] and tuple(data["first_row"]),
                "last_row": data["last_row"] and tuple(data["last_row"]),
            }
        )
        record._check_types()
        record.key  # noqa: B018  # a ValueError where it cannot be read
        return record

    def _check_types(self) -> None:
        """A TypeError where JSON that was changed has something of another type than what was written."""
        counts = (self.input_rows, self.rows, self.tokens, self.truncated, self.chunked, self.duplicates)
        ends = [end for end in (self.first_row, self.last_row) if end is not None]
        files = [(file.name, file.bytes, file.sha256) for file in self.files]
        rejected = [(one.file, one.row, 0 if one.line is None else one.line, one.reason) for one in self.rejected]
        if not (
            are([self.shard, self.job, self.input_digest], str)
            and isinstance(self.last, bool)
            and are(counts, int)
            and all(len(end) == 2 and are(end[:1], str) and are(end[1:], int) for end in ends)
            and all(are((name, digest), str) and are((size,), int) for name, size, digest in files)
            and all(are((file, reason), str) and are((row, line), int) for file, row, line, reason in rejected)
        ):
            raise TypeError(f"the record of shard {self.shard!r} has a value of another type than it should")


def names_shard(listed: object) -> bool:
    """Whether it is what a manifest says of a shard."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return isinstance(listed, dict) and str(ShardKey.parse(listed.get("shard", ""))) == listed["shard"]
    return False


def are(values: Iterable[object], kind: type) -> bool:
    """Whether all are of a type; true and false are no numbers."""
    return all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
