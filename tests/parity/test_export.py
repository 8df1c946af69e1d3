"""Exported models, which load in transformers with no missing or unexpected key and compute the same."""

import functools
import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCardData

import tsjax
from conversion.convert import convert
from conversion.export import export
from tests.support.checkpoints import write_json
from tests.support.families import CASES, HEADS, Case
from tests.support.hidden_states import LENGTHS, ids, mean_vectors, ours
from tests.support.lazy import lazy
from tests.support.text_pairs import PAIRS
from tsjax.errors import InputError
from tsjax.temperature import LogLength, Temperature

hidden_states, load_original = lazy("conversion.originals", "hidden_states", "load_original")
CrossEncoder, SentenceTransformer = lazy("sentence_transformers", "CrossEncoder", "SentenceTransformer")
torch = lazy("torch")
transformers = lazy("transformers")

TEXTS = ["the cat", "what he had to be, but not by all of this", "Is it?", "was. " * 12]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return three directories by family: the one that transformers wrote, its conversion, and its export."""

    @functools.cache
    def make(name):
        path = tmp_path_factory.mktemp("exported")
        CASES[name].save(path / "theirs")
        convert(path / "theirs", path / "ours")
        export(path / "ours", path / "back")
        return path / "theirs", path / "ours", path / "back"

    return make


def load(model_class, path):
    """Load a model of transformers; return it with what transformers says of the keys in the file."""
    model, info = model_class.from_pretrained(path, attn_implementation="eager", output_loading_info=True)
    return model.eval(), {key: list(value) for key, value in info.items()}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(exported, name):
    theirs, _, back = exported(name)
    first, _ = load(CASES[name].model, theirs)
    second, info = load(CASES[name].model, back)
    assert not any(info.values()), info
    assert type(second.config) is type(first.config)
    one, two = first.state_dict(), second.state_dict()
    assert set(one) == set(two)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=0, msg=key)
    expected, mask = hidden_states(first, ids(1), LENGTHS)
    np.testing.assert_array_equal(hidden_states(second, ids(1), LENGTHS)[0][mask], expected[mask])
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(ids(1)), "attention_mask": torch.tensor(mask).long()}
        assert_same_output(second(**inputs), first(**inputs))


def assert_same_output(output, expected):
    """Check that pooled vectors are equal, too, if the class gives them."""
    if (pooled := getattr(expected, "pooler_output", None)) is not None:
        torch.testing.assert_close(output.pooler_output, pooled, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_second_conversion_gives_the_same_checkpoint(exported, name, tmp_path):
    _, mine, back = exported(name)
    again = convert(back, tmp_path / "again")
    first = tsjax.checkpoints.format.read_header(mine)
    assert again.metadata.model == first.metadata.model
    assert again.files["model.safetensors"] == first.files["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_folded_temperature(exported, name, tmp_path):
    _, mine, _ = exported(name)
    export(mine, tmp_path / "folded", temperature=Temperature(0.7))
    states, mask = hidden_states(load_original(tmp_path / "folded"), ids(1), LENGTHS)
    expected = ours(mine, ids(1), 0.7)
    scale = np.abs(expected[mask]).max()
    np.testing.assert_allclose(states[mask] / scale, expected[mask] / scale, rtol=0, atol=2e-6)
    np.testing.assert_allclose(mean_vectors(states, mask), mean_vectors(expected, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tau", "message"),
    [
        ("BERT", Temperature(0.9, by_length=LogLength(100)), "follows the text's length"),
        ("BERT", Temperature(0.9, query=1), "of their own"),
        ("ALBERT", Temperature((0.9, 0.8, 0.7)), "share weights"),
        ("MPNet", Temperature((0.9, 0.8, 0.7)), "position biases"),
        ("Qwen3-Embedding", Temperature(tuple((0.9, *[0.8] * 5) for _ in range(3))), "normalised alike"),
    ],
)
def test_a_temperature_that_cannot_be_folded_is_refused(exported, name, tau, message, tmp_path):
    _, mine, _ = exported(name)
    with pytest.raises(InputError, match=message):
        export(mine, tmp_path / "folded", temperature=tau)
    assert not (tmp_path / "folded").exists()


@pytest.mark.slow
def test_a_temperature_for_each_head(exported, tmp_path):
    _, mine, _ = exported("BERT")
    tau = Temperature(tuple(tuple(0.6 + 0.1 * (3 * i + j) for j in range(3)) for i in range(3)))
    export(mine, tmp_path / "folded", temperature=tau)
    states, mask = hidden_states(load_original(tmp_path / "folded"), ids(1), LENGTHS)
    again = ours(convert(tmp_path / "folded", tmp_path / "again").path, ids(1), 1.0)
    np.testing.assert_allclose(states[mask], again[mask], rtol=0, atol=2e-5)
    vectors = tsjax.load(mine).encode(TEXTS, temperature=tau)
    np.testing.assert_allclose(tsjax.load(tmp_path / "folded").encode(TEXTS), vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tau", [0.9, [0.9, 0.8, 0.7], [[0.9, 0.8, 1.1], [1, 0.7, 0.6], [1.3, 0.9, 0.8]]])
def test_every_engine_has_the_temperature(exported, tau, tmp_path):
    """The exported directory gives in sentence-transformers the vectors that tsjax gives with τ."""
    _, mine, _ = exported("BERT")
    export(mine, tmp_path / "folded", temperature=Temperature(tau))
    theirs = SentenceTransformer(str(tmp_path / "folded"), device="cpu")
    vectors = tsjax.load(mine, temperature=tau).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(theirs.encode(TEXTS, normalize_embeddings=True), vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tau", "said"),
    [
        (1, "None was folded in"),
        (0.9, "τ = 0.9: attention's query projection took it up"),
        ([0.9, 0.8, 0.7], "| 1 | 0.8 |"),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 0.5]], "| 2 | 7 | 8 | 0.5 |"),
    ],
)
def test_the_model_card_says_what_was_folded(exported, tau, said, tmp_path):
    _, mine, _ = exported("BERT")
    export(mine, tmp_path / "folded", temperature=Temperature(tau))
    card = (tmp_path / "folded" / "README.md").read_text(encoding="utf-8")
    front = ModelCardData(**yaml.safe_load(card.split("---")[1]))
    assert front.library_name == "sentence-transformers"
    assert said in card


@pytest.mark.parametrize("name", ["BERT", "T5", "ModernBERT", "Qwen3-Embedding"])
def test_sentence_transformers_gives_the_same_vectors(exported, name):
    _, mine, back = exported(name)
    vectors = tsjax.load(mine).encode(TEXTS, normalize_embeddings=True)
    theirs = SentenceTransformer(str(back), device="cpu")
    assert theirs.max_seq_length == tsjax.load(mine).max_seq_length
    np.testing.assert_allclose(theirs.encode(TEXTS, normalize_embeddings=True), vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["RoBERTa", "MPNet"])
def test_positions_come_back_where_the_padding_is_unsaid(name, tmp_path):
    CASES[name].save(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    del config["pad_token_id"]
    write_json(tmp_path / "theirs" / "config.json", config)
    convert(tmp_path / "theirs", tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    expected, mask = hidden_states(load_original(tmp_path / "theirs"), ids(1), LENGTHS)
    states, _ = hidden_states(load_original(tmp_path / "back"), ids(1), LENGTHS)
    np.testing.assert_array_equal(states[mask], expected[mask])


def test_no_token_of_text_becomes_padding(tmp_path):
    """If it were named as padding, a token would be special, and texts that contain it would get other ids."""
    CASES["EuroBERT"].save(tmp_path / "theirs")
    tokenizer = json.loads((tmp_path / "theirs" / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "[PAD]"]
    tokenizer["padding"] = None
    write_json(tmp_path / "theirs" / "tokenizer.json", tokenizer)
    write_json(tmp_path / "theirs" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    convert(tmp_path / "theirs", tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    texts = ["the [PAD] cat", "[PAD]", "of"]
    saved, back = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "back"))
    assert back(texts)["input_ids"] == saved(texts)["input_ids"]
    assert back.pad_token == "[UNK]"


def test_a_whole_stack_comes_back(tmp_path):
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling

    CASES["BERT"].save(tmp_path / "bert", tokenizer="BertTokenizer")
    stack = [
        Transformer(str(tmp_path / "bert")),
        Pooling(36, ("mean", "cls"), include_prompt=False),
        Dense(72, 20, activation_function=torch.nn.GELU(), bias=False),
        LayerNorm(20),
        Dense(20, 11, use_residual=True),
        Normalize(),
    ]
    theirs = SentenceTransformer(
        modules=stack, device="cpu", prompts={"query": "it was the "}, truncate_dim=7, similarity_fn_name="dot"
    )
    theirs.save(str(tmp_path / "saved"))
    convert(tmp_path / "saved", tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    again = SentenceTransformer(str(tmp_path / "back"), device="cpu", truncate_dim=7)
    assert again.prompts["query"] == "it was the "
    assert again.similarity_fn_name == "dot"
    for options in ({}, {"prompt_name": "query"}):
        np.testing.assert_allclose(again.encode(TEXTS, **options), theirs.encode(TEXTS, **options), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tsjax.TruncationWarning")
@pytest.mark.parametrize("name", [*HEADS, "ModernBERT with another head"])
def test_cross_encoders_come_back(name, tmp_path):
    name, _, other = name.partition(" with ")
    case, options = CASES[name], {"num_labels": 2}
    if other:
        options = {"num_labels": 3, "classifier_bias": True, "classifier_activation": "silu"}
        options |= {"classifier_pooling": "mean", "norm_bias": True}
    scorer = Case(case.config_name, HEADS[name], {**case.sizes, **options}, case.spread)
    typed = getattr(case.config(**case.sizes), "type_vocab_size", 0) > 1
    original = scorer.save(tmp_path / "theirs", tokenizer="BertTokenizer" if typed else "PreTrainedTokenizerFast")
    convert(tmp_path / "theirs", tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    again, info = load(transformers.AutoModelForSequenceClassification, tmp_path / "back")
    assert not any(info.values()), info
    assert type(again) is type(original)
    for key, value in original.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0, msg=key)
    scores = tsjax.load(tmp_path / "ours").predict(PAIRS)
    theirs = CrossEncoder(str(tmp_path / "back"), device="cpu")
    np.testing.assert_allclose(theirs.predict(PAIRS), scores, rtol=0, atol=1e-5)
