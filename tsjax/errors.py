"""The exceptions that tsjax raises for a user: one sentence each, saying what was wrong, where, and what to do."""

from __future__ import annotations


class TsjaxError(Exception):
    """Base of every error that tsjax raises on purpose; the command line prints it as one line and exits with 2."""


class InputError(TsjaxError, ValueError):
    """An argument or a text that cannot be used."""


class ConfigError(TsjaxError, ValueError):
    """A model configuration that is unknown, contradictory, or not runnable."""


class CheckpointError(TsjaxError, ValueError):
    """A checkpoint directory that is incomplete, damaged, or not in the expected format."""


class ConversionError(TsjaxError, ValueError):
    """A foreign checkpoint that cannot be translated without guessing."""


class ModelNotFoundError(TsjaxError, LookupError):
    """A model name that leads to no checkpoint."""


class OutputError(TsjaxError, OSError):
    """An output that exists already or cannot be written."""


class MissingExtraError(TsjaxError, ImportError):
    """A feature whose optional packages are not installed."""


class TruncationWarning(UserWarning):
    """Some texts were longer than ``max_seq_length`` tokens and lost their end."""


class AssumptionWarning(UserWarning):
    """Something about a model is a guess, since files that would say it could not be looked at."""
