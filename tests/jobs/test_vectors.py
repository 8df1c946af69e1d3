import json

import numpy as np
import pyarrow.parquet
import pytest

from tsjax.errors import InputError, OutputError
from tsjax.jobs.output.vector_files import open_vectors

VECTORS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
TEXTS = ["a", "", "é\n", "d", "e"]


def write(path, vectors=VECTORS, overwrite=False):
    with open_vectors(str(path), vectors.shape[1], vectors.dtype, overwrite=overwrite) as writer:
        writer.write(TEXTS[:2], vectors[:2])
        writer.write(TEXTS[2:], vectors[2:])


@pytest.mark.parametrize("vectors", [VECTORS, (VECTORS * 50).astype(np.int8), (VECTORS**2).astype(np.uint8)])
def test_every_format_gives_the_numbers_back(tmp_path, vectors):
    write(tmp_path / "v.npy", vectors)
    write(tmp_path / "v.npz", vectors)
    write(tmp_path / "v.jsonl", vectors)
    write(tmp_path / "v.parquet", vectors)
    npy = np.load(tmp_path / "v.npy")
    assert npy.dtype == vectors.dtype
    np.testing.assert_array_equal(npy, vectors)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npz")["embeddings"], vectors)
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], vectors.dtype), vectors)
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    assert table.column("text").to_pylist() == TEXTS
    np.testing.assert_array_equal(np.array(table.column("embedding").to_pylist(), vectors.dtype), vectors)
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "v.npz", "v.jsonl", "v.parquet"}


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".jsonl"])
def test_no_texts_still_make_a_file(tmp_path, suffix):
    with open_vectors(str(tmp_path / f"v{suffix}"), 3, np.dtype("f4"), overwrite=False):
        pass
    if suffix == ".npy":
        assert np.load(tmp_path / "v.npy").shape == (0, 3)
    assert (tmp_path / f"v{suffix}").exists()


def test_many_rows_fit_the_header(tmp_path):
    with open_vectors(str(tmp_path / "v.npy"), 1, np.dtype("u1"), overwrite=False) as writer:
        for _ in range(11):
            writer.write([""] * 100_000, np.ones((100_000, 1), np.uint8))
    assert np.load(tmp_path / "v.npy").shape == (1_100_000, 1)


def test_a_file_is_replaced_only_on_request(tmp_path):
    write(tmp_path / "v.npy")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "v.npy", -VECTORS)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), VECTORS)
    write(tmp_path / "v.npy", -VECTORS, overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), -VECTORS)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl", ".parquet"])
def test_a_failure_leaves_nothing(tmp_path, suffix):
    with (
        pytest.raises(RuntimeError),
        open_vectors(str(tmp_path / f"v{suffix}"), 3, np.dtype("f4"), overwrite=False) as writer,
    ):
        writer.write(TEXTS, VECTORS)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match="must be one of .npy, .npz, .jsonl, .parquet"):
        write(tmp_path / "v.csv")


def test_standard_output(capsys):
    write("-")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
