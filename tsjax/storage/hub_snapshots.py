"""Information in the cache of the Hugging Face hub about files that a snapshot does not have.

A snapshot holds the files that some program requested. Transformers requests no modules.json, so its absence means
nothing, unless the cache has the list of the repository's files at that commit, or a marker that the hub has no such
file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDER = "models--"


class Unseen(NamedTuple):
    """Files that a directory does not have although they may exist.

    Attributes:
        missing: files that are known to exist.
        unknown: files that may or may not exist.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """Commit of a repository in the hub's cache.

    Attributes:
        repository: its name on the hub.
        commit: the commit's hash.
        path: the directory of its files.
    """

    repository: str
    commit: str
    path: Path

    @property
    def cache(self) -> Path:
        """Return the cache directory, as the hub's client names it."""
        return self.path.parent.parent.parent


def snapshot_of(directory: Path) -> Snapshot | None:
    """Return the snapshot that a directory is or lies in; None for a directory elsewhere."""
    for path in (directory, *directory.parents):
        if _COMMIT.fullmatch(path.name) and path.parent.name == "snapshots":
            folder = path.parent.parent.name
            if folder.startswith(_FOLDER):
                return Snapshot(folder.removeprefix(_FOLDER).replace("--", "/"), path.name, path)
    return None


def unseen(directory: Path, absent: Iterable[str]) -> Unseen:
    """Return the absent files that may exist where the directory was downloaded from.

    Args:
        directory: directory of a model, of any origin.
        absent: paths below it without a file.
    """
    snapshot = snapshot_of(directory)
    if snapshot is None:
        listed = _listed_beside(directory)
        return Unseen(unknown=tuple(name for name in absent if name in listed))
    below = directory.relative_to(snapshot.path)
    names = {name: (below / name).as_posix() for name in absent}
    files = _listed(snapshot.repository, snapshot.commit, cache_dir=snapshot.cache)
    if files is not None:
        return Unseen(missing=tuple(name for name, whole in names.items() if whole in files))
    return Unseen(unknown=tuple(name for name, whole in names.items() if not _known_absent(snapshot, whole)))


def ask(snapshot: Snapshot, names: Iterable[str], token: str | bool | None = None) -> None:
    """Request files from the hub, so that the cache has each file, or a marker that it does not exist."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for name in names:
        try:
            hf_hub_download(snapshot.repository, name, revision=snapshot.commit, cache_dir=snapshot.cache, token=token)
        except RemoteEntryNotFoundError:
            continue
        except Exception:  # the hub can be unreachable in many ways; unknown files stay unknown
            return


def _listed(repository: str, commit: str, **place: Any) -> frozenset[str] | None:
    """Return the files of a repository at a commit, from the hub client's records; None if it has none."""
    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError
    except ImportError:  # huggingface_hub before version 2
        return None
    try:
        return frozenset(file.path for file in get_cached_repo_tree(repository, revision=commit, **place))
    except (CachedRepoTreeNotFoundError, HFValidationError):
        return None


def _listed_beside(directory: Path) -> frozenset[str]:
    """Return the files of the repository that ``hf download --local-dir`` downloaded to a directory; none otherwise."""
    try:
        note = directory / ".cache" / "huggingface" / "download" / "config.json.metadata"
        commit = note.read_text(encoding="utf-8").split("\n", maxsplit=1)[0].strip()
    except (OSError, ValueError):
        return frozenset()
    if not _COMMIT.fullmatch(commit):
        return frozenset()
    return _listed("any/name", commit, local_dir=directory) or frozenset()


def _known_absent(snapshot: Snapshot, name: str) -> bool:
    """Return whether the hub's client left a marker that the hub has no such file at this commit."""
    return (snapshot.path.parent.parent / ".no_exist" / snapshot.commit / name).is_file()
