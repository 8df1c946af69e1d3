"""Batches in the engine's threads: the order of waiting, and the state after an error."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tsjax.engine.executor import Executor
from tsjax.errors import InputError

TEXTS = ["what he had to be, but not by all of this at one or his", "the cat", "Is it?", "was"] * 100


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_sentence_transformers(tmp_path_factory.mktemp("st") / "model")


@pytest.fixture
def embedder(directory):
    return tsjax.load(directory, token_budget=256)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tsjax-batch")]


@pytest.mark.slow
def test_many_threads_share_the_engine_and_get_their_own_vectors(embedder):
    taus = np.linspace(0.5, 1.5, 16)
    expected = [embedder.encode(TEXTS, temperature=tau) for tau in taus]
    batches = embedder.statistics.batches
    assert batches >= 16 * 10
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda tau: embedder.encode(TEXTS, temperature=tau), taus))
    for result, vectors in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, vectors)
    assert embedder.statistics.batches == 2 * batches


def test_threads_that_meet_a_new_shape_compile_it_once(tmp_path):
    """The test has its own model, because all models of one architecture share programs."""
    embedder = tsjax.load(write_sentence_transformers(tmp_path / "model", max_position_embeddings=72))
    before = embedder.statistics.compilations
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(embedder.encode, ["the cat"] * 8))
    assert embedder.statistics.compilations == before + 1


def test_each_embedder_counts_the_programs_of_its_own_calls(tmp_path):
    """Programs are shared: one engine finds what another of the same architecture has compiled."""
    path = write_sentence_transformers(tmp_path / "model", num_hidden_layers=1, max_position_embeddings=73)
    one, other = tsjax.load(path), tsjax.load(path)
    one.encode("the cat")
    assert (one.statistics.compilations, other.statistics.compilations) == (1, 0)
    other.encode("the cat", temperature=0.5)
    assert (one.statistics.compilations, other.statistics.compilations) == (1, 0)
    other.encode("the cat", output_value="token_embeddings")
    assert (one.statistics.compilations, other.statistics.compilations) == (1, 1)


@pytest.mark.slow
def test_each_embedder_counts_its_own_programs_when_several_compile_at_once(tmp_path):
    """Each embedder has its own architecture, so that each program belongs to one engine."""
    loaded = [
        tsjax.load(write_sentence_transformers(tmp_path / str(n), num_hidden_layers=1, max_position_embeddings=n))
        for n in (74, 75)
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda call: call[0].encode(call[1]), itertools.product(loaded, (TEXTS[:3], "the cat"))))
    for embedder in loaded:
        assert embedder.statistics.compilations == len(embedder._engine._executor._launched) > 0


def test_a_short_query_does_not_wait_for_the_others(embedder):
    expected = embedder.encode("the cat")
    occupied = threading.Event()
    for _ in range(8):
        embedder._engine._pool.submit(occupied.wait, 60)
    try:
        np.testing.assert_array_equal(embedder.encode("the cat"), expected)
        assert not occupied.is_set()
    finally:
        occupied.set()


def test_an_error_in_a_thread_reaches_the_caller_and_harms_nothing(embedder, monkeypatch):
    expected = embedder.encode(TEXTS)
    launch, calls = Executor.launch, []

    def fails(*arguments, **options):
        calls.append(0)
        if len(calls) == 4:
            raise InputError("the fourth")
        return launch(*arguments, **options)

    monkeypatch.setattr(Executor, "launch", fails)
    with pytest.raises(InputError, match="the fourth"):
        embedder.encode(TEXTS)
    assert len(calls) < 10  # Batches that were not started are not computed.
    monkeypatch.undo()
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)


def test_threads_end_with_their_engine(directory):
    """Engines of other tests may end meanwhile, so only the threads that this engine started count."""
    before = set(threads())
    embedder = tsjax.load(directory, token_budget=256)
    embedder.encode(TEXTS)
    begun = set(threads()) - before
    assert begun
    del embedder
    gc.collect()
    end = time.monotonic() + 30
    while begun & set(threads()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not begun & set(threads())


@pytest.mark.slow
def test_a_thread_that_outlives_the_main_thread_goes_on(directory, tmp_path):
    script = """
import sys, threading, time
import numpy as np, tsjax
embedder = tsjax.load(sys.argv[1], token_budget=256)
texts = ["the cat of and a", "what he had to be"] * 200

def late():
    threading.main_thread().join()
    time.sleep(0.5)
    np.save(sys.argv[2], embedder.encode(texts))

threading.Thread(target=late).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory), str(tmp_path / "vectors.npy")],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "vectors.npy").shape[0] == 400, done.stderr
