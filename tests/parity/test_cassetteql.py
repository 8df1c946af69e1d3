"""A real checkpoint of the old kind: ``gamma`` and ``beta``, a ``bert.`` prefix, an MLM head."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

import tsjax
from tests.support.real_texts import HOSTILE, real_texts
from tests.support.reference import mean_vectors

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_it_converts_and_matches(tau):
    directory = Path(importlib.util.find_spec("cognition").origin).parent / "model"
    texts = [*HOSTILE, *real_texts(40, seed=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        ours = tsjax.load(directory).encode(texts, normalize_embeddings=True, temperature=tau)
    np.testing.assert_allclose(ours, mean_vectors(directory, texts, 512, tau), rtol=0, atol=1e-6)
