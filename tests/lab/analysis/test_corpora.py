import itertools
import json

import numpy as np
import pytest

from tests.support.checkpoints import WORDS, tokenizer_json
from tsjax.errors import InputError
from tsjax.lab.analysis.corpora import check_lengths, default_lengths, make_buckets
from tsjax.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer(tokenizer_json(), 64)
SPECIAL = 2
WORD_LIST = WORDS.split()


def text(tokens, seed):
    """Return words that are one token each; special tokens count."""
    return " ".join(np.random.default_rng(seed).choice(WORD_LIST, tokens - SPECIAL))


def buckets(texts, lengths=(8, 16, 32, 64), prompt="", texts_per_bucket=100, seed=0):
    made, notes = make_buckets(
        TOKENIZER, texts, prompt=prompt, lengths=lengths, texts_per_bucket=texts_per_bucket, seed=seed
    )
    return {(bucket.corpus, bucket.length): bucket for bucket in made}, notes


MANY = [text(tokens, 100 * seed + tokens) for seed in range(20) for tokens in (7, 8, 9, 16, 30, 64, 90)]
MANY += WORD_LIST[:20]


def rows(bucket):
    return [tuple(ids.tolist()) for ids in bucket.ids]


def test_whole_texts_go_by_their_own_length():
    made, notes = buckets(MANY)
    ends = {8: (5, 8), 16: (9, 16), 32: (17, 32), 64: (33, 64)}
    everything = {tuple(ids.tolist()) for ids in TOKENIZER.encode(MANY).ids}
    for length, (low, high) in ends.items():
        bucket = made["texts", length]
        assert all(low <= len(ids) <= high for ids in bucket.ids)
        assert set(rows(bucket)) <= everything
    assert notes == [
        "20 texts of at most 4 tokens: in no bucket.",
        "20 texts of more than 64 tokens: measured cut, but not whole.",
    ]


def test_every_bucket_of_a_corpus_has_as_many_texts():
    made, _ = buckets(MANY)
    assert {len(bucket.ids) for (corpus, _), bucket in made.items() if corpus == "texts"} == {20}
    made, _ = buckets(MANY, texts_per_bucket=7)
    assert {len(bucket.ids) for bucket in made.values()} == {7}


def test_cut_texts_are_the_same_texts_from_the_same_place_on():
    made, _ = buckets(MANY)
    whole = rows(made["cut", 64])
    assert len(whole) == len(set(whole)) == 40
    everything = TextTokenizer(tokenizer_json(), 90).encode(MANY).ids
    long = [" ".join(map(str, ids[1:-1])) for ids in everything if len(ids) >= 64]
    places = [max(text.find(" ".join(map(str, ids[1:-1]))) for text in long) for ids in whole]
    assert min(places) == 0  # these are texts that have no more tokens
    assert len({place for place in places if place > 0}) > 10
    for length in (8, 16, 32, 64):
        cut = rows(made["cut", length])
        assert all(len(ids) == length for ids in cut)
        assert [ids[: length - 1] for ids in cut] == [ids[: length - 1] for ids in whole]


def test_one_passage_is_repeated_up_to_each_length():
    made, _ = buckets(MANY)
    once = rows(made["repeated", 8])
    assert len(set(once)) == len(once)
    for length in (8, 16, 32, 64):
        repeated = rows(made["repeated", length])
        assert all(len(ids) == length for ids in repeated)
        for ids, passage in zip(repeated, once, strict=True):
            content, unit = ids[1:-1], passage[1:-1]
            assert content == (unit * length)[: length - SPECIAL]


def test_a_passage_is_of_whole_words():
    cut = TextTokenizer(tokenizer_json(), 6)
    assert cut.beginning("the a of and to in") == "the a of and"
    assert cut.beginning("the of") == "the of"
    assert cut.beginning("the xyzzy of") == "the"  # five letters are five tokens
    assert cut.beginning("xyzzyxyzzy of") == "xyzz"  # no whole word fits
    assert TextTokenizer(tokenizer_json(), 9).beginning("a xyzzyxyzzy") == "a xyzzyx"  # nor does another that counts
    assert cut.beginning("") == ""
    made, _ = buckets([f"{text(7, seed)} xyzzy " * 20 for seed in range(30)])
    letters = {TOKENIZER.vocabulary[letter] for letter in ("x", "##y", "##z")}
    for ids in rows(made["repeated", 64]):
        runs = [len(list(run)) for is_letter, run in itertools.groupby(ids[1:-1], letters.__contains__) if is_letter]
        assert all(run == 5 for run in runs[:-1])  # The last run may be truncated.


def test_a_passage_or_a_short_cut_of_several_texts_is_taken_once():
    said_again = [" ".join([WORD_LIST[seed % 5]] * (70 + seed)) for seed in range(20)]
    made, notes = buckets(said_again)
    assert {(corpus, len(bucket.ids)) for (corpus, _), bucket in made.items()} == {("cut", 5), ("repeated", 5)}
    assert "15 texts cut to 8 tokens repeated an earlier one, and did not count." in notes
    with pytest.raises(InputError, match="no length has 3 texts"):
        buckets([" ".join(["the"] * (70 + seed)) for seed in range(20)])


def test_texts_that_begin_alike_are_not_cut_alike():
    masthead = text(20, 0)
    made, _ = buckets([f"{masthead} {text(200, seed)}" for seed in range(1, 60)], texts_per_bucket=50)
    for corpus in ("cut", "repeated"):
        shortest = rows(made[corpus, 8])
        assert len(shortest) == len(set(shortest)) == 50


