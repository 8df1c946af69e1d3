"""Options of a conversion, chosen through the library and the command line, without torch."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import tsjax
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_json
from tsjax import hub
from tsjax.checkpoints.conversion_options import Options
from tsjax.checkpoints.format import read_header
from tsjax.cli.main import main
from tsjax.errors import ConversionError, InputError

MODULE = "encoder.layer.1.attention.self.key"


def write_adapters(path, **config):
    """Write a BERT checkpoint with PEFT's folders of two tasks."""
    write_bert(path)
    for seed, folder in enumerate(("text_matching", "separation")):
        rng = np.random.default_rng(seed)
        factors = {"A": rng.standard_normal((2, 36)), "B": rng.standard_normal((36, 2))}
        (path / folder).mkdir()
        named = {f"base_model.model.{MODULE}.lora_{x}.weight": value.astype("f4") for x, value in factors.items()}
        save_file(named, path / folder / "adapter_model.safetensors")
        write_json(path / folder / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 1.0, **config})
    return path


def test_each_task_is_converted_and_kept_apart(tmp_path):
    source = write_adapters(tmp_path / "theirs")
    paths = [hub.resolve(source, adapter=task) for task in (None, "text-matching", "text_matching", "separation")]
    prints = [read_header(path).fingerprint for path in paths]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
    assert hub.resolve(source, adapter="separation") == paths[3]
    vectors = [tsjax.load(source, adapter=task).encode("the a of") for task in (None, "separation")]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_the_merge_is_the_product_of_the_factors(tmp_path):
    source = write_adapters(tmp_path / "theirs")
    weights = bert_weights(BERT_CONFIG)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 36)), rng.standard_normal((36, 2))
    weights[f"{MODULE}.weight"] = (weights[f"{MODULE}.weight"] + 0.5 * b @ a).astype("f4")
    by_hand = tsjax.load(write_bert(tmp_path / "by hand", weights=weights))
    merged = tsjax.load(source, adapter="separation")
    np.testing.assert_allclose(merged.encode("the a of"), by_hand.encode("the a of"), rtol=0, atol=1e-6)


def test_an_adapters_folder_that_changes_is_converted_again(tmp_path):
    source = write_adapters(tmp_path / "theirs")
    first = read_header(hub.resolve(source, adapter="separation")).fingerprint
    write_json(source / "separation" / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 16.0})
    assert read_header(hub.resolve(source, adapter="separation")).fingerprint != first


def test_on_the_command_line(tmp_path, capsys):
    source = str(write_adapters(tmp_path / "theirs"))
    assert main(["convert", source, str(tmp_path / "ours"), "--adapter", "separation"]) == 0
    kept = read_header(hub.resolve(source, adapter="separation")).fingerprint
    assert read_header(tmp_path / "ours").fingerprint == kept
    assert main(["info", source, "--adapter", "separation", "--json"]) == 0
    assert kept in capsys.readouterr().out
    (tmp_path / "texts.txt").write_text("the a of\n", encoding="utf-8")
    out = str(tmp_path / "vectors.npy")
    assert main(["embed", str(tmp_path / "texts.txt"), "-o", out, "--model", source, "--adapter", "separation"]) == 0
    np.testing.assert_array_equal(np.load(out)[0], tsjax.load(source, adapter="separation").encode("the a of"))
    capsys.readouterr()
    assert main(["info", source, "--adapter", "retrieval"]) == 2
    assert "no adapter 'retrieval'; its adapters are separation, text_matching" in capsys.readouterr().err


def test_what_comes_too_late_is_refused(tmp_path):
    source = write_bert(tmp_path / "theirs")
    hub.convert_to(source, tmp_path / "ours")
    for choice in ({"adapter": "separation"}, {"position_stride": 2}):
        with pytest.raises(ConversionError, match="has no effect"):
            tsjax.load(tmp_path / "ours", **choice)
        with pytest.raises(ConversionError, match="has no effect"):
            hub.convert_to(tmp_path / "ours", tmp_path / "again", temperature=tsjax.Temperature.of(0.5), **choice)


@pytest.mark.parametrize("choice", [{"adapter": ""}, {"adapter": 3}, {"position_stride": 0}, {"position_stride": 2.0}])
def test_choices_that_are_none(tmp_path, choice):
    with pytest.raises(InputError, match=next(iter(choice))):
        tsjax.load(write_bert(tmp_path / "theirs"), **choice)


def test_the_stride_that_a_model_is_known_for():
    assert Options().for_source("dwzhu/e5-base-4k", "0a1b2c").position_stride == 8
    assert Options().for_source("", "E5-base-4K").position_stride == 8
    assert Options().for_source("intfloat/e5-base", "e5-base-4k-tuned").position_stride == 1
    assert Options(position_stride=2).for_source("e5-base-4k").position_stride == 2
