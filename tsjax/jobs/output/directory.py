"""The output directory of a job: the paths of its files, and the records by which a killed job finds its shards.

out/vectors/shard-GGGGG-SSSSS.parquet   a shard
out/records/shard-GGGGG-SSSSS.json      the shard's record: written after the shard, to mark it as complete
out/manifest.json                       the job and all its shards; with several workers, one file for each
out/rejected.jsonl                      the rows that could not be embedded; with several workers, one file for each
out/.tsjax/                             the job that claimed the output, locks, and files that are being written
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, to_builtins

from tsjax.errors import CheckpointError, InputError, OutputError
from tsjax.jobs.job import Job
from tsjax.jobs.output.shard_record import ListedShard, Record, ShardFile, record_json, summary_json
from tsjax.jobs.plan import ShardKey, Worker
from tsjax.storage.atomic import expanded, explaining, publishing_text, replacing
from tsjax.storage.json_values import decode, read_object
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from filelock import BaseFileLock

    from tsjax.jobs.input.columns import Rejection

# Format 2 identifies inputs by digests of their content, and shards by the digest of their rows, because shards may be
# limited by bytes.
FORMAT = 2

# The files next to the folders.
_OWN_FILES = re.compile(r"(manifest(-\d+-of-\d+)?\.json)|(rejected(-\d+-of-\d+)?\.jsonl)")

# A temporary folder untouched for this many seconds is considered abandoned.
_ABANDONED = 3600

T = TypeVar("T")

# Seconds to wait for a lock: a process that checks whether the lock is held takes it for a moment.
_LOOK = 2.0


class StartedWith(Struct, frozen=True, forbid_unknown_fields=True):
    """The locations of a worker's inputs and model, which may differ between workers: paths or URLs, and options."""

    inputs: tuple[str, ...]
    model: dict[str, Any]


class _FirstJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The job that an output belongs to, recorded before there is any manifest."""

    format: int
    job: dict[str, Any]


class Manifest(_FirstJob, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's manifest: its index and the number of workers, whether it has finished, the job, and its shards."""

    worker: tuple[int, int]
    complete: bool
    fingerprint: str
    started_with: StartedWith
    shards: tuple[ListedShard, ...]


