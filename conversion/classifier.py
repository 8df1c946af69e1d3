"""What turns an encoder into a cross-encoder: the head of a sequence classification model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Classifier:
    """A head."""
