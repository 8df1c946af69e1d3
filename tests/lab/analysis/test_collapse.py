"""The length collapse study: its tables against what the embedder gives, and its refusals."""

import itertools
import math

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import WORDS, write_sentence_transformers
from tsjax.errors import InputError
from tsjax.lab.analysis import (
    distance_to_centroid_change,
    effective_rank,
    mean_cosine_between,
    mean_pairwise_cosine,
    pairwise_cosine_change,
    study_collapse,
)

pytestmark = pytest.mark.slow

WORD_LIST = WORDS.split()


def text(tokens, seed):
    return " ".join(np.random.default_rng(seed).choice(WORD_LIST, tokens - 2))


TEXTS = [text(tokens, 10 * seed + tokens) for seed in range(5) for tokens in (7, 14, 40, 60)]
LENGTHS = (8, 16, 41)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "source"
    options = {"prompts": {"passage": "was it "}}
    return tsjax.load(str(write_sentence_transformers(path, options=options)))


@pytest.fixture(scope="module")
def found(embedder):
    return study_collapse(embedder, TEXTS, (1.0, [0.9, 0.5, 0.9]), lengths=LENGTHS, layer_texts=2)


def by(rows, *columns):
    return {tuple(getattr(row, column) for column in columns): row for row in rows}


def test_vectors_are_those_of_the_embedder(embedder, found):
    whole = {8: 7, 16: 14, 41: 40}
    vectors = by(found.vectors, "corpus", "temperature", "length")
    for name, tau in {"1": 1.0, found.about["temperatures"][1]["name"]: [0.9, 0.5, 0.9]}.items():
        for length, tokens in whole.items():
            own = embedder.encode([t for t in TEXTS if len(t.split()) == tokens - 2], temperature=tau)
            row = vectors["texts", name, length]
            assert row.texts == 5
            assert row.mean_tokens == tokens
            assert row.mean_cosine == pytest.approx(mean_pairwise_cosine(own), abs=1e-6)
            assert row.effective_rank == pytest.approx(effective_rank(own), abs=1e-5)
            assert row.mean_cosine_error > 0


def test_cut_texts_are_those_that_the_embedder_cuts(embedder):
    # It is no longer than the longest cut, so that it begins where the cuts do.
    long = [text(LENGTHS[-1], seed) for seed in range(6)]
    found = study_collapse(embedder, long, (0.7,), lengths=LENGTHS, layer_texts=0)
    rows = by(found.vectors, "corpus", "length")
    pairs = by(found.between, "corpus", "length", "other_length")
    cut = {n: embedder.encode([" ".join(t.split()[: n - 2]) for t in long], temperature=0.7) for n in LENGTHS}
    everywhere = np.concatenate(list(cut.values()))
    middle = (everywhere / np.linalg.norm(everywhere, axis=1, keepdims=True)).mean(0)
    for length, own in cut.items():
        row = rows["cut", length]
        units = own / np.linalg.norm(own, axis=1, keepdims=True)
        assert row.mean_cosine == pytest.approx(mean_pairwise_cosine(own), abs=1e-6)
        assert row.distance_to_centroid == pytest.approx(np.linalg.norm(units - units.mean(0), axis=1).mean(), abs=1e-6)
        assert row.distance_to_all == pytest.approx(np.linalg.norm(units - middle, axis=1).mean(), abs=1e-6)
    for a, b in itertools.combinations(LENGTHS, 2):
        # Rows are in another order, but in the same order at each length.
        expected = mean_cosine_between(cut[a], cut[b], paired=True)
        assert pairs["cut", a, b].mean_cosine == pytest.approx(expected, abs=1e-6)
    change = by(found.changes, "corpus")["cut",]
    assert (change.length, change.other_length) == (LENGTHS[0], LENGTHS[-1])
    expected = pairwise_cosine_change(cut[LENGTHS[0]], cut[LENGTHS[-1]])
    assert change[4:6] == pytest.approx(expected, abs=1e-6)
    assert change[6:8] == pytest.approx(distance_to_centroid_change(cut[LENGTHS[0]], cut[LENGTHS[-1]]), abs=1e-6)
    assert not found.heads
    assert not found.states


