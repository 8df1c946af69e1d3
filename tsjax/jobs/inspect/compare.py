"""Comparison of a job's ids and rows with the input and with each other, as streams in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from tsjax.jobs.input.columns import Rejection, Row
from tsjax.jobs.input.row_digests import RowsDigest
from tsjax.jobs.inspect.audit import LineAudit
from tsjax.jobs.plan import GroupReader, group_label
from tsjax.storage.atomic import explaining
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.jobs.input.columns import Columns
    from tsjax.jobs.inspect.verdict import Verdict
    from tsjax.jobs.output.shard_record import Record
    from tsjax.jobs.plan import Plan, ShardKey, Slice

# Number of files that hashes of ids are sorted into. With 64 files and a billion ids, a file takes 250 MB.
_BUCKETS = 64


class Expected:
    """The expected ids of a group's shards, in order.

    Args:
        plan: the plan of the job.
        group: the number of the group.
        columns: the columns to read.
        verdict: the verdict that lines in no row are added to.
    """

    def __init__(self, plan: Plan, group: int, columns: Columns, verdict: Verdict) -> None:
        self._audit = LineAudit(plan.groups[group], verdict)
        self._reader = GroupReader(plan.groups[group], columns)
        self._slices = self._reader.slices(plan.rows_per_shard, group, lambda _: True, plan.bytes_per_shard)
        self._label = group_label(group, [source.name for source in plan.groups[group]])
        self._next: Slice | None = None

    def of(self, key: ShardKey) -> Iterator[Row | Rejection]:
        """Yield the rows of a shard. The rows of missing shards before it are skipped."""
        while (shard := self._next or next(self._slices, None)) is not None and shard.key <= key:
            self._next = None
            for row in shard.rows:
                self._audit.see(row)
                if shard.key == key:
                    yield row
            if shard.key == key:
                return
        self._next = shard

    def finish(self, verdict: Verdict) -> None:
        """Check that the input ends where the shards end, and that each of its lines is in a row."""
        if not self._reader.at_end():
            verdict.add(f"{self._label} has more rows than the shards cover")
        else:
            self._audit.finish()

    def close(self) -> None:
        self._audit.close()
        self._reader.close()


class InputRows:
    """The input rows of a shard, which are compared with the shard's record once they have been read.

    Args:
        rows: the rows of the input.
        rejected: file and row of each row that the record lists as rejected.
        excused: those of them that may be rejected although they can be read.
    """

    def __init__(
        self, rows: Iterator[Row | Rejection], rejected: set[tuple[str, int]], excused: set[tuple[str, int]]
    ) -> None:
        self._rows, self._rejected, self._excused = rows, rejected, excused
        self._count = 0
        self._digest = RowsDigest()
        self._first: tuple[str, int] | None = None
        self._last: tuple[str, int] | None = None
        # Only the first row of each kind of difference from the record is kept, because there may be many.
        self._forgotten: tuple[str, int] | None = None
        self._accused: tuple[str, int] | None = None
        self._found = 0

    def __iter__(self) -> Iterator[Row | Rejection]:
        return self

    def __next__(self) -> Row | Rejection:
        row = next(self._rows)
        place = (row.file, row.row)
        self._count += 1
        self._digest.add(row)
        self._first, self._last = self._first or place, place
        listed = place in self._rejected
        self._found += listed
        if isinstance(row, Rejection) and not listed:
            self._forgotten = self._forgotten or place
        elif isinstance(row, Row) and listed and place not in self._excused:
            self._accused = self._accused or place
        return row

    def compare(self, name: str, record: Record, verdict: Verdict, *, may_reject: bool) -> None:
        """Add the differences between the record and the rows to the verdict, after all rows have been read."""
        for field_, given in (("input_rows", self._count), ("first_row", self._first), ("last_row", self._last)):
            if (said := getattr(record, field_)) != given:
                verdict.add(
                    f"{name}: the record says {field_} {json.dumps(said, ensure_ascii=False)}, and the input gives "
                    f"{json.dumps(given, ensure_ascii=False)}"
                )
        # The digest covers more than the ids, and more than what a rejection changes.
        same = (record.input_rows, record.first_row, record.last_row) == (self._count, self._first, self._last)
        if same and self._forgotten is None and record.input_digest != self._digest.hexdigest():
            verdict.add(f"{name} was made of other texts, ids or kept values than the input has")
        if self._forgotten is not None:
            file, row = self._forgotten
            verdict.add(f"{name}: the record says nothing of row {row} of {file}, which cannot be embedded")
        if self._accused is not None and not may_reject:
            file, row = self._accused
            verdict.add(f"{name}: the record rejects row {row} of {file}, which can be embedded")
        if self._found < len(self._rejected):
            verdict.add(
                f"{name}: the record rejects {counted(len(self._rejected) - self._found, 'row')} that the shard does "
                "not have"
            )


class Ids:
    """A comparison of a shard's ids with those of the input."""

    def __init__(self, name: str, expected: InputRows | None, rejected: set[tuple[str, int]]) -> None:
        self._name, self._expected, self._rejected = name, expected, rejected
        self._last_chunk, self._last_id = -1, ""
        self._broken = False

    def check(self, ids: list[str], chunks: list[int] | None, verdict: Verdict) -> list[str]:
        """Compare a block's ids, and return them without the repeated ids of a text's further chunks."""
        fresh = []
        for place, name in enumerate(ids):
            chunk = 0 if chunks is None else chunks[place]
            if chunk and (name != self._last_id or chunk != self._last_chunk + 1):
                verdict.add(f"{self._name}: chunk {chunk} of {name!r} does not follow the one before it")
            self._last_chunk, self._last_id = chunk, name
            if chunk:
                continue
            fresh.append(name)
            if self._expected is not None and not self._broken:
                wanted = self._next()
                if wanted is None or wanted.id != name:
                    there = "no further row" if wanted is None else f"{wanted.id!r}"
                    verdict.add(f"{self._name} has the id {name!r} where the input has {there}")
                    self._broken = True
        return fresh

    def finish(self, verdict: Verdict) -> None:
        """Check that no id is missing after the last block."""
        if self._expected is not None and not self._broken and (row := self._next()) is not None:
            verdict.add(f"{self._name} lacks the id {row.id!r} (row {row.row} of {row.file})")
        self.drain()

    def drain(self) -> None:
        """Read the input up to the next shard."""
        if self._expected is not None:
            for _ in self._expected:
                pass

    def _next(self) -> Row | None:
        assert self._expected is not None
        for row in self._expected:
            if isinstance(row, Row) and (row.file, row.row) not in self._rejected:
                return row
        return None


