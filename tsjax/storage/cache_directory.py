"""Cache directory of this package."""

from __future__ import annotations

import os
from pathlib import Path

from tsjax.storage.atomic import expanded


def cache_directory() -> Path:
    """Return the directory of converted models: ``$TSJAX_CACHE``, or ``tsjax`` in the user's cache directory.

    Raises:
        InputError: it is in an unknown home directory.
    """
    remedy = "set TSJAX_CACHE to the whole path of a directory for converted models"
    if chosen := os.environ.get("TSJAX_CACHE"):
        return expanded(chosen, remedy)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", remedy) / "tsjax"
