import logging
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tsjax import hub
from tsjax.errors import InputError, TruncationWarning

TEXTS = ["the cat", "", "what he had to be, but not by all of this at one or his", "Is it?", "was"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    options = {"prompts": {"query": "the query of ", "passage": "this is a passage, "}, "truncate_dim": None}
    return write_sentence_transformers(tmp_path_factory.mktemp("st") / "model", options=options)


@pytest.fixture
def embedder(directory):
    return tsjax.load(directory)


def assert_close(ours, theirs):
    """Check that values agree within 2e-6 of the largest.

    This is the tolerance for hidden states: these vectors are not normalised.
    """
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_one_text_gives_one_vector_and_several_an_array(embedder):
    one, several = embedder.encode("the cat"), embedder.encode(TEXTS)
    assert one.shape == (36,)
    assert several.shape == (5, 36)
    assert one.dtype == several.dtype == np.float32
    np.testing.assert_allclose(several[0], one, atol=1e-6)


@pytest.mark.parametrize("empty", [[], (), np.array([]), iter([])])
def test_no_text_gives_an_empty_array(embedder, empty):
    assert embedder.encode(empty).shape == (0, 36)


@pytest.mark.parametrize("container", [tuple, np.array, iter, lambda texts: (text for text in texts)])
def test_any_iterable_will_do(embedder, container):
    np.testing.assert_array_equal(embedder.encode(container(TEXTS)), embedder.encode(TEXTS))


def test_the_old_name_of_inputs(embedder):
    np.testing.assert_array_equal(embedder.encode(sentences=TEXTS), embedder.encode(TEXTS))
    with pytest.raises(InputError, match="not both"):
        embedder.encode(TEXTS, sentences=TEXTS)
    with pytest.raises(InputError, match="not both"):
        embedder.encode()


@pytest.mark.parametrize("inputs", [3, {"a": "b"}, b"bytes", {"a", "b"}, np.array("text"), np.array([["a"]])])
def test_what_are_no_texts(embedder, inputs):
    with pytest.raises(InputError, match="expected a string or several in order"):
        embedder.encode(inputs)


def test_a_text_that_is_none(embedder):
    with pytest.raises(InputError, match="text 1 is None"):
        embedder.encode(["a", None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "question"}, "no prompt named 'question'; this model has 'query', 'document', 'passage'"),
        ({"prompt": 3}, "a prompt must be a string"),
        ({"precision": "int4"}, "precision 'int4' does not exist"),
        ({"output_value": "logits"}, "output_value 'logits' does not exist"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"truncate_dim": 0}, "truncate_dim must be"),
        ({"truncate_dim": 37}, "more than the 36 dimensions"),
        ({"temperature": 0}, "finite and > 0"),
        ({"temperature": [1.0, 1.0]}, "3 layers of 3 heads"),
    ],
)
def test_arguments_that_cannot_be_used(embedder, options, message):
    with pytest.raises(InputError, match=message):
        embedder.encode(TEXTS, **options)


def test_an_unknown_keyword(embedder):
    with pytest.raises(TypeError, match="normalise"):
        embedder.encode(TEXTS, normalise=True)


def test_neither_mates_nor_order_nor_batch_size_matter(embedder):
    texts = [("the " * n).strip() for n in range(30)] * 2
    vectors = embedder.encode(texts)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    assert_close(embedder.encode([texts[i] for i in shuffled]), vectors[shuffled])
    for size in (1, 3, 16, 1000):
        assert_close(embedder.encode(texts, batch_size=size), vectors)
    assert_close(np.stack([embedder.encode(text) for text in texts]), vectors)


def test_the_same_texts_give_the_same_bits(embedder):
    texts = [("was " * (n % 9)).strip() for n in range(150)]
    assert len({embedder.encode(texts).tobytes() for _ in range(5)}) == 1


