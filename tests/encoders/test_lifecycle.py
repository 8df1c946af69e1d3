"""The lifecycle of models: pickled, copied, closed and dropped, as seen by other threads and processes."""

import copy
import gc
import itertools
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
import time
import weakref
from operator import methodcaller

import jax
import joblib
import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_cross_encoder, write_routed, write_sentence_transformers
from tsjax.engine.executor import Executor
from tsjax.errors import CheckpointError, InputError, LifecycleError

TEXTS = ["the cat", "", "what he had to be", "Is it?"]
MANY = TEXTS * 100
PAIRS = [("the cat", "of it"), ("", "what he had"), ("Is it?", "but not by all of this")]
ENCODE, PREDICT = methodcaller("encode", TEXTS), methodcaller("predict", PAIRS)
COPIES = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    options = {"prompts": {"query": "the query of ", "passage": "this is "}, "default_prompt_name": "passage"}
    return {
        "embedder": write_sentence_transformers(path / "embedder", options=options),
        "cross-encoder": write_cross_encoder(path / "cross-encoder"),
        "routed": write_routed(path / "routed"),
    }


@pytest.fixture(params=["embedder", "cross-encoder", "routed"])
def kind(request):
    return request.param


@pytest.fixture
def model(directories, kind):
    return tsjax.load(directories[kind], token_budget=256)


@pytest.fixture
def embedder(directories):
    return tsjax.load(directories["embedder"], token_budget=256)


def result(model):
    return (PREDICT if isinstance(model, tsjax.CrossEncoder) else ENCODE)(model)


def many(model):
    return model.predict(PAIRS * 100) if isinstance(model, tsjax.CrossEncoder) else model.encode(MANY)


def parts(model):
    return list(model.routes.values()) if isinstance(model, tsjax.RoutedEmbedder) else [model]


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("tsjax-")}


def ended(begun):
    end = time.monotonic() + 30
    while begun & threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not begun & threads()


def double(logits):
    return 2 * logits


class Subclass(tsjax.Embedder):
    """A user's subclass with additional arguments and attributes."""

    def __init__(self, name, directory):
        super().__init__(directory)
        self.name = name


# -- pickled and copied --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal_and_counts_from_zero(model, way):
    expected = result(model)
    model.temperature = 0.8
    warm = result(model)
    assert np.abs(warm - expected).max() > 1e-5
    other = COPIES[way](model)
    assert type(other) is type(model)
    assert other.encoding_fingerprint == model.encoding_fingerprint
    assert other.statistics.texts == other.statistics.batches == other.statistics.compilations == 0
    np.testing.assert_array_equal(result(other), warm)
    other.temperature = 1
    np.testing.assert_array_equal(result(model), warm)


# Settings that can be changed after loading, each set to a value that loading would not give.
CHANGES = {
    "temperature": tsjax.Temperature(0.9, tsjax.LogLength(8), query=0.7),
    "max_seq_length": 23,
    "prompts": {"query": "it was "},
    "default_prompt_name": None,
    "truncate_dim": 7,
    "similarity_fn_name": "euclidean",
}


@pytest.mark.parametrize("way", COPIES)
def test_settings_are_those_at_the_time_of_copying(directories, way):
    chosen = {"dtype": "bfloat16", "token_budget": 300, "devices": 1, "shard_parameters": True, "truncate_dim": 9}
    embedder = tsjax.load(directories["embedder"], **chosen)
    for name, value in CHANGES.items():
        setattr(embedder, name, value)
    embedder.prompts["later"] = "this was "
    other = COPIES[way](embedder)
    for name in (*CHANGES, "dtype", "token_budget", "devices", "shapes", "encoding_fingerprint", "embedding_dimension"):
        assert getattr(other, name) == getattr(embedder, name), name
    other.prompts["only"] = "here "
    assert "only" not in embedder.prompts


@pytest.mark.slow
@pytest.mark.parametrize("way", COPIES)
def test_a_cross_encoders_activation_goes_along(directories, way):
    model = tsjax.load(directories["cross-encoder"])
    for activation in ("tanh", double):
        model.activation = activation
        np.testing.assert_array_equal(result(COPIES[way](model)), result(model))


@pytest.mark.slow
@pytest.mark.parametrize("way", COPIES)
def test_the_routes_of_a_copy_share_their_prompts_with_each_other_alone(directories, way):
    routed = tsjax.load(directories["routed"])
    routed.prompts = {"query": "it was "}
    other = COPIES[way](routed)
    assert other.routes.keys() == routed.routes.keys()
    other.prompts["new"] = "of "
    assert all("new" in embedder.prompts for embedder in other.routes.values())
    assert all("new" not in embedder.prompts for embedder in routed.routes.values())
    np.testing.assert_array_equal(other.encode_query(TEXTS), routed.encode_query(TEXTS))


@pytest.mark.parametrize("way", ["copy", "deepcopy"])
def test_a_copy_takes_no_memory_for_parameters(model, way):
    for one, other in zip(parts(model), parts(COPIES[way](model)), strict=True):
        own, shared = (jax.tree.leaves(each._engine.params) for each in (one, other))
        assert all(a is b for a, b in zip(own, shared, strict=True))


