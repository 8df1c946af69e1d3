"""Warnings point at the user's line that caused them."""

import re
import warnings
from pathlib import Path

import pytest

import conversion
import tsjax
from tests.support.checkpoints import write_cross_encoder, write_routed, write_sentence_transformers
from tsjax.integrations.ray_data import Embed

LONG = "the " * 100
TEXTS = [LONG, "the"]
PAIRS = [(LONG, "of"), ("the", "cat")]


class Subclass(tsjax.Embedder):
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    embedder = tsjax.load(write_sentence_transformers(path / "embedder"))
    return {
        "directory": path / "embedder",
        "embedder": embedder,
        "subclass": Subclass(embedder._header.path),
        "scorer": tsjax.load(write_cross_encoder(path / "scorer")),
        "routed": tsjax.load(write_routed(path / "routed")),
        "ray": Embed(str(path / "embedder")),
    }


USES = {
    "encode": lambda m: m["embedder"].encode(TEXTS),
    "encode one": lambda m: m["embedder"].encode(LONG),
    "encode_query": lambda m: m["embedder"].encode_query(TEXTS),
    "encode_document": lambda m: m["embedder"].encode_document(TEXTS),
    "stream, listed": lambda m: list(m["embedder"].stream(TEXTS)),
    "stream, by hand": lambda m: next(m["embedder"].stream(TEXTS)),
    "stream, a loop": lambda m: [block.shape for block in m["embedder"].stream(TEXTS, block_size=1)],
    "generator": lambda m: m["embedder"].encode(text for text in TEXTS),
    "progress bar": lambda m: m["embedder"].encode(TEXTS, show_progress_bar=True),
    "quantised": lambda m: m["embedder"].encode(TEXTS, precision="int8"),
    "tensor": lambda m: m["embedder"].encode(TEXTS, convert_to_tensor=True),
    "tokens": lambda m: m["embedder"].encode(TEXTS, output_value="token_embeddings"),
    "everything": lambda m: m["embedder"].encode(TEXTS, output_value=None),
    "batch by batch": lambda m: m["embedder"].encode(TEXTS * 20, batch_size=1),
    "subclass": lambda m: m["subclass"].encode_query(TEXTS),
    "embed": lambda m: tsjax.embed(TEXTS, model=m["directory"]),
    "routed": lambda m: m["routed"].encode(TEXTS),
    "routed query": lambda m: m["routed"].encode_query(TEXTS),
    "routed document": lambda m: m["routed"].encode_document(TEXTS),
    "routed stream": lambda m: list(m["routed"].stream(TEXTS, task="query")),
    "predict": lambda m: m["scorer"].predict(PAIRS),
    "predict one": lambda m: m["scorer"].predict(PAIRS[0]),
    "predict, generator": lambda m: m["scorer"].predict(pair for pair in PAIRS),
    "predict, bar": lambda m: m["scorer"].predict(PAIRS, show_progress_bar=True),
    "rank": lambda m: m["scorer"].rank(LONG, ["of"], return_documents=True),
    "ray": lambda m: m["ray"]({"text": __import__("numpy").array(TEXTS)}),
}


@pytest.mark.parametrize("name", USES)
def test_the_line_is_the_callers(models, name):
    use = USES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use(models)
    assert [warning.category for warning in caught] == [tsjax.TruncationWarning]
    assert (caught[0].filename, caught[0].lineno) == (__file__, use.__code__.co_firstlineno)


def test_the_line_is_that_of_a_loop_that_draws_from_a_stream(models):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = models["embedder"].stream(TEXTS)
        next(stream)  # this one
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert lines[caught[0].lineno - 1].strip() == "next(stream)  # this one"


def test_every_warning_goes_this_way():
    files = [file for package in (tsjax, conversion) for file in Path(package.__file__).parent.rglob("*.py")]
    direct = re.compile(r"warnings\.warn\(|stacklevel")
    found = [str(file) for file in files if direct.search(file.read_text(encoding="utf-8"))]
    assert [Path(file).name for file in found] == ["warn.py"]