def test_tables_have_a_row_for_each_of_their_keys(found):
    names = [entry["name"] for entry in found.about["temperatures"]]
    corpora = {"texts": [8, 16, 41], "cut": [8, 16], "repeated": [8, 16, 41]}
    corpora["cut"] = sorted({row.length for row in found.vectors if row.corpus == "cut"})
    keys = [(corpus, name, length) for corpus, own in corpora.items() for name in names for length in own]
    assert sorted(by(found.vectors, "corpus", "temperature", "length")) == sorted(keys)
    columns = ("corpus", "temperature", "length")
    heads = [(*key, layer, head) for key in keys for layer in range(3) for head in range(3)]
    assert sorted(by(found.heads, *columns, "layer", "head")) == sorted(heads)
    assert sorted(by(found.states, *columns, "depth")) == sorted((*key, depth) for key in keys for depth in range(4))
    assert sorted(by(found.changes, "corpus", "temperature")) == sorted({key[:2] for key in keys})
    first, last = (by(found.vectors, "corpus", "temperature", "length")["texts", "1", n] for n in (8, 41))
    (change,) = (row for row in found.changes if (row.corpus, row.temperature) == ("texts", "1"))
    assert change.mean_cosine == pytest.approx(last.mean_cosine - first.mean_cosine, abs=1e-9)
    assert change.mean_cosine_error == pytest.approx(math.hypot(first.mean_cosine_error, last.mean_cosine_error))
    for table in (found.vectors, found.between, found.changes, found.heads, found.states):
        for row in table:
            assert all(math.isfinite(value) for value in row if not isinstance(value, str))
    assert {row.texts for row in found.heads} == {2}
    assert all(0 <= row.entropy <= 1 for row in found.heads)
    assert all(row.high_energy + row.low_energy == pytest.approx(1) for row in found.states)


def test_a_layers_temperature_sharpens_that_layer(found):
    heads = by(found.heads, "corpus", "temperature", "length", "layer", "head")
    sharp = found.about["temperatures"][1]["name"]

    def gain(layer):
        keys = [key for key in heads if key[1] == "1" and key[3] == layer]
        return np.mean([heads[key].entropy - heads[key[0], sharp, *key[2:]].entropy for key in keys])

    assert gain(1) > 2 * gain(0) > 0


def test_a_law_by_length_gives_each_text_its_own(embedder):
    law = tsjax.Temperature(1.0, by_length=tsjax.LogLength(8))
    found = study_collapse(embedder, TEXTS, (1.0, law), lengths=(8, 41), layer_texts=1)
    vectors = by(found.vectors, "corpus", "temperature", "length")
    name = str(law)
    # 8 tokens are the reference length of the law.
    repeated = [vectors["repeated", tau, 8] for tau in ("1", name)]
    assert repeated[0].mean_cosine == pytest.approx(repeated[1].mean_cosine, abs=1e-6)
    entropy = {row[:3]: row.entropy for row in found.heads if row.layer == 0 and row.head == 0}
    assert entropy["repeated", name, 41] < entropy["repeated", "1", 41]


def test_the_models_prompt_is_used(embedder):
    embedder.default_prompt_name = "passage"
    try:
        with_prompt = study_collapse(embedder, TEXTS, (1.0,), lengths=LENGTHS, layer_texts=0)
    finally:
        embedder.default_prompt_name = None
    assert with_prompt.about["prompt"] == "was it "
    row = by(with_prompt.vectors, "corpus", "length")["texts", 16]
    assert row.mean_tokens > 8
    own = [f"was it {t}" for t in TEXTS if 8 < len(t.split()) + 4 <= 16]
    assert row.mean_tokens == pytest.approx(np.mean([len(t.split()) + 2 for t in own]))


def test_nothing_about_the_embedder_changes(embedder, found):
    assert embedder.max_seq_length == 41
    assert embedder.temperature == tsjax.Temperature(1.0)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no text"),
        (["the of"], {}, "there is one text only; how texts lie to each other takes at least 3"),
        (TEXTS, {"temperatures": (1.0, 0.0)}, "temperature must be finite and > 0"),
        (TEXTS, {"temperatures": (1.0, math.nan)}, "temperature must be finite and > 0"),
        (TEXTS, {"temperatures": ()}, "there is no temperature to measure at"),
        (TEXTS, {"temperatures": 0.9}, "temperatures must be several, not 0.9"),
        (TEXTS, {"temperatures": ([1.0, 0.9],)}, "3 layers"),
        (TEXTS, {"lengths": (8, 42)}, "a length is 42"),
        (TEXTS, {"layer_texts": -1}, "layer_texts must be"),
        (
            ["", "the", "of", ""],
            {},
            "no length has 3 texts: of 4 texts, 3 different, the shortest has 2 and the longest 3",
        ),
        ([*TEXTS, 3], {}, "text 20 is .* not a string"),
    ],
)
def test_bad_input_gets_a_sentence(embedder, texts, options, message):
    with pytest.raises(InputError, match=message):
        study_collapse(embedder, texts, **options)