def test_temperature_moves_vectors_and_compiles_nothing(embedder):
    before = embedder.encode(TEXTS)
    compiled = embedder.statistics.compilations
    events = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        seen = [before]
        laws = (tsjax.LogLength(8), tsjax.Piecewise(3, 9, 0.7))
        for tau in (0.9, 0.5, [1.0, 0.8, 0.6], np.full((3, 3), 0.7), *(tsjax.Temperature(1.0, law) for law in laws)):
            seen.append(embedder.encode(TEXTS, temperature=tau))
            assert np.abs(seen[-1] - before).max() > 1e-5
        np.testing.assert_array_equal(embedder.encode(TEXTS, temperature=1), before)
        assert embedder.statistics.compilations == compiled
        assert not events
        embedder.max_seq_length = 37
        # 2035 tokens, a shape that no other text has: the counters do count
        embedder.encode(["the " * 35] * 55, temperature=0.9)
        assert embedder.statistics.compilations == compiled + 1
        assert events
    finally:
        jax.monitoring.clear_event_listeners()
    assert len({vectors.tobytes() for vectors in seen}) == len(seen)


def test_queries_and_documents_have_their_own_temperatures(directory, embedder, tmp_path):
    tau = tsjax.Temperature(0.7, query=tsjax.Temperature(0.5, tsjax.LogLength(8)))
    expected = [embedder.encode(TEXTS, temperature=each) for each in (0.7, tau.query)]
    hub.convert_to(directory, tmp_path / "saved", temperature=tau)
    for loaded in (tsjax.load(directory, temperature=tau), tsjax.load(tmp_path / "saved")):
        np.testing.assert_array_equal(loaded.encode(TEXTS), expected[0])
        np.testing.assert_array_equal(loaded.encode_document(TEXTS, prompt=""), expected[0])
        np.testing.assert_array_equal(loaded.encode_query(TEXTS, prompt=""), expected[1])
        np.testing.assert_array_equal(np.concatenate(list(loaded.stream(TEXTS, task="query"))), expected[1])
    np.testing.assert_array_equal(embedder.encode_query(TEXTS, prompt="", temperature=tau), expected[1])


def test_the_embedders_own_temperature(directory, embedder):
    expected = embedder.encode(TEXTS, temperature=0.7)
    np.testing.assert_array_equal(tsjax.load(directory, temperature=0.7).encode(TEXTS), expected)
    embedder.temperature = 0.7
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)
    with pytest.raises(InputError):
        embedder.temperature = -1
    assert embedder.temperature == tsjax.Temperature(0.7)


def test_a_temperature_too_small_for_the_dtype_is_an_error_and_not_nan(directory):
    with pytest.raises(InputError, match="not finite"):
        tsjax.load(directory, dtype="float16").encode(TEXTS, temperature=1e-7)


def test_prompts(embedder):
    expected = embedder.encode(["the query of " + text for text in TEXTS])
    np.testing.assert_array_equal(embedder.encode(TEXTS, prompt_name="query"), expected)
    np.testing.assert_array_equal(embedder.encode_query(TEXTS), expected)
    np.testing.assert_array_equal(embedder.encode(TEXTS, prompt="the query of ", prompt_name="passage"), expected)
    plain = embedder.encode(TEXTS)
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), plain)
    embedder.default_prompt_name = "query"
    np.testing.assert_array_equal(embedder.encode(TEXTS), expected)
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), plain)
    del embedder.prompts["document"]
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), embedder.encode(TEXTS, prompt_name="passage"))
    np.testing.assert_array_equal(embedder.encode_document(TEXTS, prompt=""), plain)


def test_a_default_prompt_must_exist(directory):
    with pytest.raises(InputError, match="no prompt named 'nothing'"):
        tsjax.load(directory, default_prompt_name="nothing")


def test_truncate_then_normalise(directory, embedder):
    vectors = embedder.encode(TEXTS)
    short = vectors[:, :10]
    np.testing.assert_array_equal(embedder.encode(TEXTS, truncate_dim=10), short)
    unit = embedder.encode(TEXTS, truncate_dim=10, normalize_embeddings=True)
    np.testing.assert_allclose(unit, short / np.linalg.norm(short, axis=1, keepdims=True), atol=1e-6)
    ours = tsjax.load(directory, truncate_dim=10)
    assert ours.embedding_dimension == ours.get_embedding_dimension() == ours.get_sentence_embedding_dimension() == 10
    np.testing.assert_array_equal(ours.encode(TEXTS), short)