class Unique:
    """A search for duplicate ids, in memory that does not grow with their number.

    Args:
        folder: folder for the hashes of the ids, 16 bytes each, in temporary files without a name. Next to the vectors
            there is room for them. The machine's folder for temporary files may be in memory, and often has no room.
            It is used only if ``folder`` cannot be written, e.g. in an output that is mounted read-only.

    Raises:
        OutputError: the hashes cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with explaining(folder):
            self._files = [self._open() for _ in range(_BUCKETS)]

    def _open(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._folder)
        except OSError:
            self._folder = Path(tempfile.gettempdir())
            return tempfile.TemporaryFile()

    def __enter__(self) -> Unique:
        return self

    def __exit__(self, *error: object) -> None:
        # Write errors have been reported before this.
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()

    def add(self, ids: list[str]) -> None:
        """Add the hashes of some ids."""
        with explaining(self._folder):
            for name in ids:
                digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
                self._files[digest[0] % _BUCKETS].write(digest)

    def report(self, verdict: Verdict) -> None:
        """Add the number of duplicate ids to the verdict."""
        twice = 0
        for file in self._files:
            with explaining(self._folder):
                file.seek(0)
                digests = np.frombuffer(file.read(), "V16")
            twice += len(digests) - len(np.unique(digests.view("u8").reshape(-1, 2), axis=0))
        if twice:
            verdict.add(f"{counted(twice, 'id comes', 'ids come')} again that had come before")
