"""Positions 0, s, 2s, … for short texts and 0, 1, 2, … for long ones, as in e5-base-4k, against PyTorch."""

import numpy as np
import pytest

import tsjax
from conversion.convert import convert
from tests.support.checkpoints import write_bert
from tests.support.families import CASES, SIZES, Case
from tests.support.hidden_states import ours
from tests.support.lazy import lazy
from tests.support.published import NOMIC
from tsjax.checkpoints.format import read_header
from tsjax.cli.main import main
from tsjax.errors import ConversionError, InputError

torch = lazy("torch")

ROWS, STRIDE = 64, 4
LENGTHS = np.array([16, 3, 17, 40])  # Texts of up to 16 tokens are short.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("stride")
    case = Case("BertConfig", "BertModel", {**SIZES, "max_position_embeddings": ROWS})
    model = case.save(path / "theirs")
    model.set_attn_implementation("eager")
    convert(path / "theirs", path / "ours", position_stride=STRIDE)
    return model, path


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 64])
def test_a_mixed_batch(saved, monkeypatch, width):
    """Each text's own length decides, and not the length of the batch."""
    model, path = saved
    ids = np.random.default_rng(1).integers(2, 101, (len(LENGTHS), width))
    monkeypatch.setattr("tests.support.hidden_states.LENGTHS", LENGTHS)
    states = ours(path / "ours", ids, 1.0)
    for row, length in enumerate(LENGTHS):
        positions = torch.arange(int(length)) * (STRIDE if length <= ROWS // STRIDE else 1)
        with torch.no_grad():
            given = torch.tensor(ids[row : row + 1, :length])
            expected = model(input_ids=given, position_ids=positions[None]).last_hidden_state[0].numpy()
        np.testing.assert_allclose(states[row, :length], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_e5_base_4k_is_known_by_its_name(tmp_path):
    for folder, stride in [("e5-base-4k", 8), ("E5-Base-4K", 8), ("e5-base", 1)]:
        source = write_bert(tmp_path / folder, max_position_embeddings=ROWS)
        convert(source, tmp_path / f"ours {folder}")
        encoder = read_header(tmp_path / f"ours {folder}").metadata.model.encoder
        assert (encoder.position_stride, encoder.position_stride_up_to) == (stride, 8 if stride > 1 else 0)
    convert(tmp_path / "e5-base", tmp_path / "by name", name="dwzhu/e5-base-4k")
    assert read_header(tmp_path / "by name").metadata.model.encoder.position_stride == 8
    convert(tmp_path / "e5-base-4k", tmp_path / "asked", position_stride=1)
    assert read_header(tmp_path / "asked").metadata.model.encoder.position_stride == 1


@pytest.mark.slow
def test_it_is_part_of_what_names_a_conversion(tmp_path):
    source = write_bert(tmp_path / "theirs", max_position_embeddings=ROWS)
    vectors = [tsjax.load(source, position_stride=stride).encode("the a of") for stride in (None, 1, 4, 2)]
    assert np.array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-3
    assert np.abs(vectors[2] - vectors[3]).max() > 1e-3


def test_on_the_command_line(tmp_path):
    source = write_bert(tmp_path / "theirs", max_position_embeddings=ROWS)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--position-stride", "4"]) == 0
    assert read_header(tmp_path / "ours").metadata.model.encoder.position_stride_up_to == 16


@pytest.mark.parametrize("stride", [0, -1, True, 1.5, "8"])
def test_a_stride_that_is_none(tmp_path, stride):
    with pytest.raises(InputError, match="position_stride"):
        convert(write_bert(tmp_path / "theirs"), tmp_path / "ours", position_stride=stride)


def test_a_stride_needs_a_table_that_counts_from_0(tmp_path):
    CASES["RoBERTa"].save(tmp_path / "roberta")
    NOMIC.save(tmp_path / "nomic", NOMIC.weights(NOMIC.model()))
    for name in ("roberta", "nomic"):
        with pytest.raises(ConversionError, match="position_stride of 2 needs a table"):
            convert(tmp_path / name, tmp_path / "ours", position_stride=2)
    with pytest.raises(ConversionError, match="more than 41 positions"):
        convert(write_bert(tmp_path / "bert"), tmp_path / "ours", position_stride=42)
