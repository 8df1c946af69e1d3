"""The modules of sentence-transformers that are converted, ignored, or refused by name."""

import json
import shutil

import pytest

from conversion.convert import convert
from tests.support.checkpoints import write_json, write_sentence_transformers
from tsjax.errors import ConversionError

NEW, SPARSE = "sentence_transformers.sentence_transformer.modules", "sentence_transformers.sparse_encoder.modules"
REFUSED = {
    "StaticEmbedding": f"{NEW}.static_embedding.StaticEmbedding",
    "BoW": f"{NEW}.bow.BoW",
    "CLIPModel": f"{NEW}.clip_model.CLIPModel",
    "CNN": f"{NEW}.cnn.CNN",
    "LSTM": f"{NEW}.lstm.LSTM",
    "WeightedLayerPooling": f"{NEW}.weighted_layer_pooling.WeightedLayerPooling",
    "WordEmbeddings": f"{NEW}.word_embeddings.WordEmbeddings",
    "WordWeights": f"{NEW}.word_weights.WordWeights",
    "MLMTransformer": f"{SPARSE}.mlm_transformer.MLMTransformer",
    "SparseAutoEncoder": f"{SPARSE}.sparse_auto_encoder.SparseAutoEncoder",
    "SparseStaticEmbedding": f"{SPARSE}.sparse_static_embedding.SparseStaticEmbedding",
    "SpladePooling": f"{SPARSE}.splade_pooling.SpladePooling",
}
SUPPORTED = "supported are Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout, Router, Asym"


@pytest.fixture(scope="module")
def _source(tmp_path_factory):
    return write_sentence_transformers(tmp_path_factory.mktemp("modules") / "source")


@pytest.fixture
def source(_source, tmp_path):
    return shutil.copytree(_source, tmp_path / "source")


def with_modules(source, *kinds):
    """Write other modules into a directory, as pairs of type and folder."""
    write_json(source / "modules.json", [{"type": kind, "path": path} for kind, path in kinds])
    return source


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_is_not_supported_is_named(source, tmp_path, name, at):
    kinds = [("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")]
    for kind in (REFUSED[name], f"sentence_transformers.models.{name}"):  # a newer and an older path
        with pytest.raises(ConversionError) as caught:
            convert(with_modules(source, *kinds[:at], (kind, "x"), *kinds[at:]), tmp_path / "out")
        assert str(caught.value) == f"{source / 'modules.json'}: module {kind!r} is not supported; {SUPPORTED}"
    assert not (tmp_path / "out").exists()


def test_dropout_is_passed_over(source, tmp_path):
    plain = convert(source, tmp_path / "plain").fingerprint
    modules = json.loads((source / "modules.json").read_text())
    kinds = [(module["type"], module["path"]) for module in modules]
    with_modules(source, *kinds, ("sentence_transformers.models.Dropout", "2_Dropout"))
    assert convert(source, tmp_path / "out").fingerprint == plain
    with_modules(source, ("sentence_transformers.models.Dropout", "2_Dropout"))
    with pytest.raises(ConversionError, match="expected a Transformer and then a Pooling module, found none"):
        convert(source, tmp_path / "no")
