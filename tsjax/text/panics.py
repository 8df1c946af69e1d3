"""Conversion of the Rust tokenizer's panics to exceptions that can be caught."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class PanicError(Exception):
    """Panic of the Rust tokenizer, a failure for which it has no error."""


@contextlib.contextmanager
def reported_panics() -> Iterator[None]:
    """Raise a `PanicError` if Rust code panics.

    Python sees a panic as ``pyo3_runtime.PanicException``, which cannot be imported and does not derive from
    `Exception`, so that it passes every ``except Exception``, as an interrupt does.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise PanicError(f"the Rust code panics: {error}") from error
