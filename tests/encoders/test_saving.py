"""Saved directories load again and give the same bits."""

import huggingface_hub
import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_bert, write_cross_encoder, write_routed, write_sentence_transformers
from tsjax.checkpoints.format import read_header
from tsjax.errors import InputError, OutputError

TEXTS = ["the cat", "what he had to be, but not by all of this at one or his", "Is it?"]
PROMPTS = {"query": "the query of ", "passage": "this is a passage, "}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_sentence_transformers(tmp_path_factory.mktemp("st") / "model", options={"prompts": PROMPTS})


def vectors(embedder):
    return [embedder.encode(TEXTS), embedder.encode_query(TEXTS), embedder.encode_document(TEXTS)]


def assert_same(loaded, embedder):
    for ours, expected in zip(vectors(loaded), vectors(embedder), strict=True):
        np.testing.assert_array_equal(ours, expected)


def change(embedder):
    embedder.temperature = tsjax.Temperature(0.7, by_length=tsjax.LogLength(8), query=0.9)
    embedder.max_seq_length = 9
    embedder.truncate_dim = 7
    embedder.similarity_fn_name = "dot"
    embedder.prompts = {**PROMPTS, "query": "of ", "document": "a "}


@pytest.mark.filterwarnings("ignore::tsjax.errors.TruncationWarning")
def test_a_saved_directory_gives_the_same_vectors(directory, tmp_path):
    embedder = tsjax.load(directory)
    change(embedder)
    embedder.default_prompt_name = "passage"
    embedder.save(tmp_path / "saved")
    loaded = tsjax.load(tmp_path / "saved")
    assert_same(loaded, embedder)
    for name in ("temperature", "max_seq_length", "truncate_dim", "similarity_fn_name", "default_prompt_name"):
        assert getattr(loaded, name) == getattr(embedder, name)
    assert loaded.prompts == embedder.prompts
    # Another dtype changes nothing in the file, and is chosen again.
    tsjax.load(directory, dtype="bfloat16").save(tmp_path / "half")
    assert_same(tsjax.load(tmp_path / "half"), tsjax.load(directory))


@pytest.mark.parametrize("default", [None, "passage", "query"])
@pytest.mark.parametrize("prompts", [{}, {"passage": "of "}, PROMPTS])
def test_prompts_that_were_taken_out_stay_out(directory, tmp_path, prompts, default):
    embedder = tsjax.load(directory)
    embedder.prompts = prompts
    if default in prompts:
        embedder.default_prompt_name = default
    embedder.save(tmp_path / "saved")
    assert_same(tsjax.load(tmp_path / "saved"), embedder)


def test_what_is_not_overwritten(directory, tmp_path):
    embedder = tsjax.load(directory, temperature=0.5)
    embedder.save(tmp_path / "saved")
    with pytest.raises(OutputError, match="exists"):
        embedder.save(tmp_path / "saved")
    again = tsjax.load(tmp_path / "saved", temperature=0.9)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="was loaded from"):
            again.save(tmp_path / "saved", overwrite=overwrite)
    tsjax.load(directory, temperature=0.8).save(tmp_path / "saved", overwrite=True)
    assert tsjax.load(tmp_path / "saved").temperature == tsjax.Temperature(0.8)
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputError):
        embedder.save(tmp_path / "mine", overwrite=True)


def test_a_closed_embedder_can_be_saved(directory, tmp_path):
    embedder = tsjax.load(directory)
    embedder.close()
    embedder.save(tmp_path / "saved")
    assert_same(tsjax.load(tmp_path / "saved"), tsjax.load(directory))


def test_a_cross_encoder_is_saved_with_its_activation(tmp_path):
    scorer = tsjax.load(write_cross_encoder(tmp_path / "theirs"), kind="cross_encoder", temperature=0.8)
    scorer.activation = "identity"
    scorer.save(tmp_path / "saved")
    loaded = tsjax.load(tmp_path / "saved", kind="cross_encoder")
    pairs = [("the", "cat"), ("of", "it is")]
    np.testing.assert_array_equal(loaded.predict(pairs), scorer.predict(pairs))
    scorer.activation = lambda logits: logits
    with pytest.raises(InputError, match="is a function"):
        scorer.save(tmp_path / "again")


@pytest.mark.filterwarnings("ignore::tsjax.errors.TruncationWarning")
def test_every_route_is_saved(tmp_path):
    embedder = tsjax.load(write_routed(tmp_path / "theirs"))
    embedder.temperature = 0.7
    embedder.prompts = {"query": "of "}
    embedder.max_seq_length = 9
    embedder.save(tmp_path / "saved")
    loaded = tsjax.load(tmp_path / "saved")
    assert isinstance(loaded, tsjax.RoutedEmbedder)
    for name in ("encode_query", "encode_document"):
        np.testing.assert_array_equal(getattr(loaded, name)(TEXTS), getattr(embedder, name)(TEXTS))
    with pytest.raises(InputError, match="several encoders"):
        tsjax.load(tmp_path / "saved", kind="embedder")


def test_pushing_uploads_what_is_saved(directory, tmp_path, monkeypatch):
    done = []

    class Api:
        def __init__(self, token):
            done.append(("token", token))

        def create_repo(self, repo_id, **options):
            done.append(("create", repo_id, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def create_branch(self, repo_id, **options):
            done.append(("branch", repo_id, options))

        def upload_folder(self, folder_path, **options):
            done.append((read_header(folder_path).metadata.temperature, options["repo_id"], options["revision"]))

            class Commit:
                commit_url, pr_url = "https://commit", "https://pr"

            return Commit

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    embedder = tsjax.load(directory, temperature=0.5)
    assert embedder.push_to_hub("me/model", "secret", private=True, revision="b") == "https://commit"
    assert done == [
        ("token", "secret"),
        ("create", "me/model", {"private": True, "exist_ok": False}),
        ("branch", "me/model", {"branch": "b", "exist_ok": True}),
        (tsjax.Temperature(0.5), "me/model", "b"),
    ]
    assert embedder.push_to_hub("me/model", create_pr=True) == "https://pr"
    monkeypatch.setattr(Api, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(OutputError, match="me/model cannot be written on the hub: no route to host"):
        embedder.push_to_hub("me/model")


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    source, asked = write_bert(tmp_path / "snapshot"), []

    def snapshot_download(repository, **options):
        asked.append((repository, *(options[name] for name in ("revision", "token", "cache_dir"))))
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    embedder = tsjax.load("me/model", revision="main", token="secret", cache_folder=tmp_path / "cache")
    assert set(asked) == {("me/model", "main", "secret", tmp_path / "cache")}
    embedder.save(tmp_path / "saved")
    source = tmp_path / "saved"  # what was pushed is loaded from the hub as it is
    assert tsjax.load("me/model").encoding_fingerprint == embedder.encoding_fingerprint
