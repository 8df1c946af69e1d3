"""Weight files in unsupported dtypes, and truncated ones: one sentence names the file and the weight."""

import json

import numpy as np
import pytest

from conversion.rules import check_floats
from conversion.source import open_tensors
from tsjax.errors import ConversionError


def write(path, header, data=b"\x00" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_all(path):
    tensors = open_tensors(path)
    for name, read in tensors.read.items():
        check_floats(read(), name, tensors.where)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *(("F8_E4M3", 8), ("F8_E5M2", 8), ("F8_E8M0", 8), ("F4", 4), ("I8", 8), ("U8", 8), ("BOOL", 8), ("I64", 64)),
        *(("C64", 64), ("F6_E2M3", 6), ("X7", 8)),
    ],
)
def test_dtypes_that_are_not_floats_are_refused(tmp_path, dtype, bits):
    size = 8 * bits // 8
    write(tmp_path, {"weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size))
    with pytest.raises(ConversionError, match=r"model\.safetensors") as raised:
        read_all(tmp_path)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_floats_are_read(tmp_path, dtype):
    size = {"F16": 16, "BF16": 16, "F32": 32, "F64": 64}[dtype]
    write(tmp_path, {"weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size))
    read_all(tmp_path)


WHOLE = {"weight": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"", b""),
        (b"{", b""),
        (b"[]", b""),
        (b"\xff\xfe", b""),
        (b'{"weight": 7}', b""),
        (WHOLE, b"\x00" * 9),
        (WHOLE, b"\x00" * 99),
        ({"weight": {**WHOLE["weight"], "shape": [2**62, 2**62]}}, b"\x00" * 64),
        ({"weight": {**WHOLE["weight"], "shape": [-2, 8]}}, b"\x00" * 64),
        ({"weight": {**WHOLE["weight"], "data_offsets": [64, 0]}}, b"\x00" * 64),
        ({"weight": {**WHOLE["weight"], "data_offsets": [0, 2**63]}}, b"\x00" * 64),
        ({**WHOLE, "other": WHOLE["weight"]}, b"\x00" * 64),
        ({**WHOLE, "__metadata__": 7}, b"\x00" * 64),
    ],
)
def test_torn_files_are_refused(tmp_path, header, data):
    write(tmp_path, header, data)
    with pytest.raises(ConversionError, match=r"model\.safetensors"):
        read_all(tmp_path)


@pytest.mark.parametrize("length", [0, 3, 8, 20])
def test_a_file_that_ends_early(tmp_path, length):
    write(tmp_path, WHOLE)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ConversionError, match=r"model\.safetensors"):
        read_all(tmp_path)


def test_a_header_that_claims_to_be_long(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConversionError, match=r"model\.safetensors"):
        read_all(tmp_path)


def test_values_are_kept(tmp_path):
    values = np.arange(16, dtype="<f4")
    write(tmp_path, WHOLE, values.tobytes())
    np.testing.assert_array_equal(open_tensors(tmp_path).read["weight"]().ravel(), values)
