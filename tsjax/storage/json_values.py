"""JSON values that were read: decoded strictly, by msgspec, and compared."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from tsjax.errors import CheckpointError, TsjaxError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        CheckpointError: the file cannot be read, or holds none.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    return parsed(content, file)


def parsed(content: bytes, file: Path) -> dict[str, Any]:
    """Return the JSON object that is the content of a file; a CheckpointError where it is none."""
    try:
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object")
    return data


def decode(data: object, kind: type[T], subject: str, error: type[TsjaxError] = CheckpointError) -> T:
    """Return JSON values as an object of a type, which has to have all of them as they are.

    Args:
        data: what `json.loads` gave.
        kind: a dataclass, a TypedDict, or a msgspec Struct that forbids unknown fields. Fields of a dataclass whose
            type has a ``from_json`` are decoded by that.
        subject: the beginning of the error's sentence, such as the name of the file and that it is damaged.
        error: the type of the error.

    Raises:
        error: a field is unknown, or is missing, or has a value of another type; the sentence names it.
    """
    try:
        if dataclasses.is_dataclass(kind):
            return kind(**_fields(data, kind))
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as invalid:
        message, _, place = str(invalid).partition(" - at `$.")
        where = f"{place.removesuffix('`')}: " if place else ""
        message = message.replace("Object contains unknown", "unknown").replace("Object missing required", "missing")
        raise error(f"{subject}: {where}{message.replace('Expected', 'expected').replace('`', '')}") from invalid


def _fields(data: object, kind: type) -> dict[str, Any]:
    """Return the values of a dataclass's fields, as far as they are given."""
    schema, own = _schema(kind)
    if isinstance(data, Mapping):
        data = {name: own[name](value) if name in own else value for name, value in data.items()}
    found = msgspec.structs.asdict(msgspec.convert(data, schema))
    return {name: value for name, value in found.items() if value is not msgspec.UNSET}


@functools.cache
def _schema(kind: type) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """Return a Struct with a dataclass's fields, since msgspec ignores those that a dataclass has not, and decoders."""
    hints = get_type_hints(kind)
    own = {name: decoder for name, hint in hints.items() if (decoder := _own(hint)) is not None}
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        hint = Any if hasattr(hints[field.name], "from_json") else hints[field.name]
        if float in (hint, *get_args(hint)):
            hint = hint | int  # stays one, as it was when fingerprints were taken
        required = field.default is field.default_factory is dataclasses.MISSING
        fields.append((field.name, hint) if required else (field.name, hint, msgspec.UNSET))
    return msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True, kw_only=True), own


def _own(hint: Any) -> Callable[[Any], Any] | None:
    """Return the decoder of a type that has a ``from_json``, or of lists of it; None for any other."""
    if get_origin(hint) is tuple and hasattr(item := get_args(hint)[0], "from_json"):
        return lambda values: [*map(item.from_json, values)] if isinstance(values, list) else values
    return getattr(hint, "from_json", None)


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two JSON values differ, and the values there: names joined by dots. A list is one value.

    A name that one object has and the other has not counts as one with null.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    elif old != new:
        yield where, old, new