@pytest.mark.slow
def test_token_embeddings(embedder):
    tokens = embedder.encode(TEXTS, output_value="token_embeddings")
    everything = embedder.encode(TEXTS, output_value=None)
    vectors = embedder.encode(TEXTS)
    for item, token, vector in zip(everything, tokens, vectors, strict=True):
        assert token.shape == (len(item["input_ids"]), 36)
        np.testing.assert_array_equal(item["token_embeddings"], token)
        np.testing.assert_allclose(item["sentence_embedding"], vector, atol=1e-6)
        np.testing.assert_allclose(token.mean(axis=0), vector, atol=1e-6)
    assert embedder.encode("the", output_value="token_embeddings").shape == (3, 36)


def test_jax_arrays_on_request(embedder):
    one = embedder.encode(TEXTS, convert_to_tensor=True)
    several = embedder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(one, jax.Array)
    assert one.shape == (5, 36)
    assert len(several) == 5
    assert all(isinstance(vector, jax.Array) and vector.shape == (36,) for vector in several)


def test_arguments_stand_where_sentence_transformers_has_them(embedder):
    positional = embedder.encode(
        TEXTS, "query", None, 32, False, "sentence_embedding", "float32", True, False, None, True, 7
    )
    named = embedder.encode(TEXTS, prompt_name="query", normalize_embeddings=True, truncate_dim=7)
    np.testing.assert_array_equal(positional, named)
    np.testing.assert_array_equal(embedder.encode_query(TEXTS, None, "it "), embedder.encode(TEXTS, prompt="it "))
    np.testing.assert_array_equal(embedder.encode_query(sentences=TEXTS), embedder.encode_query(TEXTS))
    for name in ("pool", "chunk_size"):
        with pytest.raises(InputError, match=f"{name} has no meaning here"):
            embedder.encode(TEXTS, **{name: 3})


def test_the_name_of_the_device_that_is_used_anyway_is_harmless(directory, embedder):
    expected = embedder.encode(TEXTS)
    for name in ("cpu", "cpu:0"):
        np.testing.assert_array_equal(tsjax.load(directory, device=name).encode(TEXTS, device=name), expected)
    for name in ("cuda", "cuda:0", "cpu:1", "tpu", ["cpu"]):
        with pytest.raises(InputError, match="not what this model computes on"):
            embedder.encode(TEXTS, device=name)
        with pytest.raises(InputError, match="not what this model computes on"):
            tsjax.load(directory, device=name)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_dtypes_as_jax_spells_them(directory, dtype):
    assert tsjax.load(directory, dtype=dtype).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["int8", "nonsense", None, float, np.float64, 3, jnp.float8_e4m3fn])
