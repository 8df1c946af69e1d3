"""Text that can be encoded: the one check of it, wherever text comes in."""

from __future__ import annotations


def lone_surrogate(text: str) -> int | None:
    """The place of the first lone surrogate, which no encoding of Unicode has; None in valid text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
