import random
from types import SimpleNamespace

import numpy as np
import pytest

import tsjax
from tests.support import batch_jobs
from tests.support.checkpoints import write_sentence_transformers
from tsjax.errors import InputError
from tsjax.jobs.input.columns import Row
from tsjax.jobs.job import Model, Options
from tsjax.jobs.plan import ShardKey
from tsjax.jobs.run.compute import Block, Computer, Seen
from tsjax.jobs.run.long_texts import Cutter

RNG = random.Random(1)
SHORT = [batch_jobs.make_text(RNG, 1, 12) for _ in range(9)]
LONG = [batch_jobs.make_text(RNG, 60, 130) for _ in range(3)]
TEXTS = [*SHORT[:4], LONG[0], *SHORT[4:7], LONG[1], *SHORT[7:], LONG[2], ""]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tsjax.load(batch_jobs.make_model(tmp_path_factory.mktemp("model")))


def embed(model, options, blocks):
    """Return the blocks of one shard, each a list of texts."""
    seen, rows = Seen(), 0
    made = []
    for texts in blocks:
        of_block = [Row("a.txt", rows + place, f"id{rows + place}", text, ()) for place, text in enumerate(texts)]
        rows += len(texts)
        made.append(Block(ShardKey(0, 0), of_block, seen, final=False, last=False, read=0, left=0))
    return list(Computer(model, options).run(made))


def test_cut(embedder):
    (done,) = embed(Model.of(embedder), Options(), [TEXTS])
    assert done.truncated == 3
    with pytest.warns(tsjax.TruncationWarning):
        expected = embedder.encode(TEXTS)
    np.testing.assert_allclose(done.vectors, expected, atol=1e-6)
    assert [row.text for row in done.rows] == TEXTS


def test_reject(embedder):
    (done,) = embed(Model.of(embedder), Options(long_texts="reject"), [TEXTS])
    assert [row.text for row in done.rows] == [text for text in TEXTS if text not in LONG]
    assert [rejection.row for rejection in done.rejected] == [4, 8, 11]
    length = embedder.count_tokens([LONG[0]])[0]
    assert done.rejected[0].reason == f"{length} tokens, more than 41"
    assert length > 41


def words(embedder, text):
    """Return the texts of the text's tokens; the corpus is made so that each is one word."""
    pieces = text.split()
    assert len(pieces) == embedder.count_tokens([text])[0] - 2
    return pieces


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "overlap"), [(None, 0), (20, 0), (20, 5), (39, 10)])
def test_the_weighted_mean_of_chunks(embedder, tokens, overlap):
    options = Options(long_texts="chunk", chunk_tokens=tokens, overlap_tokens=overlap)
    (done,) = embed(Model.of(embedder), options, [TEXTS])
    assert done.chunked == 3
    assert [row.text for row in done.rows] == TEXTS
    width = tokens or 39
    for text, vector in zip(TEXTS, done.vectors, strict=True):
        if text not in LONG:
            np.testing.assert_allclose(vector, embedder.encode(text), atol=1e-6)
            continue
        pieces = words(embedder, text)
        starts = range(0, max(1, len(pieces) - overlap), width - overlap)
        chunks = [pieces[start : start + width] for start in starts]
        assert sum(map(len, chunks)) == len(pieces) + overlap * (len(chunks) - 1)
        mean = np.average(embedder.encode([" ".join(c) for c in chunks]), axis=0, weights=[len(c) for c in chunks])
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_prompt_stands_before_each_chunk(embedder):
    model = Model.of(embedder, prompt="to be: ")
    (done,) = embed(model, Options(long_texts="chunk", chunk_tokens=10), [[LONG[0]]])
    pieces = words(embedder, LONG[0])
    chunks = [" ".join(pieces[start : start + 10]) for start in range(0, len(pieces), 10)]
    vectors = embedder.encode(chunks, prompt="to be: ")
    mean = np.average(vectors, axis=0, weights=[len(chunk.split()) for chunk in chunks])
    np.testing.assert_allclose(done.vectors[0], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.slow
def test_late_chunks_of_one_window_are_means_of_token_vectors(embedder):
    text = " ".join(LONG[0].split()[:30])
    (done,) = embed(Model.of(embedder), Options(long_texts="late", chunk_tokens=8), [[text, "the of"]])
    assert [(row.id, span.chunk) for row, span in zip(done.rows, done.spans, strict=True)] == [
        *(("id0", chunk) for chunk in range(4)),
        ("id1", 0),
    ]
    tokens = embedder.encode(text, output_value="token_embeddings")[1:-1]
    for span, vector in zip(done.spans[:4], done.vectors, strict=False):
        own = tokens[8 * span.chunk : 8 * span.chunk + 8]
        mean = own.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
        assert text[span.start : span.end].split() == text.split()[8 * span.chunk : 8 * span.chunk + 8]
        assert span.tokens == len(own)
    np.testing.assert_allclose(done.vectors[4], embedder.encode("the of"), atol=1e-6)
    assert done.spans[4] == (0, 0, 6, 2)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["", "to be: "])
