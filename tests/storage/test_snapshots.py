"""Partly downloaded models in the hub's cache.

A missing file says nothing, unless the cache knows that it does not exist.
"""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RemoteEntryNotFoundError

import tsjax
from tests.support.checkpoints import write_json, write_sentence_transformers
from tsjax import hub
from tsjax.cli.main import main
from tsjax.errors import AssumptionWarning, ModelNotFoundError

COMMIT = "0123456789abcdef" * 2 + "01234567"
# Optional files that a conversion heeds.
OPTIONAL = (
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "adapter_config.json"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def published(tmp_path):
    source = write_sentence_transformers(
        tmp_path / "published",
        pooling={"word_embedding_dimension": 36, "pooling_mode_cls_token": True},
        options={"prompts": {"query": "it was "}},
    )
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 9})
    return source


class Repository:
    """The hub's cache of a model."""

    def __init__(self, cache, published):
        self.folder = cache / "models--some--model"
        self.snapshot = self.folder / "snapshots" / COMMIT
        self.published = published
        self.snapshot.mkdir(parents=True)
        (self.folder / "refs").mkdir()
        (self.folder / "refs" / "main").write_text(COMMIT)

    def download(self, *but):
        for file in self.published.rglob("*"):
            name = file.relative_to(self.published)
            if file.is_file() and str(name) not in but:
                (self.snapshot / name).parent.mkdir(exist_ok=True)
                shutil.copy(file, self.snapshot / name)

    def mark_absent(self, *names):
        for name in names:
            marker = self.folder / ".no_exist" / COMMIT / name
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()

    def list_files(self, *names):
        files = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
        write_json(self.folder / "trees" / f"{COMMIT}.json", {"format_version": 1, "files": files})

    @property
    def names(self):
        return [file.relative_to(self.published).as_posix() for file in self.published.rglob("*") if file.is_file()]


@pytest.fixture
def repository(tmp_path, published):
    return Repository(tmp_path / "hub", published)


@pytest.fixture
def listings():
    """Skip tests if the hub's client does not remember a repository's files, as it does since version 2."""
    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        pytest.skip("this version of huggingface_hub keeps no list of files")


@pytest.mark.parametrize("name", OPTIONAL)
def test_each_file_that_could_not_be_looked_for_is_said(repository, name):
    repository.download(name)
    repository.mark_absent(*(other for other in OPTIONAL if other != name))
    with pytest.warns(AssumptionWarning, match=name) as said:
        tsjax.load("some/model")
    assert said[0].filename == __file__
    assert len(said) == 1
    repository.mark_absent(name)
    tsjax.load("some/model")  # without a warning


def test_the_path_of_a_snapshot_is_no_other_thing(repository):
    repository.download("modules.json")
    with pytest.warns(AssumptionWarning, match=r"modules\.json.*pooling"):
        tsjax.load(repository.snapshot)


def test_a_directory_elsewhere_is_whole(repository, published):
    (published / "modules.json").unlink()
    tsjax.load(published)


def test_the_conversion_of_a_part_is_not_served_for_the_whole(repository, published):
    repository.download("modules.json")
    with pytest.warns(AssumptionWarning):
        guessed = tsjax.load("some/model").encode("the cat")
    repository.download()
    repository.mark_absent(*OPTIONAL)
    expected = tsjax.load(published)
    found = tsjax.load("some/model")
    np.testing.assert_array_equal(found.encode("the cat"), expected.encode("the cat"))
    assert (found.prompts, found.max_seq_length) == (expected.prompts, 9)
    assert np.abs(found.encode("the cat") - guessed).max() > 0.01


def test_a_list_of_files_is_evidence(repository, listings):
    repository.download("sentence_bert_config.json")
    repository.list_files(*(name for name in repository.names if name != "sentence_bert_config.json"), "vocab.txt")
    tsjax.load("some/model")  # although vocab.txt is not here
    assert hub.resolve("some/model") == hub.resolve(repository.snapshot)


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_known_to_be_missing_is_refused(repository, listings, name):
    repository.download(name)
    repository.list_files(*repository.names, name)
    for model in ("some/model", repository.snapshot):
        with pytest.raises(ModelNotFoundError, match=name):
            tsjax.load(model)


def test_a_module_folder_that_is_missing_is_refused(repository):
    repository.download("1_Pooling/config.json")
    with pytest.raises(tsjax.ConversionError, match=r"1_Pooling/config\.json is missing"):
        tsjax.load("some/model")


def test_the_hub_is_asked_where_it_can_be(repository, monkeypatch):
    repository.download("modules.json")
    asked = []

    def hf_hub_download(name, file, *, revision, cache_dir, token):
        asked.append((name, file, revision))
        repository.mark_absent(file)
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)  # it requires a response of the hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(repository.snapshot))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    for _ in range(2):
        tsjax.load("some/model")
    assert ("some/model", "modules.json", COMMIT) in asked
    assert len(asked) == len(set(asked))


def test_a_hub_out_of_reach_is_asked_once(repository, monkeypatch):
    repository.download("modules.json")
    asked = []

    def hf_hub_download(name, *_, **__):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(repository.snapshot))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    with pytest.warns(AssumptionWarning, match=r"modules\.json"):
        tsjax.load("some/model")
    assert len(asked) == 1


@pytest.mark.filterwarnings("always::tsjax.errors.AssumptionWarning")
def test_every_command_and_every_copy_says_so(repository, tmp_path, capsys):
    repository.download("modules.json")
    (tmp_path / "a.txt").write_text("the cat\n")
    assert main(["info", "some/model"]) == 0
    assert "assumed" in (out := capsys.readouterr().out)
    assert "modules.json" in out
    assert main(["info", "some/model", "--json"]) == 0
    assert "modules.json" in json.loads(capsys.readouterr().out)["assumed"][0]
    for arguments in (
        ["embed", str(tmp_path / "a.txt"), "-o", str(tmp_path / "v.npy"), "--model", "some/model"],
        ["convert", "some/model", str(tmp_path / "converted")],
        ["export", "some/model", str(tmp_path / "exported")],
        ["embed", str(tmp_path / "a.txt"), "-o", str(tmp_path / "w.npy"), "--model", str(tmp_path / "converted")],
    ):
        assert main(arguments) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "modules.json" in line]
        assert len(said) == 1
        assert said[0].startswith("tsjax: ")


def test_a_directory_that_was_downloaded_in_part(repository, published, listings):
    """``hf download --include … --local-dir`` leaves such a directory."""
    hidden = published / ".cache" / "huggingface"
    (hidden / "download").mkdir(parents=True)
    (hidden / "download" / "config.json.metadata").write_text(f"{COMMIT}\n{'0' * 40}\n1700000000.0\n")
    files = {name: {"size": 1, "blob_id": "0" * 40} for name in repository.names if not name.startswith(".cache")}
    write_json(hidden / "trees" / f"{COMMIT}.json", {"format_version": 1, "files": files})
    tsjax.load(published)
    (published / "modules.json").unlink()
    with pytest.warns(AssumptionWarning, match=r"modules\.json"):
        tsjax.load(published)