def test_what_the_tokenizer_does_not_see_makes_no_other_text():
    made, notes = buckets([version for one in MANY[:70] for version in (one, one.upper(), f"{one}\n", f" {one}")])
    for (corpus, length), bucket in made.items():
        assert len(set(rows(bucket))) == len(bucket.ids), (corpus, length)
    assert any("repeated an earlier one" in note for note in notes)


def test_a_text_that_is_written_otherwise_counts_once():
    """Such a text may also be longer than the model takes, so that its tokens cannot tell."""
    made, _ = buckets(MANY)
    again, notes = buckets([*MANY, *(f" {one.upper()}\n" for one in MANY)])
    assert {key: rows(bucket) for key, bucket in again.items()} == {key: rows(bucket) for key, bucket in made.items()}
    assert f"{len(MANY)} texts of {2 * len(MANY)} repeated an earlier one, and did not count." in notes


def test_a_passage_of_nothing_is_not_repeated():
    nothing = "\u0301 " + "x" * 90  # a lone accent, which normalisation removes, and a word that does not fit
    made, _ = buckets([f"{nothing} {seed} {nothing}" * 3 for seed in range(30)] + MANY)
    assert ("repeated", 64) in made
    assert all(
        len(ids) == length for (corpus, length), bucket in made.items() for ids in bucket.ids if corpus != "texts"
    )


def test_of_a_book_no_more_than_pages_are_read(monkeypatch):
    book = text(200_000, 0)
    read = []
    encode = TextTokenizer.encode
    monkeypatch.setattr(
        TextTokenizer, "encode", lambda self, texts: read.extend(map(len, texts)) or encode(self, texts)
    )
    made, _ = buckets([f"{one} {book}" for one in WORD_LIST[:3]])
    assert len(made["cut", 64].ids) == 3
    assert sum(count > 5000 for count in read) == 3  # once, to measure their length


def test_a_prompt_leaves_room_in_every_bucket():
    assert check_lengths(None, 512, 2, 16) == (64, 128, 256, 512)
    assert check_lengths(None, 40, 2, 30) == (40,)
    with pytest.raises(
        InputError, match="2 special tokens, the 16 of the prompt and max_seq_length it can be 19 to 64"
    ):
        check_lengths([18], 64, 2, 16)


def test_a_prompt_stands_before_every_text():
    made, _ = buckets(MANY, prompt="was it ")
    first = [TOKENIZER.vocabulary[word] for word in ("[CLS]", "was", "it")]
    for bucket in made.values():
        for ids in bucket.ids:
            assert ids[:3].tolist() == first
            assert len(ids) <= bucket.length


def test_the_seed_chooses():
    a, b, c = (buckets(MANY, texts_per_bucket=5, seed=seed)[0] for seed in (1, 1, 2))
    assert all(rows(a[key]) == rows(b[key]) for key in a)
    assert rows(a["cut", 64]) != rows(c["cut", 64])


def test_what_is_left_out_is_said():
    few = [text(8, seed) for seed in range(40)] + [text(60, seed) for seed in range(4)]
    made, notes = buckets(few)
    assert ("texts", 64) not in made
    assert "Up to 64 tokens: 4 texts, too few for a bucket." in notes
    made, notes = buckets([text(90, seed) for seed in range(5)])
    assert {corpus for corpus, _ in made} == {"cut", "repeated"}
    assert any("texts as they are were not measured" in note for note in notes)
    made, notes = buckets([text(20, seed) for seed in range(5)])
    assert max(length for corpus, length in made if corpus == "cut") == 16
    assert any("Cut texts go up to 16 tokens" in note for note in notes)


def test_a_text_that_is_there_twice_is_taken_once():
    made, notes = buckets([*MANY, *MANY[:9], MANY[0]])
    assert "10 texts of 170 repeated an earlier one, and did not count." in notes
    assert all(rows(bucket) == rows(made[key]) for key, bucket in buckets(MANY)[0].items())


def test_too_few_texts_of_any_length_are_refused():
    said = "no length has 3 texts: of 4 texts, 4 different, the shortest has 3 and the longest 3 tokens"
    with pytest.raises(InputError, match=said):
        buckets(WORD_LIST[:4])
    said = "no length has 3 texts: of 5 texts, 1 different, the shortest has more than 64 and the longest more than 64"
    with pytest.raises(InputError, match=said):
        buckets(["the of " * 64] * 5)
    with pytest.raises(InputError, match="seed must be a whole number of at least 0, not -1"):
        buckets(MANY, seed=-1)
    with pytest.raises(InputError, match="texts_per_bucket must be at least 3, not 2"):
        buckets(MANY, texts_per_bucket=2)


def test_default_lengths():
    assert default_lengths(512) == (16, 32, 64, 128, 256, 512)
    assert default_lengths(8192) == (128, 256, 512, 1024, 2048, 4096, 8192)
    assert default_lengths(41) == (16, 32, 41)
    assert default_lengths(9) == (9,)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([8, 65], "a length is 65; .* it can be 3 to 64"),
        ([2, 8], "a length is 2; .* it can be 3 to 64"),
        ([0], "must be a whole number of at least 1, not 0"),
        ([8, 8], "must rise"),
        ([], "there must be one at least"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(lengths, message):
    with pytest.raises(InputError, match=message):
        check_lengths(lengths, 64, SPECIAL)


def test_a_tokenizer_knows_its_special_tokens():
    assert TOKENIZER.special_tokens == SPECIAL
    bare = json.loads(tokenizer_json())
    bare["post_processor"] = None
    assert TextTokenizer(json.dumps(bare), 8).special_tokens == 0
