"""The list of sentence-transformers' module classes: each is converted, or refused with a test."""

from conversion.modules import _KNOWN
from conversion.sentence_transformers import _HEADS


def test_every_module_is_thought_of():
    from sentence_transformers.sentence_transformer import modules as dense
    from sentence_transformers.sparse_encoder import modules as sparse

    refused = {"StaticEmbedding", "BoW", "CLIPModel", "CNN", "LSTM", "WeightedLayerPooling", "WordEmbeddings"}
    refused |= {"WordWeights", "MLMTransformer", "SparseAutoEncoder", "SparseStaticEmbedding", "SpladePooling"}
    abstract = {"Module", "InputModule"}
    assert {*dense.__all__, *sparse.__all__} == {*_KNOWN, *refused, *abstract}
    assert set(_HEADS) < set(_KNOWN)
