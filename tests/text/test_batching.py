import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsjax.text.batching import Batch, Shape, ShapeLadder, pad, plan

LADDER = ShapeLadder(max_length=300, token_budget=2048)
lengths = st.lists(st.integers(2, 300), max_size=400)


@given(lengths, st.none() | st.integers(1, 100))
def test_every_text_is_in_one_batch_of_a_known_shape(lengths, max_rows):
    seen = []
    for batch in plan(lengths, LADDER, max_rows):
        assert batch.shape in LADDER.shapes
        assert 0 < len(batch.indices) <= batch.shape.rows
        assert max(lengths[i] for i in batch.indices) <= batch.shape.tokens
        assert batch.shape.rows * batch.shape.tokens <= LADDER.token_budget
        assert max_rows is None or batch.shape.rows <= max_rows
        seen.extend(batch.indices)
    assert sorted(seen) == list(range(len(lengths)))


@given(lengths)
def test_a_text_is_padded_beyond_its_bucket_only_in_rows_that_would_be_empty(lengths):
    for batch in plan(lengths, LADDER):
        own = [i for i in batch.indices if LADDER.bucket(lengths[i]) == batch.shape.tokens]
        assert 2 * len(own) >= batch.shape.rows


@given(lengths)
def test_empty_rows_come_only_when_all_texts_are_placed(lengths):
    batches = list(plan(lengths, LADDER))
    assert all(len(batch.indices) == batch.shape.rows for batch in batches[:-1])


def test_one_long_text_does_not_pad_the_short_ones():
    batches = list(plan([250, *[4] * 15], LADDER))
    assert [batch.shape for batch in batches] == [Shape(1, 256), Shape(16, 16)]


def test_shapes_are_few_and_ordered():
    assert LADDER.lengths == (16, 32, 64, 128, 256, 300)
    assert LADDER.rows(16) == (1, 4, 16, 64, 128)
    assert LADDER.rows(256) == (1, 4, 8)
    assert len(set(LADDER.shapes)) == len(LADDER.shapes) <= 25


def test_long_texts_are_fewer_because_attention_is_quadratic():
    ladder = ShapeLadder(max_length=4096, token_budget=65536)
    assert {length: ladder.rows(length)[-1] for length in (512, 1024, 2048, 4096)} == {
        512: 128,
        1024: 32,
        2048: 8,
        4096: 2,
    }


def test_a_text_over_the_budget_is_a_batch_of_its_own():
    ladder = ShapeLadder(max_length=512, token_budget=100)
    assert ladder.rows(512) == (1,)
    assert [batch.shape for batch in plan([500, 400], ladder)] == [Shape(1, 512), Shape(1, 512)]


@pytest.mark.parametrize("longest", [1, 15, 16, 17, 512])
def test_the_last_bucket_is_the_longest_text(longest):
    ladder = ShapeLadder(longest, 4096)
    assert ladder.lengths[-1] == longest
    assert ladder.bucket(longest) == longest


def test_padding_keeps_order_and_counts_no_empty_row():
    ids = [np.array([1, 2, 3], np.int32), np.array([4], np.int32)]
    padded, lengths = pad(ids, Batch(np.array([1, 0]), Shape(4, 5)), pad_id=9)
    np.testing.assert_array_equal(padded, [[4, 9, 9, 9, 9], [1, 2, 3, 9, 9], [9] * 5, [9] * 5])
    np.testing.assert_array_equal(lengths, [1, 3, 0, 0])
