"""Generated pairs of texts to learn from."""

import numpy as np

from tests.support.checkpoints import WORDS
from tsjax.lab.learning.pairs import Pairs


def pairs(count, seed, name="corpus", hard=0):
    """Return texts of a few words, with queries made of their words."""
    rng, words = np.random.default_rng(seed), WORDS.split()
    documents = [" ".join(rng.choice(words, rng.integers(4, 30))) for _ in range(count)]
    queries = [" ".join(rng.choice(text.split(), 3)) for text in documents]
    negatives = [tuple(" ".join(rng.choice(words, 9)) for _ in range(hard)) for _ in range(count)] if hard else ()
    return Pairs(name, tuple(queries), tuple(documents), tuple(negatives))
