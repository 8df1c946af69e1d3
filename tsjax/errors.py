"""Exceptions that tsjax raises for a user; each message says what was wrong, where, and what to do."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

# Reason for a missing vector, in errors and in the rejected rows of jobs.
NO_TOKENS = "has no tokens"


class TsjaxError(Exception):
    """Base of every error that tsjax raises on purpose; the command line prints it as one line and exits with 2."""


class InputError(TsjaxError, ValueError):
    """An argument or a text that cannot be used."""


class KeywordError(InputError, TypeError):
    """A keyword that the function does not take."""


class NoTokensError(InputError):
    """A text that has no vector because no token of it is left for pooling.

    Args:
        index: the text's index among the texts that were given.
        what: ``text`` or ``pair``.
    """

    def __init__(self, index: int, what: str = "text") -> None:
        super().__init__(
            f"{what} {index} {NO_TOKENS} and so no vector: the tokenizer makes none of it, or pooling leaves out all "
            "that there are; leave it out of the input"
        )
        self.index, self.what = index, what

    def __reduce__(self) -> tuple[type[NoTokensError], tuple[int, str]]:
        return type(self), (self.index, self.what)


class ConfigError(TsjaxError, ValueError):
    """A model configuration that is unknown, contradictory, or not runnable."""


class CheckpointError(TsjaxError, ValueError):
    """A checkpoint directory that is incomplete, damaged, or not in the expected format."""


class ConversionError(TsjaxError, ValueError):
    """A foreign checkpoint that cannot be translated without guessing."""


class ModelNotFoundError(TsjaxError, LookupError):
    """A model name for which no checkpoint was found."""


class OutputError(TsjaxError, OSError):
    """An output that already exists or cannot be written."""


class MissingExtraError(TsjaxError, ImportError):
    """A feature whose optional packages are not installed; see `require_optional`."""


class LifecycleError(TsjaxError, RuntimeError):
    """A model that can no longer compute: it was closed, or its process was forked while JAX was in use."""


class TruncationWarning(UserWarning):
    """Warning that some texts were longer than ``max_seq_length`` tokens and were truncated."""


class AssumptionWarning(UserWarning):
    """Warning that something about a model is a guess, because the files that define it were not available."""


# PyPI names of packages whose modules have another name.
_PACKAGES = {"google": "protobuf", "ir_measures": "ir-measures", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn"}


def require_optional(module: str, *, extra: str, feature: str = "this") -> ModuleType:
    """Import a module of an optional package when it is needed.

    Args:
        module: its dotted name.
        extra: the extra of tsjax that installs the package.
        feature: name of the feature that needs it, for the message.

    Raises:
        MissingExtraError: the module cannot be imported; the message names the package and the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise MissingExtraError(
            f"{feature} needs {_PACKAGES.get(root, root)}; install it with: pip install 'tsjax[{extra}]' ({error})"
        ) from error


def is_installed(module: str) -> bool:
    """Return whether a top-level module of this name exists, without importing it."""
    return importlib.util.find_spec(module) is not None
