import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from conversion.convert import convert
from tests.support.checkpoints import write_bert
from tsjax.checkpoints.format import (
    is_checkpoint,
    read_header,
    read_tokenizer,
    read_weights,
    save,
    verify_files,
)
from tsjax.errors import CheckpointError
from tsjax.model.forward import weight_shapes
from tsjax.storage.digests import json_sha256

BEFORE = Path(__file__).parent.parent / "data" / "format-2" / "model"


@pytest.fixture
def directory(tmp_path):
    convert(write_bert(tmp_path / "source"), tmp_path / "out")
    return tmp_path / "out"


def read_all(directory):
    header = read_header(directory)
    read_tokenizer(header)
    return read_weights(header, weight_shapes(header.metadata.model))


def edit(directory, change):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def test_is_checkpoint(directory, tmp_path):
    assert is_checkpoint(directory)
    assert not is_checkpoint(tmp_path / "source")
    assert not is_checkpoint(tmp_path / "nowhere")


def flip_last_bit(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "config.json").write_text("{"), "config.json is damaged"),
        (lambda d: edit(d, lambda c: c.pop("fingerprint")), "damaged"),
        (lambda d: edit(d, lambda c: c["tsjax"].update(format=99)), "format 99"),
        (lambda d: edit(d, lambda c: c["tsjax"]["temperature"].update(value=0.5)), "was changed after it was written"),
        (
            lambda d: edit(d, lambda c: c["files"].update({"model.safetensors": "0"})),
            "was changed after it was written",
        ),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (lambda d: flip_last_bit(d / "model.safetensors"), "model.safetensors is damaged"),
        (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:5000]), "damaged"),
    ],
)
def test_damage_is_explained(directory, spoil, message):
    spoil(directory)
    with pytest.raises(CheckpointError, match=message):
        read_all(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("encoder.embeddings.norm.bias"), "'encoder.embeddings.norm.bias' is missing"),
        (lambda w: w.update(extra=np.zeros(1, "f4")), "'extra' is unexpected"),
        (lambda w: w.update({"encoder.embeddings.norm.bias": np.zeros(35, "f4")}), r"has shape \(35,\), not \(36,\)"),
        (lambda w: w.update({"encoder.embeddings.norm.bias": np.zeros(36, "f2")}), "is float16, not float32"),
        (lambda w: w["encoder.embeddings.norm.bias"].__setitem__(0, np.nan), "holds NaN"),
    ],
)
def test_weights_that_are_not_those_of_the_architecture(directory, change, message):
    header = read_header(directory)
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save(directory, header.metadata, weights, read_tokenizer(header), overwrite=True)
    with pytest.raises(CheckpointError, match=message):
        read_all(directory)


def test_files_are_as_readable_as_others(directory):
    assert len({file.stat().st_mode for file in directory.iterdir()}) == 1


def test_a_flipped_bit_is_found_by_the_digest(directory):
    flip_last_bit(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="SHA-256"):
        verify_files(read_header(directory))


def test_the_metadata_of_an_earlier_version_is_written_again_with_the_same_bytes():
    header = read_header(BEFORE)
    content = {"tsjax": header.metadata.to_json(), "files": header.files, "fingerprint": header.fingerprint}
    assert json.dumps(content, indent=2) + "\n" == (BEFORE / "config.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_seq_length": "41"}, "max_seq_length: expected int, got str"),
        ({"pooler": 1}, "pooler: expected bool, got int"),
        ({"prompts": {"query": 5}}, "prompts.*expected str, got int"),
        ({"assumed": "x"}, "assumed: expected array, got str"),
        ({"extra": 1}, "unknown field extra"),
        ({"kind": "neither"}, "kind: .*neither"),
        ({"temperature": {"value": -1}}, "temperature must be finite"),
        ({"model": {}}, "ModelConfig: missing field encoder"),
    ],
)
def test_a_field_that_cannot_be_is_named_though_the_fingerprint_is_right(directory, change, message):
    def rewrite(config):
        config["tsjax"] |= change
        decisive = {name: value for name, value in config["tsjax"].items() if name not in ("source", "assumed")}
        config["fingerprint"] = json_sha256([decisive, config["files"]], compact=True)

    edit(directory, rewrite)
    with pytest.raises(CheckpointError, match=rf"config.json is damaged: .*{message}"):
        read_header(directory)


def test_an_unknown_name_beside_the_metadata_is_refused(directory):
    edit(directory, lambda config: config.update(extra=1))
    with pytest.raises(CheckpointError, match="config.json is damaged: unknown field extra"):
        read_header(directory)
