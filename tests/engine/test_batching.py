import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsjax.engine import shapes
from tsjax.engine.batching import Batch, Shape, fill, pack, plan

LADDERS = {
    "flat": shapes.packed_shapes(max_length=300, budget=2048),
    "flat, 8 devices": shapes.packed_shapes(max_length=300, budget=2048, devices=8),
    "flat, small budget": shapes.packed_shapes(max_length=300, budget=100),
    "padded": shapes.padded_shapes(max_length=300, budget=2048),
    "padded, 8 devices": shapes.padded_shapes(max_length=300, budget=16384, devices=8),
    "rows": shapes.multi_row_shapes(max_length=300, budget=4096),
}
lengths = st.lists(st.integers(0, 300), max_size=400)


@pytest.mark.parametrize("allowed", LADDERS.values(), ids=LADDERS)
@given(lengths, st.none() | st.integers(1, 100))
@example([0, 1, 5, 0, 1], None)
def test_every_text_is_in_one_batch_of_a_known_shape(allowed, lengths, max_texts):
    seen = []
    for batch in plan(lengths, allowed, max_texts):
        assert batch.shape in allowed.shapes
        assert 0 < len(batch.rows) <= batch.shape.rows
        assert max_texts is None or len(batch.indices) <= max_texts
        for row in batch.rows:
            sizes = [lengths[i] for i in row]
            assert sizes == sorted(sizes, reverse=True)
            assert 0 < len(row) <= allowed.slots(batch.shape)
            assert sum(max(size, 1) for size in sizes) <= batch.shape.tokens
        seen.extend(batch.indices)
    assert sorted(seen) == list(range(len(lengths)))


def padding(lengths, allowed):
    batches = list(plan(lengths, allowed))
    return 1 - sum(lengths) / sum(batch.shape.rows * batch.shape.tokens for batch in batches)


@pytest.mark.parametrize(
    ("least", "most"), [(8, 12), (111, 167), (243, 365), (10, 512), (300, 512), (1, 40), (500, 512), (139, 139)]
)
def test_next_to_nothing_of_packed_rows_is_padding(least, most):
    lengths = np.random.default_rng(0).integers(least, most + 1, 2000)
    share = padding(lengths, shapes.packed_shapes(512, 2048))
    assert share <= 0.06


def test_a_longest_length_that_divides_no_power_of_two_still_fills_the_rows():
    assert padding([384] * 500, shapes.packed_shapes(384, 2048)) == 0


@pytest.mark.parametrize("longest", [1, 15, 16, 17, 100, 256, 384, 512, 514, 2048, 8192, 32768])
@pytest.mark.parametrize("make", [shapes.packed_shapes, shapes.padded_shapes, shapes.multi_row_shapes])
@pytest.mark.parametrize("budget", [2048, 65536])
def test_shapes_are_few_and_hold_the_longest_text(make, longest, budget):
    allowed = make(longest, budget)
    assert len(allowed.shapes) == len(set(allowed.shapes)) <= 16 + 6 * (longest > 512)
    assert allowed.at_least(longest)[-1].tokens >= longest
    if longest <= 512:
        assert all(shape.rows * shape.tokens <= budget for shape in allowed.shapes)


def test_a_processor_needs_eight_shapes_for_the_usual_model():
    assert len(shapes.packed_shapes(512, 2048).shapes) == 8


def test_few_texts_take_a_small_shape_and_the_last_ones_several():
    allowed = shapes.packed_shapes(512, 2048)
    assert [batch.shape for batch in plan([9], allowed)] == [Shape(1, 16)]
    assert [batch.shape.tokens for batch in plan([70] * 10, allowed)] == [512, 256]
    assert [batch.shape.tokens for batch in plan([500] * 5, allowed)] == [2048, 512]


def test_a_long_text_leaves_room_for_short_ones():
    (batch,) = plan([2500, *[60] * 9], shapes.packed_shapes(8192, 2048))
    assert batch.shape == Shape(1, 3072)


def test_long_padded_texts_are_fewer_because_attention_is_quadratic():
    long = shapes.padded_shapes(max_length=4096, budget=65536).shapes
    assert {(512, 128), (1024, 32), (2048, 8), (4096, 2)} <= {(tokens, rows) for rows, tokens in long}


def test_padded_texts_of_like_length_go_together():
    batches = list(plan([250, *[4] * 15], shapes.padded_shapes(512, 2048)))
    assert [batch.shape for batch in batches] == [Shape(1, 512), *[Shape(4, 32)] * 4]
    # A shorter text fills a row that would be empty.
    (batch,) = plan([250] * 7 + [4], shapes.padded_shapes(512, 2048))
    assert batch.shape == Shape(8, 256)


def test_tokens_and_their_texts_stand_side_by_side():
    ids = [np.array([1, 2, 3], np.int32), np.array([4], np.int32), np.array([], np.int32), np.array([5, 6], np.int32)]
    batch = Batch((np.array([0, 1, 2]), np.array([3])), Shape(3, 5))
    np.testing.assert_array_equal(fill(ids, batch, 9), [[1, 2, 3, 4, 9], [5, 6, 9, 9, 9], [9] * 5])
    packed = pack(np.array([3, 1, 0, 2]), batch, slots=4)
    np.testing.assert_array_equal(packed.segments, [[0, 0, 0, 1, 4], [0, 0, 4, 4, 4], [4] * 5])
    np.testing.assert_array_equal(packed.positions, [[0, 1, 2, 0, 0], [0, 1, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(packed.starts, [[0, 3, 4, 0], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(packed.lengths, [[3, 1, 0, 0], [2, 0, 0, 0], [0] * 4])
