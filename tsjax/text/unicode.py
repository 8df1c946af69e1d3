"""Validity check of Unicode text, shared by all inputs of text."""

from __future__ import annotations


def lone_surrogate(text: str) -> int | None:
    """Return the index of the first lone surrogate, which no encoding of Unicode represents; None in valid text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
