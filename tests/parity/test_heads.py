"""Checkpoints with the head of another task: the encoder is the one that transformers would load."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tsjax
from tests.support.checkpoints import write_json
from tests.support.families import CASES
from tests.support.lazy import lazy
from tsjax.checkpoints.format import read_header, read_weights
from tsjax.cli.main import main
from tsjax.hub import resolve
from tsjax.model.forward import weight_shapes

CrossEncoder, SentenceTransformer = lazy("sentence_transformers", "CrossEncoder", "SentenceTransformer")
hf = lazy("transformers")

TASKS = (
    *("ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "ForMultipleChoice", "ForNextSentencePrediction"),
    *("ForPreTraining", "ForQuestionAnswering", "ForSequenceClassification", "ForTokenClassification", "LMHeadModel"),
)
# transformers itself does not find the encoder in its own checkpoint.
LOST = {"Qwen3ForQuestionAnswering"}
TEXTS = ["the cat", "what he had to be, but not by all of this"]


def classes(case):
    stem = case.model_name.removesuffix("EncoderModel").removesuffix("Model")
    found = [getattr(hf, stem + task) for task in TASKS if hasattr(hf, stem + task)]
    return [one for one in found if one.__name__ not in LOST]


def encoder(directory):
    header = read_header(resolve(directory, kind="embedder"))
    weights = read_weights(header, weight_shapes(header.metadata.model))
    return {name: weight for name, weight in weights.items() if name.startswith("encoder.")}


def add_modules(directory, width):
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(directory / "modules.json", listed)
    write_json(directory / "1_Pooling" / "config.json", {"embedding_dimension": width, "pooling_mode": "mean"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tsjax.errors.AssumptionWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_encoder_of_every_class(tmp_path, name):
    case = CASES[name]
    width = next(case.sizes[key] for key in ("hidden_size", "dim", "d_model") if key in case.sizes)
    for one in classes(case):
        directory, bare = tmp_path / one.__name__, tmp_path / f"{one.__name__}-bare"
        dataclasses.replace(case, model_name=one.__name__).save(directory)
        case.model.from_pretrained(directory).save_pretrained(bare)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(directory / file, bare / file)
        expected = encoder(bare)
        add_modules(tmp_path / "pooled" / one.__name__, width)
        shutil.copytree(directory, tmp_path / "pooled" / one.__name__, dirs_exist_ok=True)
        for ours in (encoder(directory), encoder(tmp_path / "pooled" / one.__name__)):
            assert set(ours) == set(expected)
            for weight, value in expected.items():
                np.testing.assert_array_equal(ours[weight], value, err_msg=f"{one.__name__}: {weight}")


@pytest.fixture
def classifier(tmp_path):
    case = dataclasses.replace(CASES["BERT"], model_name="BertForSequenceClassification")
    case.save(tmp_path / "classifier", tokenizer="BertTokenizer")
    return tmp_path / "classifier"


def assert_alike(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_classifier_is_what_is_asked_for(classifier):
    theirs = SentenceTransformer(str(classifier), device="cpu").encode(TEXTS)
    with pytest.warns(tsjax.AssumptionWarning, match="averaged"):
        ours = tsjax.load(classifier, kind="embedder")
    assert_alike(ours.encode(TEXTS), theirs)
    with pytest.warns(tsjax.AssumptionWarning):
        assert_alike(tsjax.embed(TEXTS, model=classifier), theirs)
    with pytest.warns(tsjax.AssumptionWarning):
        assert_alike(tsjax.load(classifier, ignore_weights=["classifier.*"]).encode(TEXTS), theirs)
    pairs = [("the cat", "it was")]
    scores = CrossEncoder(str(classifier), device="cpu").predict(pairs)
    for kind in (None, "cross_encoder"):
        assert_alike(tsjax.load(classifier, kind=kind).predict(pairs), scores)
    assert resolve(classifier) == resolve(classifier, kind="cross_encoder")


def test_a_kind_that_is_asked_for_is_not_taken_for_the_usual_one(classifier):
    """Some kinds are recognised only in the conversion: weights are left out, or a module does nothing."""
    with pytest.raises(tsjax.ConversionError, match="classifier"):
        tsjax.load(classifier, kind="cross_encoder", ignore_weights=["classifier.*"])
    modules = ["Transformer", "Dropout"]
    write_json(
        classifier / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{name}" if i else "",
                "type": f"sentence_transformers.models.{name}",
            }
            for i, name in enumerate(modules)
        ],
    )
    write_json(classifier / "1_Dropout" / "config.json", {"dropout": 0.1})
    with pytest.warns(tsjax.AssumptionWarning):
        assert isinstance(tsjax.load(classifier, kind="embedder"), tsjax.Embedder)


def test_a_saved_cross_encoder(classifier, tmp_path):
    """Its modules.json has only a Transformer, and its prompts are those of a reranker."""
    CrossEncoder(str(classifier), device="cpu", prompts={"query": "rank: "}, default_prompt_name="query").save(
        str(tmp_path / "reranker")
    )
    theirs = SentenceTransformer(str(tmp_path / "reranker"), device="cpu")
    with pytest.warns(tsjax.AssumptionWarning):
        ours = tsjax.load(tmp_path / "reranker", kind="embedder")
    assert ours.prompts == theirs.prompts
    assert_alike(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_pooling_of_a_classifier(classifier):
    add_modules(classifier, 36)
    theirs = SentenceTransformer(str(classifier), device="cpu").encode(TEXTS)
    for kind in (None, "embedder"):
        assert_alike(tsjax.load(classifier, kind=kind).encode(TEXTS), theirs)
    pairs = [("the cat", "it was")]
    scores = CrossEncoder(str(classifier), device="cpu").predict(pairs)
    assert_alike(tsjax.load(classifier, kind="cross_encoder").predict(pairs), scores)


def test_what_is_no_cross_encoder(tmp_path, minilm):
    CASES["BERT"].save(tmp_path / "bert", tokenizer="BertTokenizer")
    with pytest.raises(tsjax.ConversionError, match="kind='embedder'"):
        tsjax.load(tmp_path / "bert", kind="cross_encoder")
    with pytest.raises(tsjax.ConversionError, match="vectors and no scores"):
        tsjax.load(resolve(tmp_path / "bert"), kind="cross_encoder")
    with pytest.raises(tsjax.InputError, match="embedder or cross_encoder"):
        tsjax.load(tmp_path / "bert", kind="reranker")


def test_a_converted_cross_encoder_is_no_embedder(classifier):
    with pytest.raises(tsjax.ConversionError, match="convert the original"):
        tsjax.load(resolve(classifier), kind="embedder")
    with pytest.raises(tsjax.ConversionError, match="ignore_weights"):
        tsjax.load(resolve(classifier), ignore_weights=["classifier.*"])


@pytest.mark.filterwarnings("always::tsjax.errors.AssumptionWarning")
def test_commands(classifier, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    theirs = SentenceTransformer(str(classifier), device="cpu").encode(TEXTS)
    for number, options in enumerate(([], ["--ignore-weight", "classifier.*"])):
        output = tmp_path / f"{number}.npy"
        assert main(["embed", str(tmp_path / "a.txt"), "-o", str(output), "--model", str(classifier), *options]) == 0
        assert_alike(np.load(output), theirs)
        assert "averaged" in capsys.readouterr().err
    assert main(["info", str(classifier)]) == 0
    assert "scores" in capsys.readouterr().out
    for options in (["--kind", "embedder"], ["--ignore-weight", "classifier.*"]):
        assert main(["info", str(classifier), *options]) == 0
        assert "assumed" in capsys.readouterr().out
    assert main(["convert", str(classifier), str(tmp_path / "out"), "--ignore-weight", "nothing.*"]) == 2
    assert "'nothing.*'" in capsys.readouterr().err


def test_weights_beside_an_encoder(tmp_path):
    """Transformers does not know their class, so only the user can say what they do."""
    case = CASES["BERT"]
    case.save(tmp_path / "model", tokenizer="BertTokenizer")
    add_modules(tmp_path / "model", 36)
    expected = tsjax.load(tmp_path / "model").encode(TEXTS)
    file = tmp_path / "model" / "model.safetensors"
    save_file({**load_file(file), "mlp.dense.weight": np.ones((3, 36), "f4"), "mlp.out": np.ones(3, "f4")}, file)
    with pytest.raises(tsjax.ConversionError, match=r"mlp\.dense\.weight"):
        tsjax.load(tmp_path / "model")
    with pytest.raises(tsjax.ConversionError, match=r"mlp\.out"):
        tsjax.load(tmp_path / "model", ignore_weights=["mlp.dense.*"])
    ours = tsjax.load(tmp_path / "model", ignore_weights=["mlp.dense.*", "mlp.out"])
    np.testing.assert_array_equal(ours.encode(TEXTS), expected)
    with pytest.raises(tsjax.ConversionError, match=r"'clasifier\.\*'"):
        tsjax.load(tmp_path / "model", ignore_weights=["mlp.*", "clasifier.*"])
    with pytest.raises(tsjax.ConversionError, match="missing"):
        tsjax.load(tmp_path / "model", ignore_weights=["mlp.*", "embeddings.*"])
    with pytest.raises(tsjax.InputError, match="list of names"):
        tsjax.load(tmp_path / "model", ignore_weights="mlp.*")


def test_a_bare_language_model_pools_its_last_token(tmp_path):
    """Sentence-transformers does the same if no file says how; a model that calls itself not causal is averaged."""
    case = dataclasses.replace(CASES["Qwen3-Embedding"], model_name="Qwen3ForCausalLM")
    case.save(tmp_path / "model")
    theirs = SentenceTransformer(modules=None, model_name_or_path=str(tmp_path / "model"), device="cpu")
    assert type(theirs[0]).__name__ == "Transformer"
    assert_alike(tsjax.load(tmp_path / "model").encode(TEXTS), theirs.encode(TEXTS))
