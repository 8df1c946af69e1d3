"""Division of a corpus into shards.

The division depends on the inputs and the options alone, not on the worker that computes a shard or on the time.

Consecutive small files form a group; a large file is a group by itself. Every ``rows_per_shard`` rows of a group are a
range. A range is one shard, or several if its texts have more than ``bytes_per_shard``. Ranges are assigned to workers
and found by counting rows. Therefore planning reads no file, a worker opens only its own files and looks only at the
texts of its own ranges, and no shard depends on another.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tsjax.errors import InputError
from tsjax.jobs.defaults import BYTES_PER_SHARD
from tsjax.jobs.input.columns import Rejection, Row
from tsjax.jobs.input.row_digests import RowsDigest
from tsjax.jobs.input.rows import open_rows
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tsjax.jobs.input.columns import Columns
    from tsjax.jobs.input.reader import RowReader
    from tsjax.jobs.input.sources import Source

# Maximum bytes of a group of several files.
GROUP_BYTES = 64 << 20

# From this number of groups per worker on, complete groups are assigned, so no worker reads what another embeds. With
# fewer, single ranges are assigned and workers read past each other's rows, which costs little compared with embedding.
_GROUPS_A_WORKER = 4


@dataclass(frozen=True, order=True, slots=True)
class ShardKey:
    """The key of a shard: the numbers of the group, of the range in the group, and of the shard in the range.

    The text form omits the last number if it is 0: ``00000-00004``, then ``00000-00004_00001``, which sorts after it.
    """

    group: int
    index: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.group:05d}-{self.index:05d}" + (f"_{self.part:05d}" if self.part else "")

    @classmethod
    def parse(cls, text: str) -> ShardKey:
        """Parse the text that ``str`` gives for a key; raise a ValueError for any other text."""
        with contextlib.suppress(ValueError):
            group, rest = text.split("-")
            index, _, part = rest.partition("_")
            if str(key := cls(int(group), int(index), int(part or 0))) == text:
                return key
        raise ValueError(f"{text!r} is no shard's number")


class Made(NamedTuple):
    """The number of rows that a shard was made from, and their digest; see `RowsDigest`."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several workers that share a job without communication: number ``index``, from 0, of ``count``."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"


ALONE = Worker()


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a group, for an engine that assigns work dynamically: every ``count``-th range, from ``index`` on.

    The process that has a piece skips the ranges between its own while the device is busy with one of them.
    """

    group: int
    index: int
    count: int


Part: TypeAlias = Worker | Piece


@dataclass(frozen=True)
class Plan:
    """A division of the inputs into shards.

    Attributes:
        groups: the files of each group, in order.
        rows_per_shard: number of input rows in a range, rejected rows included; a shard has no more.
        bytes_per_shard: bytes of text in a shard, as UTF-8. A shard ends with the row that reaches this size.
    """

    groups: tuple[tuple[Source, ...], ...]
    rows_per_shard: int
    bytes_per_shard: int = BYTES_PER_SHARD

    @classmethod
    def of(
        cls,
        sources: Sequence[Source],
        rows_per_shard: int,
        bytes_per_shard: int = BYTES_PER_SHARD,
        *,
        group_bytes: int = GROUP_BYTES,
    ) -> Plan:
        """Return the plan for files."""
        groups: list[tuple[Source, ...]] = []
        together: list[Source] = []
        size = 0
        for source in sources:
            if together and size + source.size > group_bytes:
                groups.append(tuple(together))
                together, size = [], 0
            together.append(source)
            size += source.size
        if together:
            groups.append(tuple(together))
        return cls(tuple(groups), rows_per_shard, bytes_per_shard)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return all files, in order."""
        return tuple(itertools.chain.from_iterable(self.groups))

    def pieces(self, least: int) -> list[Piece]:
        """Return all ranges in at least ``least`` pieces.

        A small group is one piece. Large groups are divided into pieces of about the same number of bytes.
        """
        sizes = [sum(source.size for source in group) for group in self.groups]
        total = sum(sizes) or 1
        counts = [max(1, math.ceil(least * size / total)) for size in sizes]
        return [Piece(group, index, count) for group, count in enumerate(counts) for index in range(count)]

    def is_for(self, part: Part, key: ShardKey) -> bool:
        """Tell whether a shard belongs to a worker or a piece."""
        if isinstance(part, Piece):
            return key.group == part.group and key.index % part.count == part.index
        if len(self.groups) >= _GROUPS_A_WORKER * part.count:
            return key.group % part.count == part.index
        return (key.group + key.index) % part.count == part.index

    def groups_for(self, part: Part) -> list[int]:
        """Return the groups in which a worker or a piece has shards."""
        if isinstance(part, Piece):
            return [part.group]
        by_group = len(self.groups) >= _GROUPS_A_WORKER * part.count
        return [g for g in range(len(self.groups)) if not by_group or g % part.count == part.index]

    def share_of(self, part: Part) -> float:
        """Return the fraction of the rows of its groups that belongs to a worker or a piece."""
        whole_groups = isinstance(part, Worker) and len(self.groups_for(part)) < len(self.groups)
        return 1.0 if whole_groups else 1 / part.count


