"""`predict` and `rank` against sentence-transformers' CrossEncoder, for every family that has such a head."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import tsjax
from tests.support.families import CASES, HEADS, Case
from tests.support.lazy import lazy
from tests.support.text_pairs import PAIRS

tempered = lazy("conversion.originals", "tempered")
CrossEncoder = lazy("sentence_transformers", "CrossEncoder")
torch = lazy("torch")

pytestmark = pytest.mark.filterwarnings("ignore::tsjax.TruncationWarning")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the models of both packages from one directory.

    ``saved`` says whether sentence-transformers itself or transformers writes it.
    """

    @functools.cache
    def make(name, labels=1, saved=False, tokenizer="BertTokenizer", **options):
        case = CASES[name]
        path = tmp_path_factory.mktemp("scorer")
        scorer = Case(case.config_name, HEADS[name], {**case.sizes, "num_labels": labels, **options}, case.spread)
        if getattr(case.config(**case.sizes), "type_vocab_size", 0) < 2:
            tokenizer = "PreTrainedTokenizerFast"
        scorer.save(path / "plain", tokenizer=tokenizer)
        theirs = CrossEncoder(str(path / "plain"), device="cpu", model_kwargs={"attn_implementation": "eager"})
        theirs.max_seq_length = 80
        if saved:
            theirs.save_pretrained(str(path / "saved"))
        ours = tsjax.load(path / ("saved" if saved else "plain"))
        ours.max_seq_length = 80
        return theirs, ours

    return make


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("name", HEADS)
def test_logits(both, name, tau):
    theirs, ours = both(name)
    with tempered(tau):
        expected = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    logits = ours.predict(PAIRS, activation_fn="identity", temperature=tau)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    if tau != 1:
        assert np.abs(logits - ours.predict(PAIRS, activation_fn="identity")).max() > 1e-3


@pytest.mark.slow
def test_scores_ranks_and_shapes(both):
    theirs, ours = both("BERT")
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=1e-5)
    assert ours.predict(PAIRS[3]) == pytest.approx(theirs.predict(PAIRS[3]), abs=1e-5)
    assert ours.predict([]).shape == (0,)
    query, documents = PAIRS[3][0], [second for _, second in PAIRS]
    for top_k in (None, 4):
        expected = theirs.rank(query, documents, top_k=top_k, return_documents=True)
        ranked = ours.rank(query, documents, top_k=top_k, return_documents=True)
        assert [row["corpus_id"] for row in ranked] == [row["corpus_id"] for row in expected]
        assert [row["text"] for row in ranked] == [row["text"] for row in expected]
        np.testing.assert_allclose([r["score"] for r in ranked], [r["score"] for r in expected], atol=1e-5)


@pytest.mark.slow
def test_several_labels(both):
    theirs, ours = both("RoBERTa", labels=3)
    assert ours.num_labels == 3
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=1e-5)
    softmax = ours.predict(PAIRS, apply_softmax=True)
    np.testing.assert_allclose(softmax, theirs.predict(PAIRS, apply_softmax=True), rtol=0, atol=1e-5)
    assert ours.predict([]).shape == (0, 3)
    with pytest.raises(tsjax.InputError, match="this model gives 3"):
        ours.rank("a", ["b"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BERT", "ModernBERT"])
def test_saved_by_sentence_transformers(both, name):
    options = {"classifier_pooling": "mean"} if name == "ModernBERT" else {}
    theirs, ours = both(name, saved=True, **options)
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_prompts(both):
    theirs, ours = both("BERT")
    np.testing.assert_allclose(
        ours.predict(PAIRS, prompt="it was "), theirs.predict(PAIRS, prompt="it was "), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_pairs_are_cut_as_theirs_are(both):
    theirs, ours = both("BERT")
    theirs.max_seq_length = ours.max_seq_length = 19
    try:
        with pytest.warns(tsjax.TruncationWarning, match="pairs were longer"):
            cut = ours.predict(PAIRS)
        np.testing.assert_allclose(cut, theirs.predict(PAIRS), rtol=0, atol=1e-5)
    finally:
        theirs.max_seq_length = ours.max_seq_length = 80


@pytest.mark.slow
def test_token_types_are_used_only_where_the_tokenizer_gives_them(both):
    typed, plain = both("BERT")[1], both("BERT", tokenizer="PreTrainedTokenizerFast")
    np.testing.assert_allclose(plain[1].predict(PAIRS), plain[0].predict(PAIRS), rtol=0, atol=1e-5)
    assert np.abs(plain[1].predict(PAIRS) - typed.predict(PAIRS)).max() > 1e-3


def test_pairs_of_every_kind_that_holds_two_texts(both):
    _, ours = both("RoBERTa")
    expected = ours.predict(PAIRS[:2])
    for given in ([iter(p) for p in PAIRS[:2]], np.array(PAIRS[:2]), iter(PAIRS[:2]), [list(p) for p in PAIRS[:2]]):
        np.testing.assert_array_equal(ours.predict(given), expected)
    for bad in ("the", ["the"], [("a",)], [("a", "b", "c")], [("a", None)], [None], None, 3, [PAIRS[0], "ab"]):
        with pytest.raises(tsjax.InputError):
            ours.predict(bad)
    with pytest.raises(tsjax.InputError):
        ours.rank(None, [])
    assert ours.rank("the", []) == []


def of_torch(x):
    return torch.nn.functional.sigmoid(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:1],
        lambda x: jnp.concatenate([x, x]),
        lambda x: x[:, 0],
        lambda x: None,
        lambda x: x * jnp.nan,
        of_torch,
        "nonsense",
    ],
)
def test_an_activation_that_gives_no_score_for_each_logit_is_refused(both, function):
    with pytest.raises(tsjax.InputError, match="activation"):
        both("RoBERTa")[1].rank("the", ["a", "of"], activation_fn=function)


@pytest.mark.slow
def test_an_activation_of_the_users(both):
    _, ours = both("RoBERTa")
    logits = ours.predict(PAIRS, activation_fn="identity")
    np.testing.assert_allclose(ours.predict(PAIRS, activation_fn=lambda x: 2 * x), 2 * logits, rtol=1e-6)
    before = ours.encoding_fingerprint
    ours.activation = "identity"
    try:
        assert ours.encoding_fingerprint != before
    finally:
        ours.activation = "sigmoid"


@pytest.mark.slow
def test_long_pairs_take_no_longer_than_their_tokens(both):
    """The Rust tokenizer would join every cut-off piece of one text with every one of the other.

    This takes minutes and gigabytes.
    """
    _, ours = both("RoBERTa")
    (long,) = ours.predict([("the a " * 200_000, "of " * 200_000)])
    (short,) = ours.predict([("the a " * 200, "of " * 200)])
    assert long == short


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BERT", "RoBERTa"])
def test_nothing_is_compiled_after_a_warmup(both, name, capsys):
    """The model is called with token types and without."""
    _, ours = both(name)
    seconds = ours.warmup()
    assert set(seconds) == set(ours.shapes)
    assert capsys.readouterr().out.count(" s\n") == len(seconds)
    before = ours.statistics.compilations
    ours.predict(PAIRS)
    assert ours.statistics.compilations == before
