"""scripts/cluster/tpu_estimate.py: its arithmetic, and, where libtpu is installed, real compilation for a TPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.fixture(scope="module")
def script():
    from scripts.cluster import tpu_estimate

    return tpu_estimate


def run(*options):
    """Run the script in a separate process, since libtpu reads the environment once."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.cluster.tpu_estimate", *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_the_work_that_cannot_be_avoided(script):
    work = script.least_work(script.MODELS["minilm"], rows=1, tokens=128, dtype="bfloat16")
    matrices = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    attention = 6 * 2 * 128 * 128 * 384
    assert work.operations == 2 * (matrices * 128 + attention)
    biases, norms = 6 * (4 * 384 + 1536 + 384), 6 * 4 * 384
    assert work.bytes_accessed == 2 * (matrices + biases) + 4 * norms + 4 * 384


def test_the_work_of_the_kernel(script):
    work = script.kernel_work(rows=3, tokens=512, heads=12, head_size=64, itemsize=2)  # one block
    assert work.operations == 2 * 2 * 3 * 12 * 512 * 512 * 64
    operands, results = 3 * 64 * 12 * 512 * 2, 128 * 12 * 512 * 2
    assert work.bytes_accessed == 3 * (operands + results + 4 * 512 * (128 + 8) + 4 * 512 * (128 + 128 + 128))

    long = script.kernel_work(rows=1, tokens=8192, heads=1, head_size=128, itemsize=2)  # 16 blocks by 4
    tensor = 8192 * 128 * 2
    assert long.bytes_accessed == 34 * tensor + 4 * 8192 * (128 + 16 * 8) + 4 * 512 * 3 * 128


def test_four_devices_share_the_rows(script):
    assert {shape.rows % 4 for shape in script.planned_shapes(4)} == {0}
    assert len(script.planned_shapes(4)) == len(set(script.planned_shapes(4)))


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_libtpu_it_says_what_to_install():
    done = run()
    assert done.returncode == 1
    assert done.stderr == "tpu_estimate needs the TPU's compiler, libtpu: pip install 'tsjax[tpu]'\n"


@pytest.mark.tpu
@pytest.mark.skipif(not LIBTPU, reason="libtpu, the TPU's compiler, is not installed: pip install 'tsjax[tpu]'")
@pytest.mark.parametrize("options", [(), ("--attention",)], ids=["model", "attention"])
def test_compiling_a_shape_for_a_v5e(tmp_path, options):
    done = run(
        *("--models", "minilm", "--chips", "v5e", "--shapes", "8x128", "--json", tmp_path / "estimate.json"), *options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UPPER BOUND" in done.stdout
    one, four = json.loads((tmp_path / "estimate.json").read_text(encoding="utf-8"))["estimates"]
    assert (one["devices"], four["devices"]) == (1, 4)
    attention = 2 * 2 * 8 * 128 * 128 * 384
    matrices = 0 if options else 2 * 8 * 128 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    products = attention if options else 6 * attention + matrices
    for estimate in (one, four):
        assert estimate["error"] is None
        assert 0 < estimate["memory_share"] < 0.01
        assert 1 <= estimate["operations"] * estimate["devices"] / products < 1.1
        assert estimate["counted_tokens_per_second"] <= estimate["bound_tokens_per_second"] * 1.001
