"""Pairs of texts of every length for cross-encoders, empty ones among them."""

import itertools

from tests.support.real_texts import real_texts

WORDS = [text.lower().split() for text in real_texts(12, seed=3)]

PAIRS = [
    ("the cat", "of it"),
    ("", ""),
    ("what he had to be", ""),
    *((" ".join(a[:5]), " ".join(b[: 3 * i])) for i, (a, b) in enumerate(itertools.pairwise(WORDS))),
]
