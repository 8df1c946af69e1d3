from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.checkpoints import tokenizer_json
from tsjax.errors import CheckpointError, InputError
from tsjax.text.tokenizer import TextTokenizer, check_texts, chunk_by_characters


@pytest.fixture
def tokenizer():
    return TextTokenizer(tokenizer_json(), max_length=12)


def test_texts_are_cut_from_the_end_and_counted(tokenizer):
    tokens = tokenizer.encode(["the a of", "the " * 50, ""])
    assert [len(ids) for ids in tokens.ids] == list(tokens.lengths) == [5, 12, 2]
    assert list(tokens.truncated) == [False, True, False]
    assert tokens.ids[1][0] == tokens.ids[0][0]
    assert tokens.ids[1][-1] == tokens.ids[0][-1]


def test_a_text_that_just_fits_is_not_cut(tokenizer):
    tokens = tokenizer.encode(["the " * 10, "the " * 11])
    assert list(tokens.lengths) == [12, 12]
    assert list(tokens.truncated) == [False, True]


def test_padding_and_truncation_of_the_file_are_not_used():
    assert list(TextTokenizer(tokenizer_json(), 40).encode(["the", "the " * 20]).lengths) == [3, 22]


def test_another_length_is_another_object(tokenizer):
    assert tokenizer.with_max_length(12) is tokenizer
    shorter = tokenizer.with_max_length(4)
    assert list(shorter.encode(["the " * 50]).lengths) == [4]
    assert list(tokenizer.encode(["the " * 50]).lengths) == [12]


@pytest.mark.parametrize("length", [2, 0, -1, 2.5, True, None])
def test_a_length_without_room_for_text_is_refused(length):
    with pytest.raises(InputError, match="at least 3 tokens"):
        TextTokenizer(tokenizer_json(), length)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        TextTokenizer("{}", 12)


def test_prompt_length_counts_the_leading_special_token(tokenizer):
    assert tokenizer.prompt_length("the a") == 3


def test_the_pieces_are_the_texts_in_order_and_bounded():
    texts = ["a" * n for n in (5, 0, 300, 40, 0, 0, 99, 1000, 1)]
    found = list(chunk_by_characters(iter(texts), 100))
    assert [text for piece in found for text in piece] == texts
    assert all(piece and sum(map(len, piece[:-1])) < 100 for piece in found)
    assert max(map(len, chunk_by_characters([""] * 1000, 100))) <= 100
    assert list(chunk_by_characters([], 100)) == []


def test_many_pieces_are_like_one(tokenizer, monkeypatch):
    texts = ["the " * (n % 17) for n in range(300)]
    whole = tokenizer.encode(texts)
    monkeypatch.setattr("tsjax.text.tokenizer._CHARACTERS", 50)
    in_pieces = tokenizer.encode(texts)
    assert [ids.tolist() for ids in in_pieces.ids] == [ids.tolist() for ids in whole.ids]
    assert in_pieces.lengths.tolist() == whole.lengths.tolist()
    assert in_pieces.truncated.tolist() == whole.truncated.tolist()
    assert len(set(whole.truncated.tolist())) == 2


def test_many_threads_at_once(tokenizer):
    texts = [["the " * n, "a"] for n in range(200)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(tokenizer.encode, texts))
    assert [int(tokens.lengths[0]) for tokens in results] == [min(n + 2, 12) for n in range(200)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "text 1 is None"),
        ([3.5], "text 0 is of type float"),
        (["a", "b", b"c"], "text 2 is of type bytes"),
        (["a", "\ud800"], "text 1 has a lone surrogate"),
        ([["a"]], "text 0 is of type list"),
    ],
)
def test_what_is_no_text_is_named_by_its_place(texts, message):
    with pytest.raises(InputError, match=message):
        check_texts(texts)
