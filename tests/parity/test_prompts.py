"""Prompts before a text: every combination, against sentence-transformers itself."""

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_json, write_sentence_transformers
from tests.support.lazy import lazy
from tsjax.checkpoints.format import read_header
from tsjax.encoders.embedder import Embedder
from tsjax.encoders.settings import Settings
from tsjax.hub import resolve
from tsjax.jobs.job import Model

SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")

METHODS = ("encode", "encode_query", "encode_document")
# States of a prompt in a checkpoint: missing, null, empty, a text.
NAMES = ("query", "document", "passage", "corpus", "topic")
DEFAULTS = (None, "query", "document", "passage", "topic", "")
GIVEN = ({}, {"query": "new query "}, {"query": None, "passage": ""}, {"document": "", "more": "more "})
ARGUMENTS = ({}, {"prompt_name": "passage"}, {"prompt": ""}, {"prompt_name": "nowhere", "prompt": "of "})


def saved_prompts():
    """Yield all dictionaries of the five names, with null only for those that exist in any case."""
    values = [[..., "", f"{name} "] + ([None] if name in ("query", "document") else []) for name in NAMES]
    for chosen in itertools.product(*values):
        yield {name: value for name, value in zip(NAMES, chosen, strict=True) if value is not ...}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_sentence_transformers(tmp_path_factory.mktemp("model") / "st")


@pytest.fixture(scope="module")
def theirs(source):
    return SentenceTransformer(str(source), device="cpu")


def of_theirs(model, saved, default, given):
    """Load prompts as `SentenceTransformer.__init__` does, without the modules, and record what each call would use."""
    model.prompts = {**type(model)._default_prompts, **given}
    model.default_prompt_name = None
    model._parse_model_config({"prompts": saved, "default_prompt_name": default})
    model._validate_prompts()
    return used(model, dict(model.prompts))


def of_ours(header, tokenizer, saved, default, given):
    metadata = dataclasses.replace(
        header.metadata, prompts={name: text or "" for name, text in saved.items()}, default_prompt_name=default
    )
    model = object.__new__(Embedder)
    Settings.__init__(
        model,
        dataclasses.replace(header, metadata=metadata),
        tokenizer,
        "float32",
        temperature=None,
        max_seq_length=None,
        prompts=given,
        default_prompt_name=None,
        truncate_dim=None,
        similarity_fn_name=None,
    )
    model._engine = types.SimpleNamespace(check_usable=lambda: None, devices=())  # nothing is computed
    return used(model, dict(model.prompts))


def used(model, prompts):
    found = [prompts]
    for method, arguments in itertools.product(METHODS, ARGUMENTS):
        seen.clear()
        try:
            getattr(model, method)(["a text"], show_progress_bar=False, **arguments)
            found.append(seen[0] or "")
        except ValueError:
            found.append(ValueError)
    return found


seen = []


@pytest.mark.slow
def test_every_combination(source, theirs, monkeypatch):
    def their_inference(self, inputs, *, prompt, **options):
        seen.append(prompt)
        return np.zeros((len(inputs), 1), "f4")

    def our_inference(self, texts, request, progress):
        seen.append(request.prompt)
        return np.zeros((len(texts), 1), "f4")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer._inference", their_inference)
    monkeypatch.setattr(Embedder, "_embed", our_inference)
    tokenizer = tsjax.load(source)._tokenizer
    header = read_header(resolve(source))
    wrong = []
    for saved, default, given in itertools.product(saved_prompts(), DEFAULTS, GIVEN):
        try:
            expected = of_theirs(theirs, saved, default, given)
        except ValueError:
            with pytest.raises(tsjax.InputError):
                of_ours(header, tokenizer, saved, default, given)
            continue
        if of_ours(header, tokenizer, saved, default, given) != expected:
            wrong.append((saved, default, given))
    assert not wrong


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"prompts": {"query": "it was ", "passage": "this is "}},
        {"prompts": {"passage": "this is ", "corpus": "of all "}},
        {"prompts": {"topic": "it was "}, "default_prompt_name": "topic"},
        {"prompts": {"query": None, "document": "this is "}, "default_prompt_name": "document"},
        {"prompts": {"topic": None}},
        {"prompts": {}, "default_prompt_name": "query"},
    ],
)
def test_vectors_jobs_and_exports(tmp_path, options, include_prompt):
    pooling = {"embedding_dimension": 36, "pooling_mode": "mean", "include_prompt": include_prompt}
    source = write_sentence_transformers(tmp_path / "st", options=options, pooling=pooling)
    theirs, ours = SentenceTransformer(str(source), device="cpu"), tsjax.load(source)
    texts = ["the cat", "what he had to be"]
    for method, task in zip(METHODS, (None, "query", "document"), strict=True):
        expected = getattr(theirs, method)(texts)
        np.testing.assert_allclose(getattr(ours, method)(texts), expected, rtol=0, atol=5e-6)
        prompt = Model.of(ours, task).prompt
        np.testing.assert_allclose(ours.encode(texts, prompt=prompt), expected, rtol=0, atol=5e-6)
    tsjax.hub.export_to(source, tmp_path / "again")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert again.prompts == theirs.prompts == ours.prompts
    assert again.default_prompt_name == theirs.default_prompt_name == ours.default_prompt_name


def test_without_modules_the_files_around_them_do_not_count(tmp_path):
    """Sentence-transformers ignores them, too, and makes a new model of the encoder."""
    source = write_sentence_transformers(
        tmp_path / "st",
        options={"prompts": {"query": "it was "}, "default_prompt_name": "query", "similarity_fn_name": "dot"},
    )
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 5})
    (source / "modules.json").unlink()
    theirs, ours = SentenceTransformer(str(source), device="cpu"), tsjax.load(source)
    assert (ours.prompts, ours.default_prompt_name) == (theirs.prompts, theirs.default_prompt_name)
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "cosine"
    texts = ["the cat was on this and that by the one"]
    np.testing.assert_allclose(ours.encode_query(texts), theirs.encode_query(texts), rtol=0, atol=5e-6)


def test_prompts_that_are_set_later_replace_all(theirs, source):
    ours = tsjax.load(source)
    theirs.default_prompt_name = None
    for prompts in ({"passage": "this is "}, {"query": "it was ", "corpus": "of all "}, {"document": None}):
        theirs.prompts, ours.prompts = dict(prompts), prompts
        for method in METHODS:
            np.testing.assert_allclose(
                getattr(ours, method)(["the cat"]), getattr(theirs, method)(["the cat"]), rtol=0, atol=5e-6
            )


def test_info_says_which_prompt_no_method_uses(tmp_path, capsys):
    from tsjax.cli.main import main

    source = write_sentence_transformers(
        tmp_path / "st", options={"prompts": {"query": "it was ", "passage": "this is "}}
    )
    assert main(["info", str(source)]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "encode_query" in lines["prompt 'query'"]
    assert "--prompt-name passage" in lines["prompt 'passage'"]
    assert main(["info", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unused_prompts"] == ["passage"]


def test_a_hidden_prompt_is_said_once(tmp_path, caplog):
    source = write_sentence_transformers(
        tmp_path / "st", options={"prompts": {"query": "it was ", "passage": "this is ", "sts": "of "}}
    )
    for _ in range(2):
        tsjax.load(source)
    said = [record.getMessage() for record in caplog.records if record.name == "tsjax"]
    assert len(said) == 1
    assert "prompt_name='passage'" in said[0]
    caplog.clear()
    tsjax.load(source, prompts={"document": "this is "})
    assert not caplog.records
