"""Texts without tokens: `encode` names them, a job rejects them, and they never become a vector."""

import json
import pickle

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_json, write_sentence_transformers
from tsjax.cli.main import main
from tsjax.errors import InputError, NoTokensError

TEXTS = ["the cat", "", "a", "\x00\u200b", "of and to in"]
WHERE = [1, 3]


def without_special_tokens(path):
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(path / "tokenizer.json", {**content, "post_processor": None})
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return path


def made(path, pooling="mean", **options):
    pooling = {"embedding_dimension": 36, "pooling_mode": pooling, **options}
    return without_special_tokens(write_sentence_transformers(path, pooling=pooling, heads=[("Normalize", {})]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("model") / "mean")


@pytest.fixture(scope="module")
def embedder(model):
    return tsjax.load(model)


@pytest.mark.parametrize("options", [{}, {"output_value": "token_embeddings"}, {"output_value": None}])
def test_encode_names_the_text(embedder, options):
    for texts, index in (("", 0), (TEXTS, 1), (["a", "the cat", "\u200b"], 2)):
        with pytest.raises(InputError, match=f"text {index} has no tokens"):
            embedder.encode(texts, **options)


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_however_it_pools(tmp_path, pooling):
    with pytest.raises(InputError, match="text 1 "):
        tsjax.load(made(tmp_path / pooling, pooling)).encode(TEXTS)


def test_stream_counts_over_its_blocks(embedder):
    stream = embedder.stream(["a", "the", "of", "the cat", ""], block_size=2)
    assert len(next(stream)) == len(next(stream)) == 2
    with pytest.raises(InputError, match="text 4 "):
        next(stream)


def test_special_tokens_are_enough(tmp_path):
    embedder = tsjax.load(write_sentence_transformers(tmp_path / "special"))
    assert np.abs(embedder.encode(TEXTS)).max(axis=1).min() > 0


def test_nothing_but_a_prompt_that_pooling_leaves_out(tmp_path, embedder):
    left_out = tsjax.load(made(tmp_path / "left-out", include_prompt=False))
    with pytest.raises(InputError, match="text 1 "):
        left_out.encode(["the", ""], prompt="this is ")
    with pytest.raises(InputError, match="text 0 "):  # The prompt takes all the available space.
        left_out.encode(["the"], prompt="the " * 50)
    assert embedder.encode(["the", ""], prompt="this is ").shape == (2, 36)


def test_a_pair(tmp_path):
    rng, config = np.random.default_rng(0), {**BERT_CONFIG, "architectures": ["BertForSequenceClassification"]}
    weights = {f"bert.{name}": weight for name, weight in bert_weights(config).items()}
    weights |= {"bert.pooler.dense.weight": np.eye(36, dtype="f4"), "bert.pooler.dense.bias": np.zeros(36, "f4")}
    weights |= {"classifier.weight": rng.standard_normal((1, 36)).astype("f4"), "classifier.bias": np.zeros(1, "f4")}
    path = without_special_tokens(write_bert(tmp_path / "scorer", weights=weights, **config))
    scorer = tsjax.load(path)
    assert scorer.predict([("the", ""), ("", "cat")]).shape == (2,)
    with pytest.raises(InputError, match="pair 1 "):
        scorer.predict([("the", "cat"), ("", "\u200b")])


def test_the_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(NoTokensError(3, "pair")))
    assert (error.index, error.what, str(error)) == (3, "pair", str(NoTokensError(3, "pair")))


def test_embed_names_the_text(model, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the cat\n\na\n")
    output = tmp_path / "vectors.npy"
    assert main(["embed", str(tmp_path / "texts.txt"), "--model", str(model), "-o", str(output)]) == 2
    assert "text 1 " in capsys.readouterr().err
    assert not output.exists()


def batch(*arguments):
    return main(["batch", *map(str, arguments)])


@pytest.mark.parametrize("more", [(), ("--deduplicate",)])
@pytest.mark.parametrize("long_texts", ["cut", "reject", "chunk", "late"])
def test_a_job_rejects_the_rows(model, tmp_path, embedder, long_texts, more):
    texts = [*TEXTS, "of " * 90, "", "the cat"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts)))
    output = tmp_path / "out"
    options = ("--output", output, "--model", model, "--format", "npy", "--long-texts", long_texts, *more)
    assert batch("--input", file, *options) == 0
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rejected] == [1, 3, *([5] if long_texts == "reject" else []), 6]
    assert all(row["reason"] == "has no tokens" for row in rejected if row["row"] != 5)
    assert batch("verify", output) == 0
    vectors = np.load(next((output / "vectors").glob("*.npy")))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], embedder.encode("the cat"), atol=1e-5)
    np.testing.assert_allclose(vectors[-1], vectors[0], atol=1e-5)


def test_verify_still_sees_other_rows_that_were_rejected(model, tmp_path, capsys):
    file, output = tmp_path / "rows.txt", tmp_path / "out"
    file.write_text("the\n\na\n")
    assert batch("--input", file, "--output", output, "--model", model) == 0
    (record,) = output.rglob("shard-*.json")
    content = json.loads(record.read_text())
    content["rejected"][0]["reason"] = "not liked"
    record.write_text(json.dumps(content))
    assert batch("verify", output) != 0
    assert "can be embedded" in "".join(capsys.readouterr())


def test_learning_names_the_text(embedder):
    from tsjax.lab.learning.pairs import Pairs
    from tsjax.lab.learning.recipe import Recipe
    from tsjax.lab.learning.training import learn

    pairs = Pairs("letters", ("the", "of", "a"), ("the cat", "\u200b", "a cat"))
    with pytest.raises(InputError, match=r"letters.*has no tokens"):
        learn(embedder, [pairs], [pairs], Recipe(steps=1, batch_size=2))
