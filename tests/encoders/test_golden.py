"""all-MiniLM-L6-v2 against stored PyTorch vectors (scripts/verify/goldens.py): parity without PyTorch."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import tsjax
from tests.support.tiers import fast_where

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "minilm.npz")
TEXTS = json.loads(GOLDEN["texts"].tobytes())


@pytest.mark.parametrize("index", fast_where({0, 2}.__contains__, range(len(GOLDEN["temperatures"]))))
def test_equal_to_pytorch(minilm, index):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        ours = minilm.encode(TEXTS, temperature=float(GOLDEN["temperatures"][index]))
    np.testing.assert_allclose(ours, GOLDEN["vectors"][index], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_half_precision_stays_close(minilm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        half = tsjax.load(dtype="bfloat16").encode(TEXTS)
    assert (half * GOLDEN["vectors"][0]).sum(axis=1).min() > 0.999


def test_the_short_way_gives_the_same(minilm):
    np.testing.assert_array_equal(tsjax.embed(TEXTS[4], temperature=0.9), minilm.encode(TEXTS[4], temperature=0.9))


@pytest.mark.slow
def test_the_same_shape_gives_the_same_bits_wherever_a_text_stands(minilm):
    """The text stands in sixteen rows of 32 tokens. Among other texts, its vector is within 1e-6."""
    text, mates = (
        "The early bird catches the worm, as they say.",
        [f"Row {i} of the batch. " * (i % 3) for i in range(15)],
    )
    rows = [minilm.encode([*mates[:i], text, *mates[i:]], batch_size=16)[i] for i in (0, 1, 7, 15)]
    assert len({row.tobytes() for row in rows}) == 1
    for company in ([text], [text, "x " * 200], [text] * 70, [*TEXTS[4:], text]):
        place = company.index(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tsjax.TruncationWarning)
            np.testing.assert_allclose(minilm.encode(company)[place], rows[0], rtol=0, atol=1e-6)
