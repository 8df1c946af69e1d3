"""The optional packages that the lab stands on: measures and pictures come from well-kept libraries, not from here."""

from __future__ import annotations

import importlib
from typing import Any

from tsjax.errors import MissingExtraError


def lab(module: str) -> Any:
    """A module of one of the packages of the extra ``lab``, imported when it is needed.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        package = {"sklearn": "scikit-learn", "ir_measures": "ir-measures"}.get(root, root)
        raise MissingExtraError(
            f"the lab needs {package}; install it with: pip install 'tsjax[lab]' (or pip install {package})"
        ) from error


def have(module: str) -> bool:
    """Whether a module of one of these packages can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
