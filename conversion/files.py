"""The files of a checkpoint that a conversion reads, and the absent files that would have changed its result."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from conversion.modules import MODEL_CONFIG, TRANSFORMER_CONFIGS, read_modules
from conversion.router import read_router
from conversion.source import read_json, subfolder
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from conversion.modules import Module

_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".safetensors", ".bin"})
_ADAPTER = "adapter_config.json"

# The folder of the templates, next to chat_template.jinja.
CHAT_TEMPLATES = "additional_chat_templates"

# Optional files of a tokenizer that change its result.
_OF_TOKENIZERS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    "tokenizer.json",
)


def read_files(source: Path, ignore: Collection[str] = ()) -> tuple[Path, ...]:
    """Return every file that a conversion of a directory may read, sorted.

    Other files are excluded, because they may be many and large.

    Args:
        source: a directory in the format of Hugging Face or of sentence-transformers.
        ignore: names of config fields that the user chose to ignore.

    Raises:
        ConversionError: a file that defines which folders are read is damaged.
    """
    folders = {source, *(module.path for module in _modules(source, ignore))}
    folders |= {file.parent for file in source.glob(f"*/{_ADAPTER}")}
    folders |= {folder / CHAT_TEMPLATES for folder in folders}
    files = {file for folder in folders for file in _read_in(folder)}
    for index in [file for file in files if file.name.endswith(".index.json")]:
        files |= {file for file in _shards(index) if file.is_file()}
    return tuple(sorted(files))


def absent_files(source: Path, ignore: Collection[str] = ()) -> tuple[str, ...]:
    """Return the files that a conversion would use but does not find, as paths below the directory.

    Their absence is information: pooling is the default one, there are no prompts, there are no other special tokens.

    Args:
        source: see `read_files`.
        ignore: see `read_files`.

    Raises:
        ConversionError: see `read_files`.
    """
    modules = _modules(source, ignore)
    wanted = [source / _ADAPTER, source / "modules.json"]
    encoders = [module.path for module in modules if module.kind == "Transformer"] or [source]
    if modules:
        wanted.append(source / MODEL_CONFIG)
        # One of the alternative names is enough.
        wanted += [
            folder / TRANSFORMER_CONFIGS[0]
            for folder in encoders
            if not any((folder / name).exists() for name in TRANSFORMER_CONFIGS)
        ]
        wanted += [module.path / "config.json" for module in modules if module.kind == "Normalize"]
    wanted += [folder / name for folder in encoders for name in _OF_TOKENIZERS]
    return tuple(dict.fromkeys(str(file.relative_to(source)) for file in wanted if not file.exists()))


def _modules(source: Path, ignore: Collection[str]) -> tuple[Module, ...]:
    modules = read_modules(source)
    router = read_router(modules, ignore)
    of_routes = () if router is None else (module for chain in router.chains for module in chain)
    return tuple(dict.fromkeys([*modules, *of_routes]))


def _read_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that matter; PyTorch's weights do not where there are safetensors."""
    safe = any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))
    for file in folder.glob("*"):
        superseded = safe and file.suffix == ".bin" and file.name != "adapter_model.bin"
        if file.suffix in _SUFFIXES and file.is_file() and not superseded:
            yield file


def _shards(index: Path) -> Iterator[Path]:
    """Yield the files that an index lists. Errors in the index are reported by the conversion itself."""
    with contextlib.suppress(ConversionError, AttributeError, TypeError):
        for name in {str(shard) for shard in read_json(index)["weight_map"].values()}:
            yield subfolder(index.parent, name, index)
