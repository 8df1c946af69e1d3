"""tsjax checkpoint directory: config.json, model.safetensors, tokenizer.json. Complete; read without transformers.

config.json holds the architecture in tsjax's terms and everything that turns text into the model's vectors: pooling,
heads, prompts, lengths, temperature. It records the SHA-256 of the other two files and a fingerprint of everything, so
that vectors can be labelled with the model that made them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tsjax.errors import CheckpointError, ConfigError, OutputError
from tsjax.model.config import Activation, ModelConfig
from tsjax.storage.atomic import replacing
from tsjax.storage.digests import json_sha256
from tsjax.storage.json_values import decode, read_object
from tsjax.temperature import Temperature
from tsjax.wording import reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"

Kind: TypeAlias = Literal["embedder", "cross_encoder"]

FlatWeights = dict[str, "NDArray[np.float32]"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Content of a checkpoint apart from its weights and its tokenizer.

    Attributes:
        source: origin of the weights, for people to read.
        model: encoder, pooling, heads.
        max_seq_length: maximum length in tokens, special ones included.
        pad_token_id: id of padding tokens.
        prompts: texts to put before the input, by name.
        default_prompt_name: name of the prompt used when none is given.
        similarity_fn_name: cosine, dot, euclidean or manhattan.
        truncate_dim: leading dimensions to keep; None for all.
        temperature: τ used unless the user gives another.
        kind: an embedder returns vectors of texts, a cross-encoder scores of pairs of texts.
        activation: activation of a cross-encoder's logits, unless the user gives another.
        pooler: whether the file keeps the layer that the family puts on the first token. No vector depends on it, so
            the network does not have it; it is kept for the export.
        token_types: whether the encoder gets the segment of each token, such as the text of a pair to which it belongs.
        family: architecture from which it was converted; `tsjax export` converts back to it.
        assumed: assumptions of its conversion, in sentences for people to read; usually empty.
    """

    source: str = ""
    model: ModelConfig
    max_seq_length: int
    pad_token_id: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    temperature: Temperature = Temperature()
    kind: Kind = "embedder"
    activation: Activation = "identity"
    token_types: bool = False
    pooler: bool = False
    family: str = ""
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        encoder = self.model.encoder
        for name, allowed in {"kind": get_args(Kind), "activation": get_args(Activation)}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(allowed)}")
        if not 1 <= self.max_seq_length <= (encoder.max_length or self.max_seq_length):
            raise ConfigError(f"max_seq_length is {self.max_seq_length}; the positions allow 1 to {encoder.max_length}")
        if self.truncate_dim is not None and not 1 <= self.truncate_dim <= self.model.embedding_dimension:
            raise ConfigError(f"truncate_dim is {self.truncate_dim}, of {self.model.embedding_dimension} dimensions")
        self.temperature.check(encoder.num_layers, encoder.num_heads)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the format."""
        content = {"format": FORMAT, **vars(self)}
        content |= {"model": self.model.to_json(), "prompts": dict(self.prompts)}
        content |= {"temperature": self.temperature.to_json(), "assumed": list(self.assumed)}
        if not self.assumed:
            del content["assumed"]
        return content


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """Content of config.json; for a checkpoint of several routes, without files."""

    tsjax: dict[str, Any]
    fingerprint: str
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Header:
    """Content of a checkpoint that is known without reading its weights."""

    path: Path
    metadata: Metadata
    files: Mapping[str, str]
    fingerprint: str


def is_checkpoint(path: Path) -> bool:
    """Return whether a directory is a tsjax checkpoint (and not, say, one of Hugging Face)."""
    with contextlib.suppress(CheckpointError):
        return "tsjax" in read_object(path / CONFIG)
    return False


def save(
    path: Path, metadata: Metadata, weights: FlatWeights, tokenizer_json: str, *, overwrite: bool = False
) -> Header:
    """Write a checkpoint directory, completely or not at all.

    Args:
        path: the directory to make.
        metadata: content of config.json.
        weights: arrays by dotted name, layers stacked.
        tokenizer_json: content of tokenizer.json.
        overwrite: whether to replace a checkpoint at ``path``; anything else there is never replaced.

    Raises:
        OutputError: the directory exists, or cannot be written.
    """
    if overwrite:
        check_replaceable(path)
    with replacing(path, directory=True, overwrite=overwrite) as directory:
        write_tensors(directory / WEIGHTS, weights)
        (directory / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
        files = {name: _sha256(directory / name) for name in (WEIGHTS, TOKENIZER)}
        content = metadata.to_json()
        fingerprint = _fingerprint(content, files)
        config = {"tsjax": content, "files": files, "fingerprint": fingerprint}
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Header(path, metadata, files, fingerprint)


def check_replaceable(path: Path) -> None:
    """Check that replacing a directory loses nothing but a checkpoint, of one model or of several routes.

    Raises:
        OutputError: it is not a checkpoint, holds other files too, or is a link to a directory.
    """
    if not path.exists():
        return
    if not is_checkpoint(path):
        raise OutputError(f"{path} exists and is not a tsjax checkpoint; it is not overwritten")
    if path.is_symlink():
        raise OutputError(f"{path} is a symbolic link; give the directory that it leads to, {path.resolve()}")
    own = {CONFIG, WEIGHTS, TOKENIZER}
    for file in path.rglob("*"):
        if not file.is_dir() and not (file.name in own and is_checkpoint(file.parent)):
            raise OutputError(
                f"{path} holds {file.relative_to(path)}, which is no part of a tsjax checkpoint and would be lost; "
                "move it, or choose another directory"
            )


def write_tensors(file: Path, weights: FlatWeights) -> None:
    """Write a safetensors file that PyTorch's readers accept too.

    Raises:
        OutputError: it cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        tensors = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports errors of the system, such as a full disk
        raise OutputError(f"cannot write {file}: {error}") from error
    file.chmod(mode)  # safetensors makes its file readable for the owner only