def test_late_chunks_over_several_windows(embedder, prompt):
    text, size, overlap = LONG[1], 16, 12
    options = Options(long_texts="late", chunk_tokens=size, overlap_tokens=overlap)
    (done,) = embed(Model.of(embedder, prompt=prompt), options, [[text]])
    pieces = words(embedder, text)
    before = 1 + len(embedder._tokenizer.encode([prompt]).ids[0]) - 2
    width = 41 - before - 1
    # Each token's vector comes from the window whose middle is nearest to it.
    vectors, distances = [None] * len(pieces), [-1] * len(pieces)
    for start in range(0, max(1, len(pieces) - overlap), width - overlap):
        window = pieces[start : start + width]
        tokens = embedder.encode(prompt + " ".join(window), output_value="token_embeddings")[before:-1]
        assert len(tokens) == len(window)
        for place, vector in enumerate(tokens):
            left = place if start else 10**6
            right = len(window) - 1 - place if start + len(window) < len(pieces) else 10**6
            if min(left, right) >= distances[start + place]:
                vectors[start + place], distances[start + place] = vector, min(left, right)
    chunks = [np.mean(vectors[start : start + size], axis=0) for start in range(0, len(pieces), size)]
    expected = np.stack([chunk / np.linalg.norm(chunk) for chunk in chunks])
    np.testing.assert_allclose(done.vectors, expected, atol=1e-6)
    found = [text[span.start : span.end].split() for span in done.spans]
    assert found == [pieces[start : start + size] for start in range(0, len(pieces), size)]


def test_what_cannot_be_chunked(embedder, tmp_path):
    model = Model.of(embedder)
    with pytest.raises(InputError, match="leaves 39 tokens for a chunk beside special ones and the prompt, not 40"):
        Cutter(model, Options(long_texts="chunk", chunk_tokens=40))
    with pytest.raises(InputError, match="chunks or windows of 10 tokens cannot share 10"):
        Cutter(model, Options(long_texts="chunk", chunk_tokens=10, overlap_tokens=10))
    with pytest.raises(InputError, match="mean something only where long texts are chunked"):
        Options(chunk_tokens=10)
    pooling = {"word_embedding_dimension": 36, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    cls = tsjax.load(write_sentence_transformers(tmp_path / "cls", pooling=pooling))
    with pytest.raises(InputError, match="this model does not end so"):
        Cutter(Model.of(cls), Options(long_texts="late"))


@pytest.mark.slow
@pytest.mark.parametrize("long_texts", ["cut", "chunk", "late", "reject"])
def test_duplicates_are_embedded_once(embedder, long_texts):
    blocks = [[*TEXTS, "the", "the"], [LONG[0], "of", "the", SHORT[0]], [], ["of", "and"]]
    start = embedder.statistics.texts
    plain = embed(Model.of(embedder), Options(long_texts=long_texts), blocks)
    before = embedder.statistics.texts
    once = embed(Model.of(embedder), Options(long_texts=long_texts, deduplicate=True), blocks)
    assert embedder.statistics.texts - before < before - start
    for mine, theirs in zip(once, plain, strict=True):
        assert [row.id for row in mine.rows] == [row.id for row in theirs.rows]
        assert mine.spans == theirs.spans
        assert mine.rejected == theirs.rejected
        np.testing.assert_allclose(mine.vectors, theirs.vectors, atol=1e-6)
    seen, expected = set(), []
    for block in blocks:
        expected.append(len(block) - len(set(block) - seen))
        seen |= set(block)
    assert [done.duplicates for done in once] == expected
    assert expected[1:] == [3, 0, 1]
    assert [done.duplicates for done in plain] == [0, 0, 0, 0]


def test_the_same_blocks_give_the_same_bits_whatever_runs_beside_them(embedder):
    blocks = [TEXTS * 5, SHORT * 20, LONG * 5]
    first = [done.vectors.tobytes() for done in embed(Model.of(embedder), Options(), blocks)]
    for _ in range(3):
        alone = [embed(Model.of(embedder), Options(), [block])[0].vectors.tobytes() for block in blocks]
        assert alone == first


def test_an_option_that_does_not_exist(embedder):
    for name in ("file_format", "long_texts", "precision"):
        with pytest.raises(InputError, match="does not exist"):
            Options(**{name: "nonsense"})
    with pytest.raises(InputError, match="rows_per_shard"):
        Options(rows_per_shard=0)
    assert SimpleNamespace(**Options().to_json()).long_texts == "cut"


def test_queries_get_their_prompt_and_temperature(tmp_path):
    source = write_sentence_transformers(tmp_path / "source", options={"prompts": {"query": "to be: "}})
    from tsjax.temperature import Temperature

    embedder = tsjax.load(source, temperature=Temperature(0.5, query=2.0))
    for task in ("query", "document", None):
        model = Model.of(embedder, task)
        (done,) = embed(model, Options(normalize=True), [SHORT])
        expected = embedder.encode(SHORT, task=task, normalize_embeddings=True)
        if task is not None:
            expected = getattr(embedder, f"encode_{task}")(SHORT, normalize_embeddings=True)
        np.testing.assert_allclose(done.vectors, expected, atol=1e-6)
