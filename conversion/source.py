"""A checkpoint directory in the format of Hugging Face and sentence-transformers: its JSON files and its tensors.

Only the reading of .bin files requires torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from tsjax.errors import ConversionError, require_optional
from tsjax.text.panics import reported_panics
from tsjax.wording import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_SINGLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model, read one at a time.

    Attributes:
        where: the file of the tensors, or the index that lists the files.
        read: returns the tensor of each name.
    """

    where: str
    read: Mapping[str, Callable[[], NDArray[Any]]]


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ConversionError: the file is missing or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConversionError(f"{file} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"{file} cannot be read: {reason(error)}") from error


def read_json_object(file: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the content of a JSON file that must hold an object; an empty dict if the file is optional and absent."""
    if optional and not file.exists():
        return {}
    value = read_json(file)
    if not isinstance(value, dict):
        raise ConversionError(f"{file} does not hold a JSON object")
    return value


def subfolder(directory: Path, relative: object, said_in: Path) -> Path:
    """Return a folder that a file names, after checking that it lies inside the checkpoint.

    Raises:
        ConversionError: the path is absolute or leads out of the checkpoint.
    """
    path = PurePosixPath(str(relative).replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in str(path) or "\0" in str(path):
        raise ConversionError(f"{said_in}: path {relative!r} leads out of the checkpoint")
    return directory / path


def open_tensors(directory: Path, names: Sequence[str] = _SINGLE) -> Tensors:
    """Return the tensors in a directory: from safetensors, as one file or in shards, else from .bin files.

    Args:
        directory: directory of the files.
        names: names of the files, in order of preference.

    Raises:
        ConversionError: there are no files, or a file is damaged, or shards and index do not agree.
        MissingExtraError: there are only .bin files and torch is not installed.
    """
    for name in names:
        file, index = directory / name, directory / f"{name}.index.json"
        if file.exists():
            return Tensors(str(file), _open(file))
        if index.exists():
            return _open_shards(directory, index)
    raise ConversionError(f"{directory} holds no weights: neither {' nor '.join(names)}")


def _open_shards(directory: Path, index: Path) -> Tensors:
    shard_of = read_json_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ConversionError(f"{index} has no weight_map")
    read: dict[str, Callable[[], NDArray[Any]]] = {}
    for shard in sorted({str(value) for value in shard_of.values()}):
        file = subfolder(directory, shard, index)
        tensors = _open(file)
        listed = {name for name, value in shard_of.items() if value == shard}
        if difference := listed ^ set(tensors):
            name = min(difference)
            raise ConversionError(
                f"{file}: weight {name!r} is {'missing' if name in listed else f'not in {index.name}'}"
            )
        read |= tensors
    return Tensors(str(index), read)


def _open(file: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    if not file.exists():
        raise ConversionError(f"{file} is missing")
    return _open_bin(file) if file.suffix == ".bin" else _open_safetensors(file)


def _open_safetensors(file: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    try:
        file.open("rb").close()  # safetensors reports every failure as a missing file
        with reported_panics():
            handle = safe_open(file, framework="numpy")  # the readers below keep it open
            names = list(handle.keys())  # type: ignore[no-untyped-call]  # safetensors is only partly typed
    except Exception as error:  # OSError, SafetensorError, and other types for a damaged header
        raise ConversionError(f"{file} is damaged or incomplete: {error!s:.300}") from error

    def reader(name: str) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            try:
                with reported_panics():
                    return handle.get_tensor(name)  # type: ignore[no-untyped-call]
            except Exception as error:
                # NumPy has no float8 and nothing smaller. The error is an AttributeError, or another one in other
                # versions of safetensors.
                kind = _stored_dtype(handle, name)
                raise ConversionError(
                    f"{file}: weight {name!r}, stored as {kind}, cannot be read ({error!s:.200}); tsjax reads float16, "
                    "bfloat16, float32 and float64: save the model in one of them"
                ) from error

        return read

    return {name: reader(name) for name in names}


def _stored_dtype(handle: Any, name: str) -> str:
    """Return the name of a tensor's dtype in its safetensors file."""
    try:
        return str(handle.get_slice(name).get_dtype())
    except Exception:  # the name is only for a message about another error
        return "an unknown dtype"


def _open_bin(file: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    torch = require_optional("torch", extra="torch", feature=f"{file}, a pickle,")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or a hostile pickle
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConversionError(f"{file} cannot be read as weights: {reason:.200}") from error
    if not isinstance(state, dict):
        raise ConversionError(f"{file} does not hold a dictionary of weights")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise ConversionError(f"{file}: {name!r} is not a tensor")

    def reader(tensor: Any) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            # NumPy has no bfloat16; float32 holds each of its values.
            try:
                return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
            except (RuntimeError, TypeError) as error:
                raise ConversionError(f"{file}: a weight of kind {tensor.dtype} cannot be read: {error}") from error

        return read

    return {str(name): reader(tensor) for name, tensor in state.items()}
