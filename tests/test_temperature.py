import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsjax.errors import InputError
from tsjax.temperature import LogLength, Piecewise, Temperature

values = st.floats(min_value=2.0**-100, max_value=2.0**100, width=32)


@pytest.mark.parametrize("value", [0.9, 1, np.float32(0.9), jnp.float32(0.9), jnp.bfloat16(0.5), np.array(2)])
def test_one_number_goes_to_every_layer_and_head(value):
    spread = Temperature.of(value).per_head(3, 2)
    assert spread.shape == (3, 2)
    assert spread.dtype == np.float32
    np.testing.assert_array_equal(spread, np.float32(value))


def test_one_number_a_layer_goes_to_its_heads():
    np.testing.assert_array_equal(Temperature.of([1, 2, 3]).per_head(3, 2), [[1, 1], [2, 2], [3, 3]])


def test_as_many_layers_as_heads_still_means_layers():
    np.testing.assert_array_equal(Temperature.of([1, 2]).per_head(2, 2), [[1, 1], [2, 2]])


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 3), (2, 3), (1, 2), (3, 1)])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match="3 layers of 2 heads"):
        Temperature.of(np.ones(shape)).per_head(3, 2)


@pytest.mark.parametrize(
    "value", [0, -1, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 1e39, [1, 0], [[1, float("nan")]]]
)
def test_a_value_that_is_not_finite_and_positive_is_refused(value):
    with pytest.raises(InputError, match="finite and > 0"):
        Temperature.of(value)


@pytest.mark.parametrize(
    "value", ["0.9", True, [True], None.__class__, {}, [], [[]], [[1], [1, 2]], np.ones((1, 1, 1)), 1j]
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="temperature must be"):
        Temperature.of(value)


laws = st.one_of(
    st.none(),
    st.builds(LogLength, st.integers(2, 10**6)),
    st.builds(lambda start, more, factor: Piecewise(start, start + more, factor), *[st.integers(1, 10**6)] * 2, values),
)
some = st.one_of(values, st.lists(values, min_size=1, max_size=4))


@given(some, laws, st.none() | st.builds(Temperature, some, laws))
def test_json_gives_the_same_temperature_back(value, law, query):
    temperature = Temperature(value, law, query)
    again = Temperature.from_json(json.loads(json.dumps(temperature.to_json())))
    assert again == temperature
    assert hash(again) == hash(temperature)
    np.testing.assert_array_equal(np.float32(temperature.value), np.float32(value))


def test_json_stays_short():
    assert Temperature(0.9).to_json() == {"value": 0.9}


def test_the_first_spelling_of_a_reference_length_is_still_read():
    assert Temperature.from_json({"value": 0.9, "reference_length": None}) == Temperature(0.9)
    assert Temperature.from_json({"value": 0.9, "reference_length": 128}) == Temperature(0.9, LogLength(128))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"value": 1, "scale": 2}, "'scale'"),
        ({"by_length": {"law": "cubic"}}, "log or piecewise"),
        ({"by_length": [1]}, "log or piecewise"),
        ({"by_length": {"law": "log"}}, "missing field reference_length"),
        ({"by_length": {"law": "log", "reference_length": 9, "end": 3}}, "unknown field end"),
        ({"query": {"query": 1.0}}, "of its own"),
        ({"query": {"tau": 1.0}}, "'tau'"),
        ({"by_length": {"law": ["log"]}}, "log or piecewise"),
        ({"by_length": {"law": "log", "reference_length": 9}, "reference_length": 9}, "not both"),
        ([], "an object with names"),
        (None, "an object with names"),
        ({1: 2, "x": 3}, "an object with names"),
    ],
)
def test_json_that_means_nothing_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        Temperature.from_json(data)


def test_the_length_law_is_log_n_scaling():
    lengths = np.array([0, 2, 16, 256, 512])
    per_text = Temperature(0.8, LogLength(256)).per_text(3, 2, lengths)
    assert per_text.shape == (3, 5, 2)
    expected = 0.8 * np.log(256) / np.log([2, 2, 16, 256, 512])
    np.testing.assert_allclose(per_text, np.broadcast_to(expected[None, :, None], (3, 5, 2)), rtol=1e-6)
    assert per_text[0, 3, 0] == np.float32(0.8)


@pytest.mark.parametrize("factor", [1e-9, 1e-6, 0.1, 1.0, 3e7])
def test_any_factor_of_the_piecewise_law_is_reached_exactly(factor):
    factors = Piecewise(10, 1000, factor).factors([5, 10, 100, 1000, 4000])
    np.testing.assert_array_equal(factors[[0, 1, 3, 4]], np.float32([1, 1, factor, factor]))
    np.testing.assert_allclose(factors[2], (1 + factor) / 2, rtol=1e-6)


def test_the_piecewise_law_bends_at_its_ends_only():
    lengths = np.array([0, 1, 99, 100, 200, 400, 401, 9999])
    factors = Piecewise(100, 400, 0.6).factors(lengths)
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, [1, 1, 1, 1, 0.8, 0.6, 0.6, 0.6], rtol=1e-6)


def test_without_a_law_every_text_has_the_same():
    per_text = Temperature([1, 2, 3]).per_text(3, 2, [5, 500])
    np.testing.assert_array_equal(per_text[:, 0], per_text[:, 1])


def test_queries_have_their_own():
    both = Temperature(0.9, LogLength(64), query=[1, 2, 3])
    assert both.for_task("query") == Temperature([1, 2, 3])
    for task in (None, "document", "clustering"):
        assert both.for_task(task) == Temperature(0.9, LogLength(64))
    alike = Temperature(0.7)
    assert alike.for_task("query") is alike


def test_a_querys_temperature_has_to_fit_the_model_too():
    with pytest.raises(InputError, match="3 layers of 2 heads"):
        Temperature(0.9, query=[1, 2]).check(3, 2)


@pytest.mark.parametrize("length", [1, 0, -3, 2.5, True, "512"])
def test_a_senseless_reference_length_is_refused(length):
    with pytest.raises(InputError, match="reference_length"):
        LogLength(length)


@pytest.mark.parametrize(
    ("start", "end", "factor", "message"),
    [
        (0, 5, 0.9, "start"),
        (5, 1, 0.9, "end"),
        (5, 5, 0.9, "start < end"),
        (1, 5, 0, "finite and > 0"),
        (1, 5, [0.9], "one number"),
        (1, 5, "x", "must be a number"),
    ],
)
def test_a_senseless_piecewise_law_is_refused(start, end, factor, message):
    with pytest.raises(InputError, match=message):
        Piecewise(start, end, factor)


@pytest.mark.parametrize("law", [128, "log", Temperature()])
def test_a_law_is_a_law(law):
    with pytest.raises(InputError, match="by_length"):
        Temperature(0.9, law)