def test_dtypes_that_no_model_computes_in(directory, dtype):
    with pytest.raises(InputError, match="dtype"):
        tsjax.load(directory, dtype=dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda _, e: e.encode(TEXTS, tempratur=0.9),
            "Embedder.encode has no .*did you mean 'temperature'",
        ),
        (lambda _, e: e.encode_query(TEXTS, normalize=True), "encode_query .*did you mean 'normalize_embeddings'"),
        (lambda _, e: e.encode_document(TEXTS, promt=""), "did you mean 'prompt'"),
        (lambda _, e: e.stream(TEXTS, blocksize=3), "did you mean 'block_size'"),
        (lambda _, e: e.encode(TEXTS, dtype="bfloat16"), "'dtype'; it is an argument of tsjax.load"),
        (lambda d, _: tsjax.load(d, temprature=1), "tsjax.load has no .*did you mean 'temperature'"),
        (lambda d, _: tsjax.load(d, task="separation"), "'task'; it is an argument of encode; adapter= chooses"),
        (lambda d, _: tsjax.load(d, trust_remote_code=True), "tsjax runs no code of a checkpoint"),
        (lambda d, _: tsjax.Embedder(d, temprature=1), "Embedder has no .*did you mean 'temperature'"),
        (lambda d, _: tsjax.embed(TEXTS, model=d, temprature=1), r"tsjax.embed has no .*did you mean 'temperature'\?$"),
        (
            lambda d, _: tsjax.embed(TEXTS, model=d, dtype="float16"),
            "tsjax.embed .*; it is an argument of tsjax.load",
        ),
        (
            lambda d, _: tsjax.embed(TEXTS, model=d, max_seq_len=3),
            "'max_seq_length', but it is an argument of tsjax",
        ),
        (lambda d, _: tsjax.embed(TEXTS, model=d, qqq=3), "tsjax.embed has no argument 'qqq'; it takes texts, model"),
        (lambda d, _: hub.resolve(d, adaptor="x"), "did you mean 'adapter'"),
    ],
)
def test_a_misspelt_keyword_is_named_with_the_nearest(directory, embedder, call, message):
    with pytest.raises(tsjax.KeywordError, match=message) as caught:
        call(directory, embedder)
    assert isinstance(caught.value, TypeError)  # as for Python's own functions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("truncate_dim", 0),
        ("truncate_dim", 37),
        ("similarity_fn_name", "bogus"),
        ("prompts", {"query": 3}),
        ("prompts", "query"),
        ("default_prompt_name", "nothing"),
    ],
)
def test_a_setting_that_cannot_be_used_is_not_set(embedder, name, value):
    before = getattr(embedder, name)
    with pytest.raises(InputError):
        setattr(embedder, name, value)
    assert getattr(embedder, name) == before


def test_the_fingerprint_follows_what_decides_the_vectors(directory, embedder):
    seen = {embedder.encoding_fingerprint}
    assert tsjax.load(directory).encoding_fingerprint in seen
    changes = {
        "temperature": 0.9,
        "max_seq_length": 20,
        "truncate_dim": 7,
        "default_prompt_name": "query",
        "prompts": {"query": "x", "document": "y", "passage": "z"},
    }
    for name, value in changes.items():
        setattr(embedder, name, value)
        assert embedder.encoding_fingerprint not in seen
        seen.add(embedder.encoding_fingerprint)
    assert tsjax.load(directory, dtype="bfloat16").encoding_fingerprint not in seen
    assert tsjax.load(directory, **changes).encoding_fingerprint == embedder.encoding_fingerprint


def test_precisions(embedder):
    vectors = embedder.encode(TEXTS)
    for precision in ("int8", "uint8", "binary", "ubinary"):
        expected = tsjax.quantize_embeddings(vectors, precision)
        np.testing.assert_array_equal(embedder.encode(TEXTS, precision=precision), expected)
    with pytest.raises(InputError, match="one embedding"):
        embedder.encode("the", precision="int8")


def test_truncation_is_reported_and_counted(embedder):
    long = "the " * 100
    with pytest.warns(TruncationWarning, match="1 of 2 texts were longer than max_seq_length = 41"):
        embedder.encode([long, "the"])
    assert embedder.statistics.truncated == 1
    assert embedder.statistics.texts == 2
    assert embedder.statistics.tokens == 41 + 3


def test_max_seq_length_can_be_set(embedder):
    embedder.max_seq_length = 10
    with pytest.warns(TruncationWarning):
        cut = embedder.encode("the " * 30)
    np.testing.assert_allclose(cut, embedder.encode("the " * 8), atol=1e-6)
    with pytest.warns(TruncationWarning):
        assert len(embedder.encode("the " * 30, output_value="token_embeddings")) == 10
    for wrong in (42, 2, 0, "10", None, True):
        with pytest.raises(InputError):
            embedder.max_seq_length = wrong
    assert embedder.max_seq_length == 10


