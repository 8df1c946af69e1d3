"""`encode` against `encode` of sentence-transformers, on directories that it saved itself."""

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_bert
from tests.support.lazy import lazy
from tests.support.tiers import fast_where

load_file = lazy("safetensors.torch", "load_file")
SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")
Dense, Transformer = lazy("sentence_transformers.base.modules", "Dense", "Transformer")
LayerNorm, Normalize, Pooling = lazy(
    "sentence_transformers.sentence_transformer.modules", "LayerNorm", "Normalize", "Pooling"
)
quantize_embeddings = lazy("sentence_transformers.util", "quantize_embeddings")
torch = lazy("torch")

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
POOLINGS = [*MODES, ("cls", "mean"), ("mean", "cls"), MODES]
TEXTS = ["the cat", "", "what he had to be, but not by all of this", "Is it?", "was. " * 12, "it is, for this was one"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("encoder") / "model", max_position_embeddings=60))


@pytest.fixture
def both(encoder, tmp_path):
    """Return the SentenceTransformer of the given modules, and the tsjax model of the directory that it saves."""

    def make(*modules, **options):
        torch.manual_seed(0)
        theirs = SentenceTransformer(modules=[Transformer(encoder), *(m() for m in modules)], device="cpu", **options)
        theirs.save(str(tmp_path / "saved"))
        return theirs, tsjax.load(tmp_path / "saved")

    return make


def assert_equal(theirs, ours, texts=TEXTS, **options):
    expected = theirs.encode(texts, **options)
    np.testing.assert_allclose(
        ours.encode(texts, **options), expected, rtol=0, atol=2e-6 * max(1, np.abs(expected).max())
    )


@pytest.mark.parametrize("modes", fast_where(lambda modes: modes is MODES, POOLINGS))
def test_pooling_modes(both, modes):
    assert_equal(*both(lambda: Pooling(36, modes)))


@pytest.mark.parametrize("modes", fast_where("mean".__eq__, MODES))
def test_prompts_in_and_out_of_the_pooling(both, modes):
    for include_prompt in (True, False):
        theirs, ours = both(lambda: Pooling(36, modes, include_prompt=include_prompt), prompts={"query": "it was the "})  # noqa: B023
        assert ours.prompts == {"query": "it was the ", "document": ""}
        assert_equal(theirs, ours, prompt_name="query")
        assert_equal(theirs, ours, prompt="for ")
        assert_equal(theirs, ours)
        np.testing.assert_allclose(ours.encode_query(TEXTS), theirs.encode_query(TEXTS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ["Tanh", "Identity"])
@pytest.mark.parametrize("bias", fast_where(bool, [True, False]))
def test_dense(both, activation, bias):
    dense = lambda: Dense(36, 13, bias=bias, activation_function=getattr(torch.nn, activation)())  # noqa: E731
    assert_equal(*both(lambda: Pooling(36), dense))


@pytest.mark.slow
@pytest.mark.parametrize("width", [36, 13])
def test_dense_with_a_residual(both, width):
    assert_equal(*both(lambda: Pooling(36), lambda: Dense(36, width, use_residual=True)))


@pytest.mark.slow
def test_a_stack_of_everything(both):
    stack = (
        lambda: Pooling(36, ("mean", "max")),
        lambda: Dense(72, 20),
        lambda: LayerNorm(20),
        lambda: Dense(20, 9),
        Normalize,
    )
    theirs, ours = both(*stack, truncate_dim=7, similarity_fn_name="dot")
    assert ours.truncate_dim == 7
    assert ours.similarity_fn_name == "dot"
    assert_equal(theirs, ours)
    assert_equal(theirs, ours, truncate_dim=5, normalize_embeddings=True)
    vectors = theirs.encode(TEXTS)
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        theirs.similarity_fn_name = ours.similarity_fn_name = name
        np.testing.assert_allclose(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors), atol=2e-6)
        pairwise = theirs.similarity_pairwise(vectors, vectors[::-1].copy())
        np.testing.assert_allclose(ours.similarity_pairwise(vectors, vectors[::-1]), pairwise, atol=2e-6)


@pytest.mark.slow
def test_token_embeddings_and_everything(both):
    theirs, ours = both(lambda: Pooling(36), Normalize)
    for mine, other in zip(
        ours.encode(TEXTS, output_value="token_embeddings"),
        theirs.encode(TEXTS, output_value="token_embeddings"),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other.numpy(), rtol=0, atol=4e-6)
    for mine, other in zip(ours.encode(TEXTS, output_value=None), theirs.encode(TEXTS, output_value=None), strict=True):
        count = len(mine["input_ids"])
        np.testing.assert_array_equal(mine["input_ids"], other["input_ids"][:count])
        np.testing.assert_allclose(mine["sentence_embedding"], other["sentence_embedding"].numpy(), rtol=0, atol=4e-6)


def test_where_texts_are_cut(both):
    theirs, ours = both(lambda: Pooling(36))
    assert ours.max_seq_length == theirs.max_seq_length == 60
    theirs.max_seq_length = ours.max_seq_length = 11
    with pytest.warns(tsjax.TruncationWarning):
        assert_equal(theirs, ours)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_quantized_bits(precision):
    vectors = np.random.default_rng(0).standard_normal((150, 37)).astype("f4")
    vectors[:, 5] = 0.25  # an empty range
    expected = quantize_embeddings(vectors, precision)
    ours = tsjax.quantize_embeddings(vectors, precision)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)
    calibration = vectors[:120] * 0.9
    expected = quantize_embeddings(vectors, precision, calibration_embeddings=calibration)
    np.testing.assert_array_equal(
        tsjax.quantize_embeddings(vectors, precision, calibration_embeddings=calibration), expected
    )


def test_bin_files(encoder, tmp_path):
    weights = load_file(f"{encoder}/model.safetensors")
    source = write_bert(tmp_path / "bin", max_position_embeddings=60)
    (source / "model.safetensors").unlink()
    state = {name: torch.nn.Parameter(value) for name, value in weights.items()}
    state["embeddings.LayerNorm.bias"] = state["embeddings.LayerNorm.bias"].detach().to(torch.bfloat16)
    torch.save(state, source / "pytorch_model.bin")
    ours = tsjax.load(source).encode(TEXTS)
    np.testing.assert_allclose(ours, tsjax.load(encoder).encode(TEXTS), rtol=0, atol=0.02)


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch hostile-pickle-was-here",)


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_bert(tmp_path / "bin")
    (source / "model.safetensors").unlink()
    torch.save({"embeddings.LayerNorm.bias": Hostile()}, source / "pytorch_model.bin")
    with pytest.raises(tsjax.ConversionError, match="cannot be read as weights"):
        tsjax.load(source)
    assert not (tmp_path / "hostile-pickle-was-here").exists()
    (source / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(tsjax.ConversionError, match="cannot be read as weights"):
        tsjax.load(source)
