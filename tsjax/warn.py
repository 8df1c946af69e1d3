"""Warnings that point at the user's line, however deep inside tsjax they are raised."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

# Packages of the distribution, whose frames are skipped.
_OURS = tuple(os.path.join(Path(__file__).parent.parent, name, "") for name in ("tsjax", "conversion"))  # noqa: PTH118


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the innermost line of the calling thread that is outside tsjax.

    Args:
        message: the text of the warning.
        category: its class.
    """
    # From Python 3.12 on, warnings.warn has skip_file_prefixes for this.
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
