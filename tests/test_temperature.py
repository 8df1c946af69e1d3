import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsjax.errors import InputError
from tsjax.temperature import Temperature

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


@given(st.one_of(values, st.lists(values, min_size=1, max_size=4)), st.none() | st.integers(2, 10**6))
def test_json_gives_the_same_temperature_back(value, reference_length):
    temperature = Temperature(value, reference_length)
    assert Temperature.from_json(temperature.to_json()) == temperature
    np.testing.assert_array_equal(np.float32(temperature.value), np.float32(value))


def test_json_stays_short():
    assert Temperature(0.9).to_json() == {"value": 0.9, "reference_length": None}


def test_the_length_law_is_log_n_scaling():
    lengths = np.array([0, 2, 16, 256, 512])
    per_text = Temperature(0.8, reference_length=256).per_text(3, 2, lengths)
    assert per_text.shape == (3, 5, 2)
    expected = 0.8 * np.log(256) / np.log([2, 2, 16, 256, 512])
    np.testing.assert_allclose(per_text, np.broadcast_to(expected[None, :, None], (3, 5, 2)), rtol=1e-6)
    assert per_text[0, 3, 0] == np.float32(0.8)


def test_without_a_law_every_text_has_the_same():
    per_text = Temperature([1, 2, 3]).per_text(3, 2, [5, 500])
    np.testing.assert_array_equal(per_text[:, 0], per_text[:, 1])


@pytest.mark.parametrize("length", [1, 0, -3, 2.5, True, "512"])
def test_a_senseless_reference_length_is_refused(length):
    with pytest.raises(InputError, match="reference_length"):
        Temperature(1.0, reference_length=length)


def test_an_unknown_field_in_json_is_refused():
    with pytest.raises(InputError, match="'scale'"):
        Temperature.from_json({"value": 1, "scale": 2})
