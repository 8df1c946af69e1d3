"""Checkpoint directory of several routes: a complete checkpoint for each, in a folder, and the route of each task.

Its config.json names the folders and the route of each task's texts, and records a fingerprint of all of them.
Identical routes share a folder. Routes that share a module each have a copy of it, so that each is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.checkpoints.format import CONFIG, FORMAT, Header, check_replaceable, read_header, read_saved, save
from tsjax.errors import CheckpointError, ConfigError, InputError
from tsjax.storage.atomic import replacing
from tsjax.storage.digests import json_sha256
from tsjax.storage.json_values import decode, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tsjax.checkpoints.format import FlatWeights, Metadata


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """Assignment of tasks to routes.

    Attributes:
        routes: folder of each route, by its name.
        tasks: route of each task that has one.
        other_tasks: route of any other task; None if such a task is an error.
        default_route: route of texts without a task; None if they are an error.
    """

    routes: Mapping[str, str]
    tasks: Mapping[str, str]
    other_tasks: str | None = None
    default_route: str | None = None

    def __post_init__(self) -> None:
        if not self.routes:
            raise ConfigError("a router needs at least one route")
        for folder in self.routes.values():
            if not folder or Path(folder).name != folder:
                raise ConfigError(f"the route's folder {folder!r} is not a plain name")
        for name in (*self.tasks.values(), self.other_tasks, self.default_route):
            if name is not None and name not in self.routes:
                raise ConfigError(f"there is no route {name!r} among {', '.join(self.routes)}")

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the folders of all routes; a folder that several routes share is listed once."""
        return tuple(dict.fromkeys(self.routes.values()))

    def route(self, task: str | None) -> str:
        """Return the name of the route for a task.

        Raises:
            InputError: no route serves the task.
        """
        if task is not None and not isinstance(task, str):
            raise InputError(f"a task is a name, not {task!r}")
        name = self.default_route if task is None else self.tasks.get(task, self.other_tasks)
        if name is None:
            asked = "texts without a task, and no default" if task is None else f"task {task!r}"
            raise InputError(f"there is no route for {asked}; the tasks of this model are {', '.join(self.tasks)}")
        return name


@dataclass(frozen=True)
class RoutedHeader:
    """Content of such a directory that is known without reading weights.

    Attributes:
        path: the directory.
        config: assignment of tasks to routes.
        headers: header of each route's checkpoint, by folder.
        fingerprint: SHA-256 of everything that determines the vectors.
    """

    path: Path
    config: RouterConfig
    headers: Mapping[str, Header]
    fingerprint: str


def is_routed(path: Path) -> bool:
    """Return whether a tsjax checkpoint directory has several routes."""
    with contextlib.suppress(CheckpointError):
        return "router" in read_object(path / CONFIG).get("tsjax", ())
    return False


def save_routed(
    path: Path,
    config: RouterConfig,
    parts: Iterable[tuple[Metadata, FlatWeights, str]],
    *,
    overwrite: bool = False,
) -> RoutedHeader:
    """Write such a directory, completely or not at all.

    Args:
        path: the directory to make.
        config: assignment of tasks to routes.
        parts: the arguments of `tsjax.checkpoints.format.save` for each of ``config.folders``; one is held in
            memory at a time.
        overwrite: whether to replace a checkpoint at ``path``; anything else there is never replaced.

    Raises:
        OutputError: the directory exists, or cannot be written.
    """
    if overwrite:
        check_replaceable(path)
    headers = {}
    with replacing(path, directory=True, overwrite=overwrite) as directory:
        for folder, part in zip(config.folders, parts, strict=True):
            headers[folder] = dataclasses.replace(save(directory / folder, *part), path=path / folder)
        content = {"format": FORMAT, "router": dataclasses.asdict(config)}
        fingerprint = _fingerprint(content, headers)
        text = json.dumps({"tsjax": content, "fingerprint": fingerprint}, indent=2)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
    return RoutedHeader(path, config, headers, fingerprint)


def read_routed_header(path: Path) -> RoutedHeader:
    """Read and check config.json, and that of every route.

    Raises:
        CheckpointError: a file is missing, damaged, of another format, or does not match its fingerprint.
    """
    file = path / CONFIG
    saved = read_saved(path)
    config = decode(saved.tsjax.get("router"), RouterConfig, f"{file} is damaged: router")
    headers = {folder: read_header(path / folder) for folder in config.folders}
    if saved.fingerprint != _fingerprint(saved.tsjax, headers):
        raise CheckpointError(
            f"{file} or a route in it was changed after it was written: its fingerprint differs; convert it again"
        )
    return RoutedHeader(path, config, headers, saved.fingerprint)


def _fingerprint(content: Mapping[str, Any], headers: Mapping[str, Header]) -> str:
    routes = {folder: header.fingerprint for folder, header in headers.items()}
    return json_sha256([content, routes], compact=True)
