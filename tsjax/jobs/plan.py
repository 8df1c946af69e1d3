"""How a corpus is cut into shards: by the inputs and the options alone, whichever worker computes which of them when.

Consecutive small files make up a group, a large file is one of its own. Every ``rows_per_shard`` rows of a group are a
range, and a range is one shard, or several where its texts have more than ``bytes_per_shard``. Ranges are dealt out to
workers, and found by counting rows. So nothing has to be read to plan, a worker opens its own files only and looks at
the texts of its own ranges only, and no shard depends on another.
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

# Files are put together up to so many bytes.
GROUP_BYTES = 64 << 20

# With so many groups a worker, whole groups are dealt out: no worker then reads what another embeds. With fewer, shards
# are, and workers read over each other's, which costs little beside embedding.
_GROUPS_A_WORKER = 4


@dataclass(frozen=True, order=True, slots=True)
class ShardKey:
    """Which shard: the group's number, that of the range of rows in the group, and that of the shard in the range.

    As text the last is left out where it is 0: ``00000-00004``, then ``00000-00004_00001``, which sorts behind it.
    """

    group: int
    index: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.group:05d}-{self.index:05d}" + (f"_{self.part:05d}" if self.part else "")

    @classmethod
    def parse(cls, text: str) -> ShardKey:
        """The inverse of ``str``; a ValueError where it is none."""
        with contextlib.suppress(ValueError):
            group, rest = text.split("-")
            index, _, part = rest.partition("_")
            if str(key := cls(int(group), int(index), int(part or 0))) == text:
                return key
        raise ValueError(f"{text!r} is no shard's number")


class Made(NamedTuple):
    """What is known of the rows that a shard was made of: how many, and their digest; see `RowsDigest`."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several that share a job without talking: number ``index``, from 0, of ``count``."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"


ALONE = Worker()


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a group, for an engine that deals work out as it goes: every ``count``-th range, from ``index`` on.

    The process that has a piece skips the ranges between its own while the device is busy with one of them.
    """

    group: int
    index: int
    count: int


Part: TypeAlias = Worker | Piece


@dataclass(frozen=True)
class Plan:
    """How the inputs are cut.

    Attributes:
        groups: the files of each group, in order.
        rows_per_shard: rows of the input in a range, rejected ones included; a shard has no more.
        bytes_per_shard: bytes of the texts, as UTF-8: the row with which a shard reaches them is its last.
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
        """The plan for these files."""
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
        """All files, in order."""
        return tuple(itertools.chain.from_iterable(self.groups))

    def pieces(self, least: int) -> list[Piece]:
        """All ranges, in so many pieces at least: small groups whole, large ones in pieces of about the same bytes."""
        sizes = [sum(source.size for source in group) for group in self.groups]
        total = sum(sizes) or 1
        counts = [max(1, math.ceil(least * size / total)) for size in sizes]
        return [Piece(group, index, count) for group, count in enumerate(counts) for index in range(count)]

    def is_for(self, part: Part, key: ShardKey) -> bool:
        """Whether a shard is a worker's, or of a piece."""
        if isinstance(part, Piece):
            return key.group == part.group and key.index % part.count == part.index
        if len(self.groups) >= _GROUPS_A_WORKER * part.count:
            return key.group % part.count == part.index
        return (key.group + key.index) % part.count == part.index

    def groups_for(self, part: Part) -> list[int]:
        """The groups that a worker, or a piece, has shards of."""
        if isinstance(part, Piece):
            return [part.group]
        by_group = len(self.groups) >= _GROUPS_A_WORKER * part.count
        return [g for g in range(len(self.groups)) if not by_group or g % part.count == part.index]

    def share_of(self, part: Part) -> float:
        """The part of its groups' rows that is a worker's, or of a piece."""
        whole_groups = isinstance(part, Worker) and len(self.groups_for(part)) < len(self.groups)
        return 1.0 if whole_groups else 1 / part.count


class Slice(NamedTuple):
    """Where a shard's rows are.

    Attributes:
        key: the shard.
        rows: its rows and rejections, to be read before the next slice is asked for.
    """

    key: ShardKey
    rows: Iterator[Row | Rejection]


class GroupReader:
    """The rows of a group's files, one file after the other.

    Args:
        sources: the files.
        columns: what is read of them.
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
        """The shards of the ranges that are wanted, in order; at least one shard, if an empty one.

        Args:
            rows_per_shard: as in `Plan`.
            group: the group's number.
            wanted: whether the range that begins with a shard is to be read; else its rows are skipped by number.
            bytes_per_shard: as in `Plan`.
            done: shards that are there; of each as many rows are skipped as it was made of.

        Raises:
            InputError: a file cannot be read, or has fewer rows than a shard was made of.
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
        """All rows that are left."""
        while not self.at_end():
            yield self._pop()

    def at_end(self) -> bool:
        """Whether there are no more rows."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked is None

    def position(self) -> int:
        """About how many of the group's bytes are read."""
        return self._bytes_behind + (self._reader.position() if self._reader is not None else 0)

    def check_unchanged(self) -> None:
        """Raise an InputError if the file that is open is no longer what it was when the job was planned.

        To be asked before a shard is recorded: so none is of other bytes than those that identify the job. Files that
        are read to their end were checked then.
        """
        if self._reader is not None:
            self._reader.source.check_unchanged()

    def close(self) -> None:
        """Close the file that is open."""
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
        """Skip rows; gives how many there were too few."""
        if self._peeked is not None and rows:
            self._peeked, rows = None, rows - 1
        while rows and self._open():
            assert self._reader is not None
            self._rows = None  # what it had begun to read
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
        """Have a file open, if there is one left."""
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
    """Raise an InputError if shards of a group were made of other rows than its files have now.

    Reads no further than the last of these shards.
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
    """Return what messages call a group: its number, and the names of its files."""
    more = f" and {counted(len(files) - 1, 'more file')}" if len(files) > 1 else ""
    return f"group {group} of the input ({files[0]}{more})"


def missing_shard(
    rows: Mapping[ShardKey, int], group: int, index: int, rows_per_shard: int, last: ShardKey | None
) -> ShardKey | None:
    """The first shard of a range that is missing; None where the range is whole.

    Args:
        rows: of the input, in each shard that is there.
        group: the group's number.
        index: that of the range in it.
        rows_per_shard: rows of a whole range.
        last: the last shard of the group, which may end before that; None where it is not known.
    """
    left = rows_per_shard
    for part in itertools.count():
        key = ShardKey(group, index, part)
        if key not in rows:
            return key
        left -= rows[key]
        if left <= 0 or key == last:
            return None
    raise AssertionError  # no end


def parse_worker(text: str) -> Worker:
    """A worker from ``i/n``, i counted from 0.

    Raises:
        InputError: it is not written so, or there is no such worker.
    """
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal():
        raise InputError(f"a worker is written i/n, with i from 0 to n - 1, or auto; not {text!r}")
    worker = Worker(int(index), int(count))
    if worker.index >= worker.count:
        raise InputError(f"there is no worker {worker.index} of {worker.count}: they are counted from 0")
    return worker
