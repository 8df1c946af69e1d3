"""Wording that messages share."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 row``, ``2,000 rows``.

    Args:
        number: the count.
        noun: singular noun.
        plural: plural noun; None for the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def reason(error: Exception) -> str:
    """Return an error's message without the file name that the operating system puts in it."""
    return getattr(error, "strerror", None) or str(error)
