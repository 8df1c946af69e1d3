"""JAX settings in a user's environment: missing platforms, and modes that refuse implicit steps."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_sentence_transformers
from tsjax.engine.devices import local_devices
from tsjax.errors import InputError

MODES = {
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_DEBUG_NANS": "1",
    "JAX_ENABLE_X64": "1",
    "JAX_CHECK_TRACER_LEAKS": "1",
}
SCRIPT = """
import sys, warnings
import numpy as np
import tsjax
from tests.support.learning_pairs import pairs
from tsjax.cli.main import main
from tsjax.lab.learning.recipe import Recipe
from tsjax.lab.learning.training import learn

embedder, scorer = (tsjax.load(f"{sys.argv[1]}/{kind}") for kind in ("embedder", "scorer"))
embedder.warmup(verbose=False)
texts = ["the cat", "it was the one", "of " * 30]
warnings.simplefilter("ignore", tsjax.TruncationWarning)
found = {
    "vectors": embedder.encode(texts, temperature=0.8),
    "tensor": np.asarray(embedder.encode(texts, convert_to_tensor=True)),
    "tokens": embedder.encode("the cat", output_value="token_embeddings"),
    "similarity": embedder.similarity(embedder.encode(texts), embedder.encode(texts)),
    "scores": scorer.predict([("the", "cat"), ("it", "was one")]),
}
recipe = Recipe(steps=2, batch_size=4, evaluate_every=1, learning_rate=0.05)
found["learned"] = np.asarray(learn(embedder, [pairs(8, 0)], [pairs(8, 1)], recipe).temperature.value)
folder = sys.argv[2]
open(f"{folder}/texts.txt", "w").write("the cat\\nit was\\n")
job = ["batch", "--input", f"{folder}/texts.txt", "--output", f"{folder}/out", "--format", "npy"]
assert main([*job, "--model", f"{sys.argv[1]}/embedder"]) == 0
found["job"] = np.load(f"{folder}/out/vectors/shard-00000-00000.npy")
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_sentence_transformers(folder / "embedder")
    rng, config = np.random.default_rng(0), {**BERT_CONFIG, "architectures": ["BertForSequenceClassification"]}
    weights = {f"bert.{name}": weight for name, weight in bert_weights(config).items()}
    weights |= {"bert.pooler.dense.weight": np.eye(36, dtype="f4"), "bert.pooler.dense.bias": np.zeros(36, "f4")}
    weights |= {"classifier.weight": rng.standard_normal((1, 36)).astype("f4"), "classifier.bias": np.zeros(1, "f4")}
    write_bert(folder / "scorer", weights=weights, **config)
    return folder


def run(models, folder, **environment):
    folder.mkdir()
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(models), str(folder)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "found.npz")


@pytest.mark.slow
def test_strict_modes_give_the_same(models, tmp_path):
    usual, strict = run(models, tmp_path / "usual"), run(models, tmp_path / "strict", **MODES)
    assert set(usual) == set(strict)
    for name in usual:
        assert strict[name].dtype == usual[name].dtype
        # A text has the same bits in any mode; learning sums in double precision if that is on.
        np.testing.assert_allclose(strict[name], usual[name], atol=1e-6 if name == "learned" else 0, err_msg=name)


@pytest.mark.parametrize("error", [RuntimeError("no libtpu.so\nand more"), AssertionError()])
def test_a_platform_that_is_not_there(models, monkeypatch, error):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")

    def failing():
        raise error

    monkeypatch.setattr(jax, "local_devices", failing)
    for use in (local_devices, lambda: tsjax.load(models / "embedder"), lambda: tsjax.load(models / "scorer")):
        with pytest.raises(InputError, match="JAX_PLATFORMS=tpu") as raised:
            use()
        assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "batch"])
def test_a_command_says_so_in_one_line(models, tmp_path, command):
    (tmp_path / "texts.txt").write_text("the cat\n")
    inputs = {"embed": ["texts.txt", "-o", "-"], "batch": ["--input", "texts.txt", "--output", "out"]}[command]
    done = subprocess.run(
        [sys.executable, "-m", "tsjax", command, *inputs, "--model", str(models / "embedder")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tsjax: JAX_PLATFORMS=nonsense ")
    assert "Traceback" not in done.stderr