def read_header(path: Path) -> Header:
    """Read and check config.json.

    Raises:
        CheckpointError: it is missing, damaged, of another format, or does not match its fingerprint.
    """
    file = path / CONFIG
    saved = read_saved(path)
    if "router" in saved.tsjax:
        raise CheckpointError(f"{path} has several routes, each a checkpoint of its own; tsjax.load takes them all")
    if saved.fingerprint != _fingerprint(saved.tsjax, saved.files):
        raise CheckpointError(f"{file} was changed after it was written: its fingerprint differs; convert it again")
    content = {name: value for name, value in saved.tsjax.items() if name != "format"}
    return Header(path, decode(content, Metadata, f"{file} is damaged"), saved.files, saved.fingerprint)


def read_saved(path: Path) -> Saved:
    """Read config.json, of a checkpoint of one route or several.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    file = path / CONFIG
    match data := read_object(file):
        case {"tsjax": {"format": found}} if found != FORMAT:
            raise CheckpointError(f"{file} has format {found}; this version of tsjax reads format {FORMAT}")
        case {"tsjax": _}:
            return decode(data, Saved, f"{file} is damaged")
    raise CheckpointError(f"{path} is not a checkpoint of tsjax; tsjax.load converts those of other kinds")


def read_tokenizer(header: Header) -> str:
    """Return the content of tokenizer.json after checking that it is what was written."""
    _verify(header, TOKENIZER)
    return (header.path / TOKENIZER).read_text(encoding="utf-8")


def kept_shapes(metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that a checkpoint keeps although the network does not use them."""
    width = metadata.model.encoder.hidden_size
    return {"pooler.kernel": (width, width), "pooler.bias": (width,)} if metadata.pooler else {}


def read_weights(header: Header, shapes: Mapping[str, tuple[int, ...]]) -> FlatWeights:
    """Return the weights by dotted name after checking them against their SHA-256 and the architecture.

    Args:
        header: header from `read_header`.
        shapes: shape of every weight of the architecture; `kept_shapes` are added.

    Raises:
        CheckpointError: the file is missing or is not the one whose SHA-256 was recorded, or a weight is missing,
            unexpected, misshapen, not float32 or not finite.
    """
    # The hash takes longest, so it is computed while the weights are read. Its error is the most useful, so it is
    # raised first.
    with ThreadPoolExecutor(1) as beside:
        verified = beside.submit(_verify, header, WEIGHTS)
        try:
            return _read_tensors(header.path / WEIGHTS, {**shapes, **kept_shapes(header.metadata)})
        finally:
            verified.result()


def _read_tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> FlatWeights:
    weights: FlatWeights = {}
    try:
        with safe_open(file, framework="numpy") as tensors:
            if difference := set(tensors.keys()) ^ set(shapes):
                name = min(difference)
                raise CheckpointError(f"{file}: weight {name!r} is {'missing' if name in shapes else 'unexpected'}")
            for name, shape in shapes.items():
                weight = weights[name] = tensors.get_tensor(name)
                if weight.shape != shape:
                    raise CheckpointError(f"{file}: weight {name!r} has shape {weight.shape}, not {shape}")
                if weight.dtype != np.float32:
                    raise CheckpointError(f"{file}: weight {name!r} is {weight.dtype}, not float32")
                if not np.isfinite(weight).all():
                    raise CheckpointError(f"{file}: weight {name!r} holds NaN or infinity")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is damaged: {reason(error)}") from error
    return weights


def read_network_weights(header: Header, shapes: Mapping[str, tuple[int, ...]]) -> FlatWeights:
    """Return the weights that ``shapes`` name, without those that the checkpoint only keeps; see `read_weights`."""
    weights = read_weights(header, shapes)
    return {name: weights[name] for name in shapes}


def parameter_count(header: Header) -> int:
    """Return the number of parameters, without reading the weights."""
    file = header.path / WEIGHTS
    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  # no dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {reason(error)}") from error


def verify_files(header: Header) -> None:
    """Compare every file with the SHA-256 recorded for it; a CheckpointError names the first that differs."""
    for name in header.files:
        _verify(header, name)


def _verify(header: Header, name: str) -> None:
    file = header.path / name
    try:
        found = _sha256(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    if found != header.files[name]:
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is not the one in {CONFIG}; convert the model again "
            f"(one in the cache is, once {header.path} is deleted)"
        )


def _fingerprint(content: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the SHA-256 of everything that determines the vectors; ``source`` and ``assumed`` are left out."""
    decisive = {name: value for name, value in content.items() if name not in ("source", "assumed")}
    return json_sha256([decisive, dict(files)], compact=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
