"""The modules of a sentence-transformers directory: modules.json, and the valid orders of modules.

The content of the modules is read elsewhere: `conversion.sentence_transformers`, and `conversion.router` for a Router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from conversion.source import read_json, subfolder
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

_MODULES = "modules.json"

# The config file of the complete model, and the possible ones of an encoder, of which the first that exists is used.
MODEL_CONFIG = "config_sentence_transformers.json"
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

_OFFICIAL = "sentence_transformers."

# Foreign code that may do the same as sentence-transformers' Transformer; `check_classes` decides.
_FOREIGN = ("custom_st.Transformer",)

HEADS = ("Dense", "LayerNorm", "Normalize")
# Asym is the name of a Router before version 5.
ROUTERS = ("Router", "Asym")
# These change nothing outside of training.
_IDLE = ("Dropout",)
_KNOWN = ("Transformer", "Pooling", *HEADS, *_IDLE, *ROUTERS)


class Module(NamedTuple):
    """A module: the last part of its type, its folder, the file that names it, and its full type."""

    kind: str
    path: Path
    file: Path
    type: str


def read_modules(directory: Path) -> tuple[Module, ...]:
    """Return the modules of a checkpoint; an empty tuple for a bare encoder.

    Raises:
        ConversionError: modules.json names a foreign or unknown module, or a path outside the directory.
    """
    file = directory / _MODULES
    if not file.exists():
        return ()
    listed = read_json(file)
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise ConversionError(f"{file} is not a list of modules")
    modules = tuple(known_module(module.get("type"), module.get("path", ""), directory, file) for module in listed)
    if not modules:
        raise ConversionError(f"{file}: expected a Transformer and then a Pooling module, found none")
    return modules


def known_module(kind: object, path: object, directory: Path, file: Path) -> Module:
    """Return a module that ``file`` names, after checking that tsjax can run it.

    Args:
        kind: the dotted path of its class, or of the file of that name.
        path: its folder in the directory.
        directory: the directory that the file describes.
        file: for messages.

    Raises:
        ConversionError: the module is foreign code or not supported, or its path leads out of the directory.
    """
    full = str(kind)
    last = full.rpartition(".")[2]
    if not full.startswith(_OFFICIAL) and full not in _FOREIGN:
        raise _foreign(file, full)
    if last not in _KNOWN:
        raise ConversionError(f"{file}: module {full!r:.100} is not supported; supported are {', '.join(_KNOWN)}")
    return Module(last, subfolder(directory, path, file), file, full)


def check_classes(modules: Sequence[Module], known: Collection[str]) -> None:
    """Check that every module belongs to sentence-transformers, or is foreign code that is known for this family.

    Raises:
        ConversionError: names the first module for which neither is true.
    """
    for module in modules:
        if not module.type.startswith(_OFFICIAL) and module.type not in known:
            raise _foreign(module.file, module.type)


def _foreign(file: Path, full: str) -> ConversionError:
    return ConversionError(f"{file}: module {full!r:.100} is foreign code, which tsjax does not run")


def in_order(modules: Sequence[Module]) -> tuple[Module, ...]:
    """Return the modules in order, without those that have no effect: an encoder, its pooling and its heads.

    Raises:
        ConversionError: the modules are in another order.
    """
    modules = tuple(module for module in modules if module.kind not in _IDLE)
    kinds = [module.kind for module in modules]
    # A Transformer alone is a cross-encoder.
    if kinds != ["Transformer"] and kinds[:2] != ["Transformer", "Pooling"]:
        raise ConversionError(
            f"{modules[0].file if modules else _MODULES}: expected a Transformer and then a Pooling module, "
            f"found {', '.join(kinds) or 'none'}"
        )
    for module in modules[2:]:
        if module.kind not in HEADS:
            raise ConversionError(f"{module.file}: module {module.kind} cannot stand after the pooling")
    return modules
