"""scripts/verify/parity.py on a user's checkpoints, and the figures that it wrote into the README."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from conversion.families import FAMILIES
from tests.support.families import CASES, HEADS, Case
from tests.support.rows import ROWS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def verify(monkeypatch):
    module = importlib.import_module("scripts.verify.parity")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["parity.py", *map(str, arguments)])
        return module.main()

    run.module = module
    return run


def test_an_embedding_model(verify, tmp_path, capsys):
    CASES["MPNet"].save(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("the cat\nwhat he had to be\n", encoding="utf-8")
    assert verify(tmp_path / "model", "--texts", tmp_path / "texts.txt", "--temperature", "1,0.7") == 0
    assert capsys.readouterr().out.count("normalised vectors") == 2


@pytest.mark.slow
def test_a_cross_encoder(verify, tmp_path, capsys):
    case = CASES["RoBERTa"]
    Case(case.config_name, HEADS["RoBERTa"], {**case.sizes, "num_labels": 1}).save(tmp_path / "model")
    assert verify(tmp_path / "model") == 0
    assert capsys.readouterr().out.count("logits") == 3


@pytest.mark.slow
def test_a_difference_is_seen(verify, tmp_path, monkeypatch, capsys):
    CASES["BERT"].save(tmp_path / "model")
    load = verify.module.tsjax.load

    def spoilt(*positional, **options):
        embedder = load(*positional, **options)
        encode = embedder.encode
        monkeypatch.setattr(embedder, "encode", lambda *p, **o: encode(*p, **o) + np.float32(3e-6))
        return embedder

    monkeypatch.setattr(verify.module.tsjax, "load", spoilt)
    assert verify(tmp_path / "model") == 1
    assert "NOT within" in capsys.readouterr().err


def test_the_recorded_figures_are_of_every_row_and_stand_in_the_readme():
    content = json.loads((ROOT / "tsjax" / "parity.json").read_text(encoding="utf-8"))
    assert [one["family"] for one in content["families"]] == [row.name for row in ROWS]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for one in content["families"]:
        assert max(one["states"].values()) <= 2e-6
        assert max(one["vectors"].values()) <= 1e-6
        assert max((one["logits"] or {"": 0}).values()) <= 1e-5
        assert one["bfloat16"] >= 0.999
        assert f"| {one['family']} | {one['example']} | {max(one['states'].values()):.1e} |" in readme
    named = {one["family"].removesuffix(" as published") for one in content["families"]}
    assert {family.name.removesuffix(" encoder") for family in FAMILIES} <= named
