"""Any number of pairs: read, tokenised and scored in blocks, in order, in bounded memory."""

import logging
import tracemalloc
import weakref

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_cross_encoder
from tsjax.errors import InputError, TruncationWarning

WORDS = ["the cat", "of it", "what he had", "", "but not by all of this at one or his"]


class Text(str):
    """A text that can be observed."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_cross_encoder(tmp_path_factory.mktemp("model") / "scorer")


@pytest.fixture
def scorer(directory, monkeypatch):
    monkeypatch.setattr("tsjax.engine.engine._LEAST_CHARACTERS", 4000)  # some hundred pairs
    monkeypatch.setattr("tsjax.engine.engine._CHARACTERS_PER_TOKEN", 1)
    return tsjax.load(directory, token_budget=512)


def pairs(count):
    return ((WORDS[n % 5] + " " + "abcdefghij"[n % 10], WORDS[n % 3]) for n in range(count))


@pytest.mark.slow
def test_scores_come_in_the_order_of_the_pairs(scorer, monkeypatch):
    given = list(pairs(1500))
    expected = scorer.predict(given)
    assert expected.shape == (1500,)
    np.testing.assert_array_equal(scorer.predict(pairs(1500)), expected)
    for place in (0, 700, 1499):
        assert scorer.predict(given[place]) == pytest.approx(expected[place], abs=1e-5)
    monkeypatch.setattr("tsjax.engine.engine._LEAST_CHARACTERS", 1_000_000)  # one block, and therefore other batches
    np.testing.assert_allclose(scorer.predict(given), expected, atol=1e-5)


@pytest.mark.parametrize(
    "container", [list, tuple, np.array, iter, lambda given: zip(*zip(*given, strict=True), strict=True)]
)
def test_any_iterable_of_pairs(scorer, container):
    given = list(pairs(20))
    np.testing.assert_array_equal(scorer.predict(container(given)), scorer.predict(given))


@pytest.mark.parametrize("pair", [("the", "cat"), ["the", "cat"], np.array(["the", "cat"]), iter(["the", "cat"])])
def test_one_pair(scorer, pair):
    assert scorer.predict(pair) == scorer.predict([("the", "cat")])[0]


def test_no_pair(scorer):
    assert scorer.predict(iter([])).shape == (0,)
    assert scorer.rank("the", iter([])) == []


@pytest.mark.parametrize(
    "given",
    [
        "the",
        ["the"],
        ["the", "cat", "of"],
        np.array("the"),
        np.zeros((2, 2, 2)),
        {"the": "cat"},
        {("the", "cat")},
        [("the",)],
        iter([("the", "cat", "of")]),
        [("the", "cat"), "of"],
        [("the", None)],
        [("the", "\ud800")],
        [None],
        None,
        3,
    ],
)
def test_what_are_no_pairs(scorer, given):
    with pytest.raises(InputError):
        scorer.predict(given)


def test_an_error_names_the_pair_or_the_document(scorer):
    with pytest.raises(InputError, match="pair 1234"):
        scorer.predict([*pairs(1234), ("the", None)])
    with pytest.raises(InputError, match="text 1234"):
        scorer.rank("the", iter([*WORDS * 246, "the", "cat", "of", "it", 7]))
    with pytest.raises(InputError):
        scorer.rank("the", "one string")
    with pytest.raises(ZeroDivisionError):
        scorer.predict(("the", "cat") if n < 1000 else 1 / 0 for n in range(2000))
    assert scorer.predict([("the", "cat")]).shape == (1,)


def test_pairs_are_read_as_the_device_works(scorer):
    read, seen = [], []
    progress = scorer._engine.compute

    def compute(*arguments, **options):
        for computed in progress(*arguments, **options):
            seen.append(len(read))
            yield computed

    scorer._engine.compute = compute
    scorer.predict(read.append(0) or pair for pair in pairs(5000))
    assert seen[0] < 1500
    assert seen[-1] == 5000


@pytest.mark.slow
def test_ten_times_as_many_pairs_take_no_more_memory_than_their_scores(scorer):
    def peak(count):
        tracemalloc.start()
        scorer.predict(pairs(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(800)  # everything that is compiled and kept
    assert peak(8000) - peak(800) < 60 * 7200  # bytes; a pair alone takes some 200, and its tokens as much


@pytest.mark.slow
@pytest.mark.parametrize("way", ["predict", "rank"])
def test_few_texts_are_alive_at_a_time(scorer, way):
    alive, most = weakref.WeakSet(), []

    class Watched(Text):
        __hash__ = object.__hash__

    def texts():
        for n in range(5000):
            text = Watched(f"{WORDS[n % 5]} {n % 7}")
            alive.add(text)
            most.append(len(alive))
            yield text

    if way == "predict":
        scorer.predict((text, "the cat") for text in texts())
    else:
        assert len(scorer.rank("the cat", texts(), top_k=3)) == 3
    assert len(most) == 5000
    assert max(most) < 2000


@pytest.mark.slow
def test_rank_gives_the_texts_of_a_generator_on_request(scorer):
    documents = [second for _, second in pairs(300)]
    expected = scorer.rank("what he had", documents, return_documents=True)
    assert [row["text"] for row in expected] == [documents[row["corpus_id"]] for row in expected]
    assert scorer.rank("what he had", iter(documents), return_documents=True) == expected
    plain = [{name: value for name, value in row.items() if name != "text"} for row in expected]
    assert scorer.rank("what he had", documents) == plain


def test_cut_pairs_are_counted_over_all_blocks(scorer):
    long = [("the " * 60, "of it")] * 10
    with pytest.warns(TruncationWarning, match="20 of 1020 pairs"):
        scorer.predict([*long, *pairs(1000), *long])
    assert scorer.statistics.truncated == 20


def test_the_bar_has_a_total_where_the_inputs_have_a_length(scorer, capsys):
    given = list(pairs(30))
    scorer.predict(given, show_progress_bar=True)
    assert "30/30" in capsys.readouterr().err
    scorer.rank("the", WORDS, show_progress_bar=True)
    assert "5/5" in capsys.readouterr().err
    scorer.predict(iter(given), show_progress_bar=True)
    assert "30text" in capsys.readouterr().err
    scorer.predict(given)
    assert capsys.readouterr().err == ""
    assert logging.getLogger("tsjax").level == logging.NOTSET
