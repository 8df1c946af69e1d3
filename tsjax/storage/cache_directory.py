"""Where this package keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path

from tsjax.storage.atomic import expanded


def cache_directory() -> Path:
    """Where converted models are kept: ``$TSJAX_CACHE``, or ``tsjax`` in the user's cache directory.

    Raises:
        InputError: it is in a home directory that is not known.
    """
    remedy = "set TSJAX_CACHE to the whole path of a directory for converted models"
    if chosen := os.environ.get("TSJAX_CACHE"):
        return expanded(chosen, remedy)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", remedy) / "tsjax"
