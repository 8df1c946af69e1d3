import numpy as np
import pytest

from tsjax.encoders.quantization import quantize_embeddings
from tsjax.errors import InputError

# Ranges of 255 and 510 give steps that float32 represents exactly.
X = np.array([[-255.0, 0.0, 0.0], [255.0, 0.0, 128.0], [0.0, 0.0, 255.0]], np.float32)


def test_scalar_precisions_use_the_range_of_each_dimension():
    np.testing.assert_array_equal(quantize_embeddings(X, "uint8"), [[0, 0, 0], [255, 0, 128], [127, 0, 255]])
    np.testing.assert_array_equal(quantize_embeddings(X, "int8"), [[-128, -128, -128], [127, -128, 0], [-1, -128, 127]])
    given = quantize_embeddings(X, "uint8", ranges=[[-255, -1, 0], [255, 1, 255]])
    np.testing.assert_array_equal(given, [[0, 127, 0], [255, 127, 128], [127, 127, 255]])
    np.testing.assert_array_equal(quantize_embeddings(X[:1], "uint8", calibration_embeddings=X), [[0, 0, 0]])


def test_values_outside_the_range_are_clipped():
    np.testing.assert_array_equal(quantize_embeddings(10 * X[:, :1], "uint8", ranges=[[-1], [1]]), [[0], [255], [127]])


def test_binary_precisions_pack_eight_signs_to_a_byte():
    x = np.array([[1, -1, 1, -1, -1, -1, -1, 1, 1]], np.float32)
    np.testing.assert_array_equal(quantize_embeddings(x, "ubinary"), [[0b10100001, 0b10000000]])
    np.testing.assert_array_equal(quantize_embeddings(x, "binary"), [[33, 0]])


@pytest.mark.parametrize(
    ("precision", "columns"), [("int8", 9), ("uint8", 9), ("binary", 2), ("ubinary", 2), ("float32", 9)]
)
def test_no_embeddings(precision, columns):
    assert quantize_embeddings(np.zeros((0, 9), np.float32), precision).shape == (0, columns)


def test_what_cannot_be_quantized():
    with pytest.raises(InputError, match="floating point"):
        quantize_embeddings(np.ones((2, 3), np.int8), "binary")
    with pytest.raises(InputError, match="one embedding"):
        quantize_embeddings(X[0], "int8")
    with pytest.raises(InputError, match="does not exist"):
        quantize_embeddings(X, "int2")
