"""Words that messages share."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 row``, ``2,000 rows``.

    Args:
        number: how many there are.
        noun: what one is called.
        plural: what several are called; None for the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def reason(error: Exception) -> str:
    """Return what an error says, without the file that the operating system names in it."""
    return getattr(error, "strerror", None) or str(error)