class Slice(NamedTuple):
    """The rows of a shard.

    Attributes:
        key: the key of the shard.
        rows: its rows and rejections; they must be read before the next slice is requested.
    """

    key: ShardKey
    rows: Iterator[Row | Rejection]


class GroupReader:
    """A reader of the rows of a group, one file after the other.

    Args:
        sources: the files of the group.
        columns: the columns to read.
    """

    def __init__(self, sources: Sequence[Source], columns: Columns) -> None:
        self._waiting = list(sources)[::-1]
        self._columns = columns
        self._reader: RowReader | None = None
        self._rows: Iterator[Row | Rejection] | None = None
        self._peeked: Row | Rejection | None = None
        self._bytes_behind = 0
        self._taken = 0

    def slices(
        self,
        rows_per_shard: int,
        group: int,
        wanted: Callable[[ShardKey], bool],
        bytes_per_shard: int = BYTES_PER_SHARD,
        done: Mapping[ShardKey, Made] = MappingProxyType({}),
    ) -> Iterator[Slice]:
        """Yield the shards of the wanted ranges, in order; at least one shard, which may be empty.

        Args:
            rows_per_shard: see `Plan`.
            group: the number of the group.
            wanted: function that tells whether to read the range that begins with a shard. The rows of other ranges
                are skipped by number.
            bytes_per_shard: see `Plan`.
            done: existing shards. For each, the number of rows that it was made from is skipped.

        Raises:
            InputError: a file cannot be read, or has fewer rows than a shard was made from.
        """
        for index in itertools.count():
            if index and self.at_end():
                return
            if not wanted(ShardKey(group, index)):
                self._skip(rows_per_shard)
                continue
            left = rows_per_shard
            for part in itertools.count():
                if part and (left <= 0 or self.at_end()):
                    break
                key = ShardKey(group, index, part)
                if key in done:
                    if self._skip(done[key].rows):
                        raise InputError(f"the input has fewer rows than shard {key} was made of")
                    left -= done[key].rows
                else:
                    self._taken = 0
                    yield Slice(key, self._take(left, bytes_per_shard))
                    left -= self._taken

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield all remaining rows."""
        while not self.at_end():
            yield self._pop()

    def at_end(self) -> bool:
        """Tell whether there are no more rows."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked is None

    def position(self) -> int:
        """Return the approximate number of the group's bytes that have been read."""
        return self._bytes_behind + (self._reader.position() if self._reader is not None else 0)

    def check_unchanged(self) -> None:
        """Raise an InputError if the open file has changed since the job was planned.

        Call this before recording a shard, so that no shard is made from other bytes than those that identify the job.
        Files that were read to their end have already been checked.
        """
        if self._reader is not None:
            self._reader.source.check_unchanged()

    def close(self) -> None:
        """Close the open file, if any."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _pop(self) -> Row | Rejection:
        row, self._peeked = self._peeked, None
        assert row is not None  # not at the end
        return row

    def _take(self, rows: int, most_bytes: int) -> Iterator[Row | Rejection]:
        size = 0
        while self._taken < rows and size < most_bytes and not self.at_end():
            row = self._pop()
            self._taken += 1
            if isinstance(row, Row):
                size += len(row.text) if row.text.isascii() else len(row.text.encode())
            yield row

    def _skip(self, rows: int) -> int:
        """Skip rows; return the number of rows that were missing."""
        if self._peeked is not None and rows:
            self._peeked, rows = None, rows - 1
        while rows and self._open():
            assert self._reader is not None
            self._rows = None  # this iterator may have read ahead
            rows -= self._reader.skip(rows)
            if rows:
                self._finish()
        return rows

    def _next(self) -> Row | Rejection | None:
        while self._open():
            assert self._reader is not None
            if self._rows is None:
                self._rows = self._reader.read()
            row = next(self._rows, None)
            if row is not None:
                return row
            self._finish()
        return None

    def _open(self) -> bool:
        """Open the next file if no file is open; return False if there is no file left."""
        if self._reader is None and self._waiting:
            self._reader = open_rows(self._waiting.pop(), self._columns)
            self._rows = None
        return self._reader is not None

    def _finish(self) -> None:
        assert self._reader is not None
        source = self._reader.source
        self._reader.close()
        source.check_unchanged()
        self._bytes_behind += source.size
        self._reader, self._rows = None, None


def check_made(plan: Plan, group: int, columns: Columns, done: Mapping[ShardKey, Made]) -> None:
    """Raise an InputError if shards of a group were made from other rows than its files have now.

    The check reads no further than the last of these shards.
    """
    left = {key for key in done if key.group == group}
    ranges = {key.index for key in left}
    if not left:
        return
    reader = GroupReader(plan.groups[group], columns)
    with contextlib.closing(reader):
        slices = reader.slices(
            plan.rows_per_shard, group, lambda key: key.index in ranges, bytes_per_shard=plan.bytes_per_shard
        )
        for shard in slices:
            digest = RowsDigest()
            for row in shard.rows:
                digest.add(row)
            if shard.key in left and done[shard.key].digest != digest.hexdigest():
                break
            left.discard(shard.key)
            if not left:
                return
    names = ", ".join(source.url for source in plan.groups[group][:3])
    raise InputError(
        f"{names}: the rows are not those that shard {min(left)} was made of, although size and samples of the content "
        "are the same; the input was changed, so choose another output"
    )


def group_label(group: int, files: Sequence[str]) -> str:
    """Return the label of a group in messages: its number and the names of its files."""
    more = f" and {counted(len(files) - 1, 'more file')}" if len(files) > 1 else ""
    return f"group {group} of the input ({files[0]}{more})"


def missing_shard(
    rows: Mapping[ShardKey, int], group: int, index: int, rows_per_shard: int, last: ShardKey | None
) -> ShardKey | None:
    """Return the first missing shard of a range; None if the range is complete.

    Args:
        rows: number of input rows in each existing shard.
        group: the number of the group.
        index: the number of the range in the group.
        rows_per_shard: number of rows in a complete range.
        last: the last shard of the group, which may end before a range is complete; None if it is not known.
    """
    left = rows_per_shard
    for part in itertools.count():
        key = ShardKey(group, index, part)
        if key not in rows:
            return key
        left -= rows[key]
        if left <= 0 or key == last:
            return None
    raise AssertionError  # unreachable: the loop is infinite


def parse_worker(text: str) -> Worker:
    """Parse a worker from ``i/n``, with i counted from 0.

    Raises:
        InputError: the text has another form, or there is no such worker.
    """
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal():
        raise InputError(f"a worker is written i/n, with i from 0 to n - 1, or auto; not {text!r}")
    worker = Worker(int(index), int(count))
    if worker.index >= worker.count:
        raise InputError(f"there is no worker {worker.index} of {worker.count}: they are counted from 0")
    return worker
