"""The adapter under MTEB's own evaluation: scores equal those computed directly, and no result overwrites another."""

import json
import warnings

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tests.support.lazy import lazy, needs
from tests.support.mteb_tasks import passages, retrieval_task
from tsjax.errors import InputError
from tsjax.temperature import LogLength, Temperature

mocks = lazy("mteb.mocks.mock_tasks")
protocols = lazy("mteb.models")
types = lazy("mteb.types")
Model = lazy("tsjax.integrations.mteb", "Model")
SentenceTransformerEncoderWrapper = lazy(
    "mteb.models.sentence_transformer_wrapper", "SentenceTransformerEncoderWrapper"
)
SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")
mteb = lazy("mteb")
torch = lazy("torch")

# The small models read few words of a passage.
pytestmark = [
    needs("mteb"),
    pytest.mark.torch,
    pytest.mark.slow,  # Importing MTEB takes as long as the tests.
    pytest.mark.filterwarnings("ignore:.* were cut:tsjax.errors.TruncationWarning"),
]

PROMPTS = {"query": "to find ", "document": "about "}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_sentence_transformers(tmp_path_factory.mktemp("model") / "small", options={"prompts": PROMPTS})


def evaluate(model, task, cache=None, **options):
    [result] = mteb.evaluate(model, task, cache=cache, show_progress_bar=False, **options).task_results
    return result.scores["test"][0]


def direct(scores):
    """Return nDCG@10 and MRR@10 where the nth query's only relevant document is the nth."""
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
    found = ranks <= 10
    return (found / np.log2(1 + ranks)).mean(), (found / ranks).mean()


def test_retrieval_scores_are_those_computed_directly(checkpoint):
    embedder = tsjax.load(checkpoint, max_seq_length=40)
    temperature = Temperature(0.5, query=2.0)
    queries, corpus, relevant = passages()
    got = evaluate(Model(embedder, temperature=temperature), retrieval_task(queries, corpus, relevant))

    titled = [f"{row['title']} {row['text']}" for row in corpus.values()]
    documents = embedder.encode(titled, prompt="about ", temperature=0.5)
    asked = embedder.encode(list(queries.values()), prompt="to find ", temperature=2.0)
    ndcg, mrr = direct(embedder.similarity(asked, documents))
    assert 0.02 < ndcg < 0.98  # A score between chance and perfect shows errors.
    assert got["main_score"] == pytest.approx(ndcg, abs=6e-6)  # MTEB rounds to five digits.
    assert got["mrr_at_10"] == pytest.approx(mrr, abs=6e-6)


# Names after a registered task, an unregistered one, types, kinds of texts, and an unused one.
SEVERAL = {
    "query": "to find ",
    "passage": "on ",
    "NFCorpus-query": "by ",
    "NFCorpus": "or ",
    "Mine-query": "his ",
    "Mine": "had ",
    "Retrieval-document": "from ",
    "Retrieval": "at ",
    "STS": "not ",
    "Classification-document": "was ",
    "BitextMining-query": "one ",
}


def both(place, **options):
    """Return a tsjax model, and the same model in MTEB's wrapper of sentence-transformers."""
    folder = write_sentence_transformers(place / "model", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about prompts, which have a separate test
        original = SentenceTransformer(str(folder), device="cpu")
        return Model(folder), SentenceTransformerEncoderWrapper(original)


class Batches(list):
    """Batches as a data loader gives them; the data set has only texts."""

    class dataset:
        features = ("text",)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompts": {"passage": "on "}, "default_prompt_name": "passage"},
        {"prompts": {"document": "about ", "corpus": "by "}, "default_prompt_name": "corpus"},
        {"prompts": {"query": "", "Retrieval": "at "}, "default_prompt_name": "query"},
        {"prompts": SEVERAL, "default_prompt_name": "query"},
    ],
)
def test_texts_get_the_prompts_that_mtebs_own_wrapper_gives_them(tmp_path, options):
    ours, theirs = both(tmp_path, **options)
    found = set()
    for name in ("NFCorpus", "Mine"):
        for kind in ("Retrieval", "STS", "Classification", "BitextMining", "Clustering"):
            for prompt_type in (None, types.PromptType.query, types.PromptType.document):

                class Facts:
                    pass

                Facts.name, Facts.type = name, kind
                about = {"task_metadata": Facts, "hf_split": "test", "hf_subset": "default", "prompt_type": prompt_type}
                batches = Batches([{"text": ["the of", "a to and"]}, {"text": ["in"]}])
                one, other = (model.encode(batches, show_progress_bar=False, **about) for model in (ours, theirs))
                np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
                found.add(one.round(3).tobytes())
    assert len(found) == {5: 1, 11: 9}.get(len(options.get("prompts", ())), len(found))


@pytest.mark.parametrize("name", ["NFCorpus", "Mine"])
@pytest.mark.filterwarnings("ignore:prompts that are not used:UserWarning")
def test_scores_are_those_of_mtebs_own_wrapper(tmp_path, name):
    models = both(tmp_path, prompts=SEVERAL)
    task = retrieval_task(*passages(count=25), name=name)
    one, other = (evaluate(model, task) for model in models)
    assert one["main_score"] == pytest.approx(other["main_score"], abs=1e-5)
    assert 0.02 < one["main_score"] < 0.98
    assert one["mrr_at_10"] == pytest.approx(other["mrr_at_10"], abs=1e-5)


