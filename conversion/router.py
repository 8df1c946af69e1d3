"""The Router of sentence-transformers: the modules of each route, and the route of each task's texts.

sentence-transformers selects a route by task and modality for each input. Inputs to tsjax are always text, so the route
of each task is computed here, once, with the order of precedence of sentence-transformers.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from conversion.fields import Fields
from conversion.modules import ROUTERS, Module, in_order, known_module
from conversion.source import read_json_object
from tsjax.checkpoints.routed import RouterConfig
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

_MODALITY = "text"
# Routes by task and modality; None stands for any.
_Mappings: TypeAlias = "dict[tuple[str | None, str | None], str]"


class Router(NamedTuple):
    """The route of each task, and for each of ``config.folders`` all modules that its texts pass through."""

    config: RouterConfig
    chains: tuple[tuple[Module, ...], ...]


def read_router(modules: Sequence[Module], ignore: Collection[str] = ()) -> Router | None:
    """Read the Router among the modules; return None where there is no Router.

    Args:
        modules: the modules in modules.json; those before and after the Router belong to every route.
        ignore: names of config fields that the user chose to ignore.

    Raises:
        ConversionError: there is more than one Router, its config is damaged or unknown, a route is for something other
            than text, or its modules are not supported.
    """
    at = [index for index, module in enumerate(modules) if module.kind in ROUTERS]
    if not at:
        return None
    if len(at) > 1:
        raise ConversionError(f"{modules[0].file}: there are {len(at)} Routers; tsjax has one place to choose a route")
    before, router, after = modules[: at[0]], modules[at[0]], modules[at[0] + 1 :]
    file = next((f for f in (router.path / "router_config.json", router.path / "config.json") if f.exists()), None)
    if file is None:
        raise ConversionError(f"{router.path / 'router_config.json'} is missing")
    fields = Fields(read_json_object(file), str(file), ignore)
    structure = _structure(fields, router.path, file)
    parameters = Fields(fields.take("parameters", {}, dict), str(file), ignore)
    fields.done()
    mappings = _mappings(parameters.take("route_mappings", {}, dict), structure, file)
    default = parameters.take("default_route", None, str)
    if parameters.take("allow_empty_key", default=True, kind=bool):
        default = next(iter(structure)) if default is None else default
    parameters.done()
    if default is not None and default not in structure:
        raise ConversionError(f"{file}: default_route {default!r} is not among the routes {', '.join(structure)}")

    chains = {name: in_order([*before, *route, *after]) for name, route in structure.items()}
    folders = {chain: f"route-{number}" for number, chain in enumerate(dict.fromkeys(chains.values()))}
    known_tasks = dict.fromkeys([*structure, *(task for task, _ in mappings if task is not None)])
    found = {task: _route(task, mappings, structure) for task in known_tasks}
    without_task = _route(None, mappings, structure)
    config = RouterConfig(
        routes={name: folders[chain] for name, chain in chains.items()},
        tasks={task: name for task, name in found.items() if name is not None},
        other_tasks=without_task,  # the route of a task that no mapping names
        default_route=default if without_task is None else without_task,
    )
    return Router(config, tuple(folders))


def _structure(fields: Fields, directory: Path, file: Path) -> dict[str, tuple[Module, ...]]:
    """Return the modules of each route, by its name."""
    types, structure = fields.take("types", kind=dict), fields.take("structure", kind=dict)
    if not structure:
        raise ConversionError(f"{file}: there is no route")
    modules = {name: known_module(kind, name, directory, file) for name, kind in types.items()}
    for name, module in modules.items():
        if module.kind in ROUTERS:
            raise ConversionError(f"{file}: module {name!r} is a Router in a Router, which is not supported")
    for route, names in structure.items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name in modules for name in names):
            raise ConversionError(f"{file}: route {route!r} is {names!r:.100}, not a list of the modules in types")
    return {route: tuple(modules[name] for name in names) for route, names in structure.items()}


def _mappings(saved: Mapping[str, Any], routes: Collection[str], file: Path) -> _Mappings:
    """Read the mappings, whose keys are pairs in Python's syntax: ``('query', 'text')``, ``(None, 'text')``."""
    mappings: _Mappings = {}
    for key, route in saved.items():
        try:
            task, modality = ast.literal_eval(key)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ConversionError(f"{file}: route_mappings has {key!r:.60}, not a task and a modality") from error
        if not isinstance(route, str) or route not in routes:
            raise ConversionError(f"{file}: route_mappings leads to {route!r:.60}, which is not among the routes")
        if modality not in (None, _MODALITY):
            raise ConversionError(f"{file}: route {route!r} is for modality {modality!r}, and tsjax embeds text alone")
        if task is not None and not isinstance(task, str):
            raise ConversionError(f"{file}: route_mappings has the task {task!r}, which is not a name")
        mappings[task, modality] = route
    return mappings


def _route(task: str | None, mappings: _Mappings, routes: Collection[str]) -> str | None:
    """Return the route of a task by the precedence of sentence-transformers; None where it has no route."""
    for key in ((task, _MODALITY), (task, None), (None, _MODALITY), (None, None)):
        if key in mappings:
            return mappings[key]
    if task and task in routes:
        return task
    return _MODALITY if _MODALITY in routes else None