class Output:
    """The output directory of a job."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = expanded(path)
        self.vectors = self.path / "vectors"
        self.records = self.path / "records"
        self._hidden = self.path / ".tsjax"
        self._job_file = self._hidden / "job.json"

    def exists(self) -> bool:
        """Return whether a job has begun to write here."""
        return (
            self.vectors.is_dir() and self.records.is_dir() and (self._hidden.is_dir() or bool(self.manifest_files()))
        )

    def owns(self, path: Path) -> bool:
        """Return whether a job writes the file or folder ``path`` here. Both paths are absolute."""
        if not path.is_relative_to(self.path):
            return False
        first, *rest = path.relative_to(self.path).parts or ("",)
        own = (self.vectors.name, self.records.name, self._hidden.name)
        return first in own or (not rest and _OWN_FILES.fullmatch(first) is not None)

    def manifest_file(self, worker: Worker) -> Path:
        """Return the path of a worker's manifest."""
        return self.path / ("manifest.json" if worker.count == 1 else f"manifest-{worker}.json")

    def rejected_file(self, worker: Worker) -> Path:
        """Return the path of the list of a worker's rejected rows."""
        return self.path / ("rejected.jsonl" if worker.count == 1 else f"rejected-{worker}.jsonl")

    def manifest_files(self) -> list[Path]:
        """Return the paths of all existing manifests."""
        return sorted(self.path.glob("manifest*.json"))

    @contextlib.contextmanager
    def working(self, worker: Worker) -> Iterator[Path]:
        """Lock the directory for this worker, and yield a folder for files that are being written.

        Folders that killed predecessors left are removed. If the file system has no locks, or each of its clients
        grants them by itself, a second process may do the same work. This wastes time, but does no harm.

        Raises:
            OutputError: another process is writing to the directory as this worker, the directory cannot be written,
                or its name is not UTF-8.
        """
        from filelock import Timeout  # noqa: PLC0415

        if lone_surrogate(str(self.path)) is not None:
            raise OutputError(f"the name of the folder {str(self.path)!r} is not UTF-8, as its manifests have to be")
        with explaining(self.path):
            for folder in (self.vectors, self.records, self._hidden):
                folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock(worker, _LOOK)
        locked = True
        try:
            lock.acquire()
        except Timeout as error:
            who = "another process" if worker.count == 1 else f"another process, also as worker {worker},"
            raise OutputError(f"{who} is writing to {self.path}") from error
        except (OSError, NotImplementedError):
            locked = False
        # The name is unique, because a lock may not exclude other processes, e.g. on gcsfuse or NFS with local locks.
        partial = self._hidden / f"{worker}-{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            if locked:
                for folder in self._hidden.glob(f"{worker}-*"):
                    if _is_abandoned(folder, f"{worker}-{os.uname().nodename}-"):
                        shutil.rmtree(folder, ignore_errors=True)
            with explaining(self.path):
                partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.release()

    def _lock(self, worker: Worker, timeout: float) -> BaseFileLock:
        from filelock import FileLock  # noqa: PLC0415

        # On file systems without locks, newer versions of filelock would fall back to a lock file. A killed process
        # leaves that file, which locks out others.
        known = signature(FileLock.__init__).parameters
        hard: dict[str, Any] = {"fallback_to_soft": False} if "fallback_to_soft" in known else {}
        return FileLock(self._hidden / f"{worker}.lock", timeout=timeout, **hard)

    def is_locked(self, index: int, count: int) -> bool | None:
        """Return whether a process is running as this worker; None if that cannot be known."""
        from filelock import Timeout  # noqa: PLC0415

        lock = self._lock(Worker(index, count), 0)
        try:
            with lock:
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return None

    def read_manifests(self) -> dict[Path, Manifest]:
        """Return the existing manifests by path.

        Raises:
            CheckpointError: a manifest is damaged, or has another format.
        """
        manifests = {}
        for file in self.manifest_files():
            manifests[file] = manifest = _read(file, Manifest)
            if manifest.fingerprint != Job.recorded(manifest.job, file).fingerprint:
                raise CheckpointError(f"{file} is damaged: its job was changed; delete it, and run the job again")
        return manifests

    def job(self) -> Job:
        """Return the job that this output belongs to, as the manifests say.

        Raises:
            InputError: there is no manifest.
            CheckpointError: the manifests are damaged, or of different jobs.
        """
        jobs = {file: Job.recorded(manifest.job, file) for file, manifest in self.read_manifests().items()}
        if not jobs:
            if not self.path.is_dir():
                raise InputError(
                    f"there is no folder {self.path}; what is looked at is what tsjax batch --output wrote"
                )
            raise InputError(f"{self.path} holds no manifest of a job; tsjax batch writes one")
        (file, first), *others = jobs.items()
        for other, job in others:
            if difference := first.difference(job):
                raise CheckpointError(
                    f"{file.name} and {other.name} in {self.path} are of different jobs: {difference}"
                )
        return next((job for job in jobs.values() if job.ranges is not None), first)

    def recorded_job(self) -> Job | None:
        """Return the job that this output belongs to, or that has claimed it; None if there is no job yet.

        Raises:
            CheckpointError: the file that records the job is damaged, or the manifests are of different jobs.
        """
        if self.manifest_files():
            return self.job()
        return self._first_job() if self._job_file.exists() else None

    def settle(self, job: Job) -> Job:
        """Claim the output for a job, unless another process has claimed it; return the job that it belongs to.

        If several processes start at once, before there is any manifest, one of them claims the output.

        Raises:
            OutputError: the output cannot be written.
            CheckpointError: the file that another process wrote is damaged.
        """
        try:
            with replacing(self._job_file) as temporary:
                temporary.write_text(json.dumps({"format": FORMAT, "job": job.facts}), encoding="utf-8")
        except OutputError:
            if not self._job_file.exists():
                raise
        return self._first_job()

    def _first_job(self) -> Job:
        return Job.recorded(_read(self._job_file, _FirstJob).job, self._job_file)

    def record_file(self, key: ShardKey) -> Path:
        """Return the path of a shard's record."""
        return self.records / f"shard-{key}.json"

    def read_record(self, key: ShardKey) -> Record | None:
        """Return a shard's record; None if it is missing or damaged.

        Raises:
            CheckpointError: an existing record cannot be read from the disk.
        """
        file = self.record_file(key)
        try:
            return decode(read_object(file), Record, f"{file} is damaged")
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise
            return None

    def record_keys(self) -> list[ShardKey]:
        """Return the keys of the shards that have a record, in order."""
        keys = []
        for file in self.records.glob("shard-*.json"):
            with contextlib.suppress(ValueError):
                keys.append(ShardKey.parse(file.stem.removeprefix("shard-")))
        return sorted(keys)

    def is_whole(self, record: Record) -> bool:
        """Return whether a shard's files have the sizes and checksums of its record."""
        return all(file_facts(self.vectors / file.name) == file for file in record.files)

    def has_files(self, record: Record) -> bool:
        """Return whether a shard's files exist and have the sizes of its record. Their content is not read."""
        for file in record.files:
            try:
                size = (self.vectors / file.name).stat().st_size
            except OSError:
                return False
            if size != file.bytes:
                return False
        return True

    def rejections(self, keys: Iterable[ShardKey]) -> Iterator[Rejection]:
        """Yield the rejected rows of some shards, in the order of the input."""
        for key in keys:
            record = self.read_record(key)
            yield from record.rejected if record is not None else ()

    def rejected_lines(self, keys: Iterable[ShardKey]) -> Iterator[str]:
        """Yield the lines that list the rejected rows of some shards, one JSON object a line."""
        return (json.dumps(rejection.to_json(), ensure_ascii=False) + "\n" for rejection in self.rejections(keys))

    def write_manifest(
        self,
        worker: Worker,
        job: Job,
        keys: Iterable[ShardKey],
        partial: Path,
        *,
        complete: bool,
        started_with: StartedWith,
    ) -> None:
        """Write a worker's manifest with those of the given shards that have a record.

        The records are read one at a time, so the memory does not grow with their number.
        """
        head = {
            "format": FORMAT,
            "worker": [worker.index, worker.count],
            "complete": complete,
            "fingerprint": job.fingerprint,
            "started_with": to_builtins(started_with),
            "job": job.facts,
        }
        file = self.manifest_file(worker)
        with publishing_text(file, partial) as stream:
            stream.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "shards": [')
            before = "\n  "
            for key in keys:
                if (record := self.read_record(key)) is not None:
                    stream.write(before + json.dumps(summary_json(record), ensure_ascii=False))
                    before = ",\n  "
            stream.write("\n ]\n}\n")

    def write_rejected(self, worker: Worker, keys: Iterable[ShardKey], partial: Path) -> None:
        """Write a worker's rejected rows, one JSON object a line."""
        with publishing_text(self.rejected_file(worker), partial) as stream:
            stream.writelines(self.rejected_lines(keys))

    def write_record(self, record: Record, partial: Path) -> None:
        """Write the record that marks a shard as complete."""
        with publishing_text(self.record_file(record.key), partial) as stream:
            stream.write(json.dumps(record_json(record), ensure_ascii=False) + "\n")


def _is_abandoned(folder: Path, here: str) -> bool:
    """Return whether a folder for files that are being written belongs to a dead process.

    ``here`` is the prefix of the folders of this host, whose processes can be looked up. The age decides for a folder
    of another host, or if another process has the same process id by now. For example, the first process of each
    container has the same id.
    """
    if folder.name.startswith(here):
        number = folder.name.removeprefix(here).partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, OverflowError):
            pass  # the process belongs to another user, or the folder's name has another pattern
    try:
        newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    except OSError:  # the folder is changing at this moment
        return False
    return time.time() - newest > _ABANDONED


def file_facts(path: Path, name: str | None = None) -> ShardFile | None:
    """Return a file's size and checksum; None if the file does not exist."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return ShardFile(name or path.name, stream.tell(), digest)
    except FileNotFoundError:
        return None


def _read(file: Path, kind: type[T]) -> T:
    """Return a manifest, or the record of the job that claimed the output.

    Raises:
        CheckpointError: the file is damaged, or has the format of another version.
    """
    data = read_object(file)
    if not isinstance(job := data.get("job"), dict):
        raise CheckpointError(f"{file} is of no job that this version of tsjax knows")
    if (found := data.get("format")) != FORMAT:
        versions = job.get("versions")
        version = versions.get("tsjax", "unknown") if isinstance(versions, dict) else "unknown"
        raise CheckpointError(
            f"{file} has the format {found!r:.40}, and this version of tsjax knows {FORMAT}: use the version that "
            f"wrote it ({version!s:.40}), read the vectors, which are plain files, or embed into another output"
        )
    return decode(data, kind, f"{file} is damaged (delete it, and run the job again)")