@pytest.mark.parametrize(
    "task",
    [
        "MockBitextMiningTask",
        "MockClassificationTask",
        "LegacyMockClusteringFastTask",
        "MockInstructionReranking",
        "MockInstructionRetrieval",
        "MockPairClassificationTask",
        "MockRerankingTask",
        "MockRetrievalDialogTask",
        "MockSTSTask",
        "MockSummarizationTask",
    ],
)
# MTEB's stand-in for classification has few texts, and a random model may not predict one of the labels.
@pytest.mark.filterwarnings("ignore:Precision is ill-defined:sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.filterwarnings("ignore:prompts that are not used:UserWarning")
# MTEB's warnings about a model's similarities
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_every_kind_of_task_scores_as_in_mtebs_own_wrapper(tmp_path, task):
    models = both(tmp_path, prompts=SEVERAL)
    scores = []
    for model in models:
        own = getattr(mocks, task)()
        own.load_data()
        scores.append({key: value for key, value in evaluate(model, own).items() if isinstance(value, float)})
    assert np.isfinite(scores[0]["main_score"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4, nan_ok=True)


def test_prompts_that_mteb_does_not_use_are_named_once(tmp_path):
    folder = write_sentence_transformers(tmp_path / "model", options={"prompts": SEVERAL})
    with pytest.warns(UserWarning, match="prompts that are not used: 'passage', 'Mine-query', 'Mine'") as said:
        Model(folder)
    assert len(said) == 1


def test_results_of_two_temperatures_are_kept_apart_and_found_again(checkpoint, tmp_path):
    cache, task = mteb.ResultCache(tmp_path), retrieval_task(*passages(count=15))
    embedder = tsjax.load(checkpoint, max_seq_length=40)
    models = [Model(embedder), Model(embedder, temperature=0.2)]
    first = [evaluate(model, task, cache)["main_score"] for model in models]
    assert first[0] != first[1]
    before = embedder.statistics.texts
    assert [evaluate(model, task, cache)["main_score"] for model in models] == first
    assert embedder.statistics.texts == before
    files = sorted(tmp_path.rglob("LocalRetrieval.json"))
    assert [file.parent.parent.name for file in files] == ["local__small-tau-0.2", "local__small-tau-1.0"]
    assert [json.loads(file.read_text())["scores"]["test"][0]["main_score"] for file in files] == first[::-1]


def test_the_facts_are_filled_in(checkpoint):
    embedder = tsjax.load(checkpoint, truncate_dim=20)
    model = Model(embedder)
    meta = model.mteb_model_meta
    assert isinstance(model, protocols.EncoderProtocol)
    assert meta.revision == f"{embedder.encoding_fingerprint}-cosine"
    assert (meta.embed_dim, meta.max_tokens, meta.use_instructions) == (20, 41, True)
    assert meta.framework == ["JAX"]
    assert meta.similarity_fn_name == "cosine"
    named = Model(embedder, name="us/other", temperature=0.9)
    assert named.mteb_model_meta.name == "us/other-tau-0.9"
    other = tsjax.load(checkpoint, truncate_dim=20, temperature=0.9)
    assert named.mteb_model_meta.revision == f"{other.encoding_fingerprint}-cosine"
    assert embedder.temperature == Temperature()  # The given model is left unchanged.


def test_temperatures_that_are_no_number_have_names_of_their_own(checkpoint):
    embedder = tsjax.load(checkpoint)
    several = [
        Temperature(0.9, by_length=LogLength(128)),
        Temperature(0.9, query=1.0),
        Temperature([0.9, 0.8, 0.7]),
        Temperature([0.9, 0.75, 0.7]),  # It is printed like the one above.
    ]
    names = {Model(embedder, temperature=temperature).mteb_model_meta.name for temperature in several}
    assert len(names) == len(several)
    assert all(name.count("/") == 1 and " " not in name for name in names)


def test_a_prompt_named_after_the_task_goes_first(checkpoint):
    embedder = tsjax.load(checkpoint, prompts={"STSBenchmark": "alike "})

    class Facts:
        name, type = "STSBenchmark", "STS"

    options = {"task_metadata": Facts, "hf_split": "test", "hf_subset": "default"}
    got = Model(embedder).encode([{"text": ["the"]}, {"text": ["a", "of"]}], **options)
    np.testing.assert_array_equal(got, embedder.encode(["the", "a", "of"], prompt="alike "))


def test_similarities_are_tensors_of_the_models_own_measure(checkpoint):
    model = Model(checkpoint, similarity_fn_name="euclidean")
    a, b = np.eye(3, 4, dtype="f4"), torch.ones(3, 4)
    assert isinstance(model.similarity(a, b), torch.Tensor)
    np.testing.assert_allclose(model.similarity(a, b), np.full((3, 3), -np.sqrt(3)), rtol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(a, b), np.full(3, -np.sqrt(3)), rtol=1e-6)


def test_options_beside_an_embedder_are_refused(checkpoint):
    with pytest.raises(InputError, match="dtype is an option of loading"):
        Model(tsjax.load(checkpoint), dtype="bfloat16")