def test_stream_gives_blocks_in_order_and_reads_as_it_goes(embedder):
    texts = [("the " * (n % 20)).strip() for n in range(25)]
    read = []
    source = (read.append(text) or text for text in texts)
    stream = embedder.stream(source, block_size=10)
    first = next(stream)
    assert len(read) == 10
    blocks = [first, *stream]
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert_close(np.concatenate(blocks), embedder.encode(texts))


def test_what_a_stream_cannot_do(embedder):
    with pytest.raises(InputError, match="quantize"):
        embedder.stream(TEXTS, precision="int8")
    with pytest.raises(InputError, match="not one string"):
        embedder.stream("text")
    with pytest.raises(InputError, match="text 7 is None"):
        list(embedder.stream([*["the"] * 7, None], block_size=3))


def test_similarity(embedder):
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [-3.0, -4.0], [3.0, 4.0]])
    np.testing.assert_allclose(embedder.similarity(a, b), [[0.96, -1, 1], [0, 0, 0]], atol=1e-6)
    expected: dict[str, list[list[float]]] = {
        "dot": [[24, -25, 25], [0, 0, 0]],
        "euclidean": [[-(2**0.5), -10, 0], [-5, -5, -5]],
        "manhattan": [[-2, -14, 0], [-7, -7, -7]],
    }
    for name, values in expected.items():
        embedder.similarity_fn_name = name
        np.testing.assert_allclose(embedder.similarity(a, b), values, atol=1e-5)
        np.testing.assert_allclose(embedder.similarity_pairwise(a, b[:2]), np.diag(np.array(values)[:, :2]), atol=1e-5)
    assert embedder.similarity(a[0], b[0]).shape == (1, 1)


def test_warmup_compiles_every_shape_and_no_later_call_does(directory, capsys):
    embedder = tsjax.load(directory, token_budget=128)
    report = embedder.warmup()
    assert tuple(report) == embedder.shapes
    assert len(capsys.readouterr().out.splitlines()) == len(report)
    compiled = embedder.statistics.compilations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        for count in (1, 2, 3, 7, 40):
            embedder.encode([("the " * n).strip() for n in range(count)])
    assert embedder.statistics.compilations == compiled


@pytest.mark.slow
def test_half_precision(directory, embedder):
    half = tsjax.load(directory, dtype="bfloat16")
    a, b = half.encode(TEXTS, normalize_embeddings=True), embedder.encode(TEXTS, normalize_embeddings=True)
    assert a.dtype == np.float32
    assert (a * b).sum(axis=1).min() > 0.999
    with pytest.raises(InputError, match="dtype"):
        tsjax.load(directory, dtype="int8")


def test_padding_is_counted(embedder):
    embedder.encode(["the"] * 4)
    done = embedder.statistics
    assert (done.texts, done.tokens, done.computed_tokens, done.batches) == (4, 12, 16, 1)
    assert done.padding_share == pytest.approx(1 - 12 / 16)


def test_a_progress_bar_is_shown_on_request_only(embedder, capsys):
    embedder.encode(TEXTS)
    assert capsys.readouterr().err == ""
    embedder.encode(TEXTS, show_progress_bar=True)
    assert "5/5" in capsys.readouterr().err
    logging.getLogger("tsjax").setLevel(logging.INFO)
    try:
        embedder.encode(TEXTS)
        assert "5/5" in capsys.readouterr().err
    finally:
        logging.getLogger("tsjax").setLevel(logging.NOTSET)


def test_repr_says_what_it_is(embedder):
    assert "3 layers × 36" in repr(embedder)


@pytest.mark.slow
def test_double_precision_elsewhere_in_the_program_does_no_harm(embedder, tmp_path):
    script = "import sys, tsjax, numpy; numpy.save(sys.argv[2], tsjax.load(sys.argv[1]).encode(['the cat', 'sat of']))"
    command = [sys.executable, "-c", script, str(embedder._header.path), str(tmp_path / "vectors.npy")]
    subprocess.run(command, env={**os.environ, "JAX_ENABLE_X64": "1"}, check=True)
    assert_close(np.load(tmp_path / "vectors.npy"), embedder.encode(["the cat", "sat of"]))
