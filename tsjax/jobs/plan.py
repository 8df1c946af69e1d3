"""How a corpus is cut into shards: by the inputs and the options alone, whoever computes which of them when.

Consecutive small files make up a group, a large file is one of its own, and every so many rows of a group are a shard.
So nothing has to be read to plan, a worker needs to open its own files only, and no shard depends on another.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tsjax.errors import InputError
from tsjax.jobs.columns import Rejection
from tsjax.jobs.rows import open_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tsjax.jobs.columns import Columns, Row
    from tsjax.jobs.inputs import Source
    from tsjax.jobs.rows import RowReader

# Files are put together up to so many bytes.
GROUP_BYTES = 64 << 20

# With so many groups a worker, whole groups are dealt out: no worker then reads what another embeds. With fewer, shards
# are, and workers read over each other's, which costs little beside embedding.
_GROUPS_A_WORKER = 4


@dataclass(frozen=True, order=True, slots=True)
class ShardKey:
    """Which shard: the group's number, and the shard's within it."""

    group: int
    index: int

    def __str__(self) -> str:
        return f"{self.group:05d}-{self.index:05d}"

    @classmethod
    def parse(cls, text: str) -> ShardKey:
        """The inverse of ``str``; a ValueError where it is none."""
        group, index = text.split("-")
        return cls(int(group), int(index))


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
    """Part of a group, for an engine that deals work out as it goes: every ``count``-th shard, from ``index`` on.

    Whoever has a piece reads over the shards between its own while the device is busy with one of them.
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
        rows_per_shard: rows of the input, rejected ones included.
    """

    groups: tuple[tuple[Source, ...], ...]
    rows_per_shard: int

    @classmethod
    def of(cls, sources: Sequence[Source], rows_per_shard: int, group_bytes: int = GROUP_BYTES) -> Plan:
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
        return cls(tuple(groups), rows_per_shard)

    @property
    def sources(self) -> tuple[Source, ...]:
        """All files, in order."""
        return tuple(itertools.chain.from_iterable(self.groups))

    def pieces(self, least: int) -> list[Piece]:
        """All shards, in so many pieces at least: small groups whole, large ones in pieces of about the same bytes."""
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

    def slices(self, rows_per_shard: int, group: int, wanted: Callable[[ShardKey], bool]) -> Iterator[Slice]:
        """The shards that are wanted, in order; the others are read over. At least one shard, if an empty one."""
        for index in itertools.count():
            key = ShardKey(group, index)
            if index and self.at_end():
                return
            if wanted(key):
                yield Slice(key, self._take(rows_per_shard))
            else:
                self._skip(rows_per_shard)

    def at_end(self) -> bool:
        """Whether there are no more rows."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked is None

    def position(self) -> int:
        """About how many of the group's bytes are read."""
        return self._bytes_behind + (self._reader.position() if self._reader is not None else 0)

    def close(self) -> None:
        """Close the file that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _take(self, rows: int) -> Iterator[Row | Rejection]:
        for _ in range(rows):
            if self.at_end():
                return
            row, self._peeked = self._peeked, None
            assert row is not None  # not at the end
            yield row

    def _skip(self, rows: int) -> None:
        if self._peeked is not None:
            self._peeked, rows = None, rows - 1
        while rows and self._open():
            assert self._reader is not None
            self._rows = None  # what it had begun to read
            rows -= self._reader.skip(rows)
            if rows:
                self._finish()

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
