"""Strict decoding of JSON values by msgspec, and their comparison."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from tsjax.errors import CheckpointError, TsjaxError
from tsjax.wording import reason

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        CheckpointError: the file cannot be read, or holds no JSON object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object")
    return data


def decode(data: object, kind: type[T], subject: str, error: type[TsjaxError] = CheckpointError) -> T:
    """Decode JSON values as an object of a type, without conversions or unknown fields.

    Args:
        data: result of `json.loads`.
        kind: a dataclass, a TypedDict, or a msgspec Struct that forbids unknown fields. Fields of a dataclass whose
            type has a ``from_json`` are decoded by that.
        subject: beginning of the error message, such as the name of the file and that it is damaged.
        error: type of the error.

    Raises:
        error: a field is unknown, is missing, or has an invalid value; the message names it.
    """
    try:
        return kind(**_fields(data, kind)) if dataclasses.is_dataclass(kind) else msgspec.convert(data, kind)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as invalid:
        message, _, place = str(invalid).partition(" - at `$")
        where = f"{place.strip('`.')}: " if place else ""
        message = message.replace("Object contains unknown", "unknown").replace("Object missing required", "missing")
        raise error(f"{subject}: {where}{message.replace('Expected', 'expected').replace('`', '')}") from invalid


def _fields(data: object, kind: type) -> dict[str, Any]:
    """Return the values of a dataclass's fields, by a Struct: for dataclasses, msgspec ignores unknown fields."""
    hints, given = get_type_hints(kind), dict(data) if isinstance(data, Mapping) else data
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        item = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if hasattr(item, "from_json") and isinstance(given, dict) and name in given:
            if item is hint:
                given[name] = item.from_json(given[name])
            elif isinstance(given[name], list | tuple):
                given[name] = [*map(item.from_json, given[name])]
        if hasattr(hint, "from_json"):
            hint = Any
        elif float in (hint, *get_args(hint)):
            hint = hint | int  # an int stays an int, as it was when fingerprints were taken
        required = field.default is field.default_factory is dataclasses.MISSING
        fields.append((name, hint, msgspec.NODEFAULT if required else msgspec.UNSET))
    schema = msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True, kw_only=True)
    values = msgspec.structs.asdict(msgspec.convert(given, schema))
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of each difference between two JSON values, and the two values there.

    A path is names joined by dots. A list is one value. A name that only one object has counts as null in the other.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    elif old != new:
        yield where, old, new