def test_a_pickle_holds_no_weights(model):
    assert len(pickle.dumps(model)) < 10_000


@pytest.mark.parametrize("way", COPIES)
def test_a_subclass_keeps_what_is_its_own(directories, embedder, way):
    own = Subclass("mine", embedder._header.path)
    own.itself = own
    other = COPIES[way](own)
    assert type(other) is Subclass
    assert other.name == "mine"
    if way != "copy":
        assert other.itself is other
    np.testing.assert_array_equal(other.encode(TEXTS), embedder.encode(TEXTS))


def test_what_holds_a_model_can_be_pickled(embedder):
    bound = pickle.loads(pickle.dumps(embedder.encode_query))
    np.testing.assert_array_equal(bound(TEXTS), embedder.encode_query(TEXTS))
    one, other = pickle.loads(pickle.dumps([embedder, embedder]))
    assert one is other


def test_a_relative_path_is_that_of_the_time_of_loading(embedder, tmp_path, monkeypatch):
    shutil.copytree(embedder._header.path, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(tsjax.Embedder("here"))
    monkeypatch.chdir(tmp_path / "here")
    np.testing.assert_array_equal(result(pickle.loads(pickled)), result(embedder))


def test_a_directory_that_is_gone_or_holds_something_else(model, directories, tmp_path):
    def pickled(name, source):
        shutil.copytree(source, tmp_path / name)
        return pickle.dumps(tsjax.load(tmp_path / name))

    source = parts(model)[0]._header.path
    if isinstance(model, tsjax.RoutedEmbedder):
        source = source.parent
    gone, other, damaged = (pickled(name, source) for name in ("gone", "other", "damaged"))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="gone"):
        pickle.loads(gone)

    shutil.rmtree(tmp_path / "other")
    if isinstance(model, tsjax.Embedder):
        shutil.copytree(
            tsjax.load(write_sentence_transformers(tmp_path / "st", seed=9))._header.path, tmp_path / "other"
        )
    else:
        write = write_routed if isinstance(model, tsjax.RoutedEmbedder) else write_cross_encoder
        write(tmp_path / "other", max_position_embeddings=40)
    with pytest.raises(CheckpointError, match="fingerprint"):
        pickle.loads(other)

    weights = next((tmp_path / "damaged").rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        pickle.loads(damaged)


def test_devices_are_found_by_their_ids(embedder):
    own = tsjax.Embedder(embedder._header.path, devices=embedder.devices[0])
    assert pickle.loads(pickle.dumps(own)).devices == own.devices
    for elsewhere in (("cpu", 77), ("tpu", 0)):
        own._engine.options["devices"] = [elsewhere]
        with pytest.raises(InputError, match=f"{elsewhere[0]}:{elsewhere[1]}"):
            pickle.loads(pickle.dumps(own))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_another_process_computes_with_a_pickled_model(directories, method):
    """The process computes although JAX is in use here."""
    models = [tsjax.load(directory, temperature=0.9) for directory in directories.values()]
    with multiprocessing.get_context(method).Pool(1) as pool:
        for model in models:
            function = PREDICT if isinstance(model, tsjax.CrossEncoder) else ENCODE
            np.testing.assert_array_equal(pool.apply(function, (model,)), result(model))


@pytest.mark.slow
def test_joblib(embedder):
    halves = joblib.Parallel(n_jobs=2)(joblib.delayed(embedder.encode)(texts) for texts in (TEXTS[:2], TEXTS[2:]))
    np.testing.assert_allclose(np.concatenate(halves), embedder.encode(TEXTS), atol=1e-5)


# -- closed and dropped --------------------------------------------------------------------------------------------


def uses(model):
    if isinstance(model, tsjax.CrossEncoder):
        return [result, methodcaller("rank", "the", []), methodcaller("warmup")]
    methods = (methodcaller(name, TEXTS) for name in ("encode_query", "encode_document", "stream"))
    return [result, *methods, methodcaller("encode", []), methodcaller("warmup")]


@pytest.mark.slow
def test_a_closed_model_has_no_threads_and_computes_nothing(model):
    before = threads()
    with model as entered:
        assert entered is model
        many(model)
        assert threads() - before
        done = model.statistics
    assert not threads() - before
    model.close()
    for use in (*uses(model), *COPIES.values(), methodcaller("__enter__")):
        with pytest.raises(LifecycleError, match="closed"):
            use(model)
    assert model.statistics == done
    assert model.encoding_fingerprint
    assert repr(model)
    model.temperature = 0.5


def test_closing_frees_the_parameters_unless_a_copy_has_them(model):
    held = [weakref.ref(leaf) for part in parts(model) for leaf in jax.tree.leaves(part._engine.params)]
    expected = result(model)
    other = copy.copy(model)
    model.close()
    np.testing.assert_array_equal(result(other), expected)
    other.close()
    gc.collect()
    assert all(leaf() is None for leaf in held)


@pytest.mark.slow
def test_closing_lets_a_call_that_has_begun_finish(embedder, monkeypatch):
    expected = embedder.encode(MANY)
    launch, computing, closed = Executor.launch, threading.Event(), threading.Event()

    def waits(*arguments, **options):
        computing.set()
        assert closed.wait(60)
        return launch(*arguments, **options)

    monkeypatch.setattr(Executor, "launch", waits)
    vectors = []
    caller = threading.Thread(target=lambda: vectors.append(embedder.encode(MANY)))
    caller.start()
    assert computing.wait(60)
    closer = threading.Thread(target=embedder.close)
    closer.start()
    while not embedder._engine._closed:
        time.sleep(0.001)
    with pytest.raises(LifecycleError):
        embedder.encode(MANY)
    closed.set()
    caller.join()
    closer.join()
    np.testing.assert_array_equal(vectors[0], expected)


def test_a_stream_ends_with_an_error_after_its_embedder_was_closed(embedder):
    stream = embedder.stream(TEXTS, block_size=2)
    next(stream)
    embedder.close()
    with pytest.raises(LifecycleError):
        next(stream)


@pytest.mark.slow
def test_a_dropped_model_leaves_no_thread(directories, kind):
    before = threads()
    model = tsjax.load(directories[kind], token_budget=256)
    known = weakref.ref(model)
    many(model)
    begun = threads() - before
    assert begun
    del model
    gc.collect()
    assert known() is None
    assert ended(begun)


def test_a_dropped_stream_leaves_no_thread_busy(embedder):
    before = threads()
    stream = embedder.stream((text for text in MANY * 100), block_size=200)
    next(stream)
    del stream
    done = embedder.statistics
    assert ended({thread for thread in threads() - before if thread.name.startswith("tsjax-ahead")})
    embedder._engine._pool.submit(lambda: None).result(60)
    assert embedder.statistics == done
    embedder.close()
    assert not threads() - before


@pytest.mark.slow
def test_an_error_while_tokenising_reaches_the_caller_and_harms_nothing(model, monkeypatch):
    monkeypatch.setattr("tsjax.engine.engine._LEAST_CHARACTERS", 1)
    monkeypatch.setattr("tsjax.engine.engine._CHARACTERS_PER_TOKEN", 1)
    expected = result(model)
    tokenizer = type(parts(model)[-1]._tokenizer)
    encode, calls = tokenizer.encode, []

    def fails(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise OSError("the third")
        return encode(*arguments)

    monkeypatch.setattr(tokenizer, "encode", fails)
    before = threads()
    with pytest.raises(OSError, match="the third"):
        many(model)
    assert ended({thread for thread in threads() - before if thread.name.startswith("tsjax-ahead")})
    np.testing.assert_array_equal(result(model), expected)


@pytest.mark.slow
def test_leaving_the_interpreter_with_open_models_is_clean(directories):
    script = """
import functools, logging, sys, tsjax
logging.disable(logging.WARNING)
embedder, scorer, routed = map(functools.partial(tsjax.load, token_budget=64), sys.argv[1:])
texts = ["the cat of a"] * 50
streams = [model.stream(texts, block_size=20) for model in (embedder, routed)]
for stream in streams:
    next(stream)
scorer.predict([texts[:2]] * 50)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, directories.values())], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# -- settings changed during a call -------------------------------------------------------------------------------


def test_a_stream_keeps_the_settings_of_its_beginning(embedder):
    expected = embedder.encode(MANY, prompt_name="query")
    embedder.default_prompt_name = "query"
    stream = embedder.stream(MANY, block_size=200)
    blocks = [next(stream)]
    for name, value in {**CHANGES, "prompts": {}}.items():
        setattr(embedder, name, value)
    blocks += stream
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=2e-6 * np.abs(expected).max())
    assert embedder.statistics.texts == 2 * len(MANY)


def test_settings_changed_by_another_thread_are_taken_whole(embedder):
    values = [(1.0, 41, "the query of "), (0.5, 40, "it ")]
    texts = ["the cat", "what"]
    possible = {
        embedder.encode(texts, prompt=prompt, temperature=temperature).tobytes()
        for temperature, prompt in itertools.product((1.0, 0.5), ("the query of ", "it "))
    }
    embedder.default_prompt_name = "query"
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for temperature, length, prompt in values:
                embedder.temperature, embedder.max_seq_length = temperature, length
                embedder.prompts = {"query": prompt}

    changer = threading.Thread(target=change)
    changer.start()
    try:
        found = {embedder.encode(texts).tobytes() for _ in range(100)}
    finally:
        stop.set()
        changer.join()
    assert found <= possible


def test_prompts_replaced_between_two_looks_are_no_error(embedder, monkeypatch):
    expected = embedder.encode("the cat", prompt="it ")
    states = itertools.chain([{"own": "it "}], itertools.repeat({}))
    monkeypatch.setattr(tsjax.Embedder, "prompts", property(lambda _: next(states)))
    np.testing.assert_array_equal(embedder.encode("the cat", prompt_name="own"), expected)
