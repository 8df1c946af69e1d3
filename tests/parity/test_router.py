"""Routers of sentence-transformers: embedders of several routes against theirs, on directories that they saved."""

import json
import shutil

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_bert, write_json
from tests.support.lazy import lazy
from tsjax.checkpoints.routed import RouterConfig, is_routed, read_routed_header
from tsjax.cli.main import main
from tsjax.hub import resolve

SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")
Dense, Router, Transformer = lazy("sentence_transformers.base.modules", "Dense", "Router", "Transformer")
Normalize, Pooling, StaticEmbedding = lazy(
    "sentence_transformers.sentence_transformer.modules", "Normalize", "Pooling", "StaticEmbedding"
)
torch = lazy("torch")

TEXTS = ["the cat", "", "what he had to be", "Is it?"]
TASKS = [None, "query", "document", "text", "other", ""]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Return two encoders that differ in weights, depth and length."""
    path = tmp_path_factory.mktemp("encoders")
    one = write_bert(path / "one", num_hidden_layers=1)
    two = write_bert(path / "two", seed=1, num_hidden_layers=2, max_position_embeddings=30)
    return str(one), str(two)


@pytest.fixture
def save(tmp_path):
    """Save a SentenceTransformer of the modules; return the directory, and the model loaded from it again."""

    def saved(*modules, **options):
        torch.manual_seed(0)
        SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(tmp_path / "saved"))
        return tmp_path / "saved", SentenceTransformer(str(tmp_path / "saved"), device="cpu")

    return saved


@pytest.fixture(scope="module")
def asymmetric(encoders, tmp_path_factory):
    """Return a SentenceTransformer of two encoders and a shared head, its directory, and the converted checkpoint."""
    path = tmp_path_factory.mktemp("asymmetric")
    torch.manual_seed(0)
    query, document = (
        [Transformer(encoder), Pooling(36, mode)] for encoder, mode in zip(encoders, ("mean", "cls"), strict=True)
    )
    modules = [Router.for_query_document(query, document), Dense(36, 9), Normalize()]
    SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "it was ", "document": "of "}, similarity_fn_name="dot"
    ).save(str(path / "saved"))
    resolved = resolve(path / "saved")
    return SentenceTransformer(str(path / "saved"), device="cpu"), path / "saved", resolved


@pytest.fixture
def both(asymmetric):
    return asymmetric[0], tsjax.load(asymmetric[1])


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1, np.abs(theirs).max()))


def assert_same_routes(theirs, ours, tasks=TASKS):
    """Check that every task gives the same vectors, or an error on both sides."""
    for task in tasks:
        try:
            expected = theirs.encode(TEXTS, task=task)
        except ValueError:
            with pytest.raises(tsjax.InputError, match="there is no route for"):
                ours.encode(TEXTS, task=task)
        else:
            assert_close(ours.encode(TEXTS, task=task), expected)


@pytest.mark.slow
def test_queries_and_documents(both):
    theirs, ours = both
    assert isinstance(ours, tsjax.RoutedEmbedder)
    assert_same_routes(theirs, ours)
    assert_close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert_close(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))
    assert_close(
        ours.encode("the cat", task="query", prompt="for "), theirs.encode("the cat", task="query", prompt="for ")
    )
    assert_close(ours.encode_query(TEXTS, truncate_dim=5), theirs.encode_query(TEXTS, truncate_dim=5))
    assert np.abs(ours.encode(TEXTS, task="query") - ours.encode(TEXTS)).max() > 0.1, "the routes are the same"
    for precision in ("int8", "ubinary"):
        bits = ours.encode_query(TEXTS, precision=precision)
        np.testing.assert_array_equal(bits, tsjax.quantize_embeddings(ours.encode_query(TEXTS), precision))
    vectors, others = theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)
    assert_close(ours.similarity(vectors, others), theirs.similarity(vectors, others).numpy())
    assert_close(ours.similarity_pairwise(vectors, others), theirs.similarity_pairwise(vectors, others).numpy())
    blocks = list(ours.stream(TEXTS, block_size=3, task="query"))
    assert_close(np.concatenate(blocks), theirs.encode(TEXTS, task="query"))
    for either in both:
        with pytest.raises(TypeError, match="multiple values for keyword argument 'task'"):
            either.encode_query(TEXTS, task="document")


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("query", "document"), {}),
        (("query", "document"), {"allow_empty_key": False}),
        (("query", "document"), {"default_route": "document", "allow_empty_key": False}),
        (("query", "text"), {"allow_empty_key": False}),
        (("a", "b"), {"route_mappings": {("query", "text"): "a", ("query", None): "b", ("document", None): "b"}}),
        (("a", "b"), {"route_mappings": {("query", None): "b", (None, "text"): "a", (None, None): "b"}}),
        (("query", "b"), {"route_mappings": {(None, None): "b"}}),
        (("query", "document"), {"route_mappings": {("query", "text"): "document"}, "allow_empty_key": False}),
    ],
)
def test_which_route_a_task_takes(save, encoders, names, options):
    """An Asym is also read in its old place, after the pooling."""
    routes = {name: [Dense(36, 9)] for name in names}
    directory, theirs = save(Transformer(encoders[0]), Pooling(36), Router(routes, **options))
    ours = tsjax.load(directory)
    assert_same_routes(theirs, ours)
    with_default = theirs[2].default_route is not None
    assert ("default_route=None" not in repr(ours)) or not with_default


def test_old_names_and_shared_routes(save, encoders):
    """Routes of the same modules are one route, in a folder that both name; an old Asym is a Router."""
    shared, pooling, dense = Transformer(encoders[0]), Pooling(36), Dense(36, 9)
    routes = {"query": [shared, pooling], "document": [shared, pooling], "other": [shared, pooling, dense]}
    directory, theirs = save(Router(routes))
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.Asym"
    write_json(directory / "modules.json", modules)
    (directory / "router_config.json").rename(directory / "config.json")
    config = json.loads((directory / "config.json").read_text())
    config["types"] = {
        name: f"sentence_transformers.models.{full.split('.')[-1]}" for name, full in config["types"].items()
    }
    config["parameters"] = {"allow_empty_key": True}
    write_json(directory / "config.json", config)
    ours = tsjax.load(directory)
    assert_same_routes(SentenceTransformer(str(directory), device="cpu"), ours)
    assert ours.routes["query"] is ours.routes["document"] is not ours.routes["other"]
    assert [ours.route(name).embedding_dimension for name in ours.routes] == [36, 36, 9]
    assert ours.embedding_dimension == theirs.get_embedding_dimension() == 36
    with pytest.raises(tsjax.InputError, match="truncate_dim 20 is more than the 9 dimensions"):
        ours.truncate_dim = 20
    assert [embedder.truncate_dim for embedder in ours.routes.values()] == [None, None, None], "one was changed"


def test_it_has_what_an_embedder_has():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(tsjax.Embedder) - public(tsjax.RoutedEmbedder) == {
        "check_temperature",
        "header",
        "metadata",
        "pipeline",
        "present_metadata",
        "prompt_for",
        "prompt_name_for",
        "prompt_text",
        "share_prompts",
    }
    assert public(tsjax.RoutedEmbedder) - public(tsjax.Embedder) == {"routes"}


@pytest.mark.slow
def test_what_is_set_is_set_on_every_route(both):
    theirs, ours = both
    assert ours.max_seq_length == theirs.max_seq_length == 41
    assert [ours.route(task).max_seq_length for task in ("query", "document")] == [41, 30]
    with pytest.raises(tsjax.InputError, match="max_seq_length 35 is more than the 30 tokens"):
        ours.max_seq_length = 35
    assert ours.route("query").max_seq_length == 41
    assert ours.similarity_fn_name == "dot"
    ours.similarity_fn_name = "cosine"
    ours.truncate_dim = theirs.truncate_dim = 4
    assert ours.embedding_dimension == ours.get_embedding_dimension() == ours.get_sentence_embedding_dimension() == 4
    ours.max_seq_length = theirs.max_seq_length = 5
    ours.prompts["document"] = theirs.prompts["document"] = "was "
    ours.default_prompt_name = theirs.default_prompt_name = "query"
    for name in ("encode", "encode_query", "encode_document"):
        with pytest.warns(tsjax.TruncationWarning):
            assert_close(getattr(ours, name)(TEXTS), getattr(theirs, name)(TEXTS))
    ours.prompts = {"query": "", "new": "the "}
    assert all(embedder.prompts is ours.prompts for embedder in ours.routes.values())
    theirs.prompts["document"], theirs.default_prompt_name = "of ", None
    theirs.truncate_dim, theirs.max_seq_length = None, 30


@pytest.mark.slow
def test_temperatures(both, asymmetric):
    _, ours = both
    before, fingerprint = ours.encode_document(TEXTS), ours.encoding_fingerprint
    ours.temperature = 0.5
    assert ours.encoding_fingerprint != fingerprint
    loaded = tsjax.load(asymmetric[1], temperature=0.5)
    assert loaded.encoding_fingerprint == ours.encoding_fingerprint
    for task in ("query", "document"):
        np.testing.assert_array_equal(ours.encode(TEXTS, task=task), loaded.encode(TEXTS, task=task))
    assert np.abs(ours.encode_document(TEXTS) - before).max() > 1e-3
    np.testing.assert_array_equal(ours.encode_document(TEXTS, temperature=1.0), before)
    with pytest.raises(tsjax.InputError):  # one value per layer fits only one of the two
        ours.temperature = [0.5, 0.6]
    assert ours.route("document").temperature == ours.route("query").temperature == loaded.temperature


@pytest.mark.slow
def test_statistics_shapes_and_warmup(both):
    _, ours = both
    ours.encode_query(TEXTS)
    ours.encode_document(TEXTS[:3])
    done = ours.statistics
    assert done.texts == 7
    assert done.batches == sum(embedder.statistics.batches for embedder in ours.routes.values())
    assert done.tokens == sum(embedder.statistics.tokens for embedder in ours.routes.values())
    assert done.compilations == sum(embedder.statistics.compilations for embedder in ours.routes.values())
    assert set(ours.shapes) == {shape for embedder in ours.routes.values() for shape in embedder.shapes}
    assert len(ours.shapes) == len(set(ours.shapes))
    assert ours.token_budget == ours.route().token_budget


def test_the_checkpoint(asymmetric, tmp_path, capsys):
    _, directory, resolved = asymmetric
    assert is_routed(resolved)
    assert resolve(directory) == resolve(resolved) == resolved, "not kept, or not known for ours"
    with pytest.raises(tsjax.CheckpointError, match="several routes"):
        tsjax.Embedder(resolved)
    assert main(["convert", str(directory), str(tmp_path / "out")]) == 0
    first = read_routed_header(tmp_path / "out")
    assert first.fingerprint == read_routed_header(resolved).fingerprint
    assert tsjax.load(tmp_path / "out").encoding_fingerprint == tsjax.load(directory).encoding_fingerprint
    assert main(["convert", str(directory), str(tmp_path / "out")]) == 2
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "warm"), "--temperature", "0.5"]) == 0
    assert tsjax.load(tmp_path / "warm").temperature == tsjax.Temperature(0.5)
    assert main(["convert", str(tmp_path / "warm"), str(tmp_path / "out"), "--temperature", "1", "--overwrite"]) == 0
    assert read_routed_header(tmp_path / "out").fingerprint == first.fingerprint
    capsys.readouterr()

    assert main(["info", str(directory)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "task 'query' route 'query', in route-0 " in out
    assert "without a task route 'document' " in out
    assert "1 layer, 36 wide" in out
    assert "2 layers, 36 wide" in out
    assert main(["info", str(directory), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["checkpoint_fingerprint"] == first.fingerprint
    assert content["folders"]["route-1"]["model"]["encoder"]["num_layers"] == 2

    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n")
    for kind in ("query", "document"):
        out = tmp_path / f"{kind}.npy"
        assert main(["embed", str(tmp_path / "t.txt"), "--model", str(directory), "-o", str(out), "--task", kind]) == 0
        expected = getattr(tsjax.load(directory), f"encode_{kind}")(TEXTS)
        np.testing.assert_array_equal(np.load(out), expected)


def test_a_damaged_route_is_noticed(asymmetric, tmp_path, capsys):
    shutil.copytree(asymmetric[2], tmp_path / "copy")
    shutil.copytree(tmp_path / "copy" / "route-0", tmp_path / "copy" / "other")
    shutil.rmtree(tmp_path / "copy" / "route-0")
    with pytest.raises(tsjax.CheckpointError, match="route-0.*cannot be read"):
        tsjax.load(tmp_path / "copy")
    shutil.copytree(tmp_path / "copy" / "route-1", tmp_path / "copy" / "route-0")  # sound, but another
    with pytest.raises(tsjax.CheckpointError, match="fingerprint differs"):
        tsjax.load(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "route-0")
    (tmp_path / "copy" / "other").rename(tmp_path / "copy" / "route-0")
    tsjax.load(tmp_path / "copy")
    with (tmp_path / "copy" / "route-1" / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert main(["info", str(tmp_path / "copy")]) == 2
    assert "SHA-256" in capsys.readouterr().err
    for spoil in (
        lambda c: c["tsjax"]["router"]["tasks"].update(query="document"),
        lambda c: c["tsjax"]["router"]["routes"].update(query="../elsewhere"),
        lambda c: c["tsjax"]["router"].update(flux=1),
        lambda c: c["tsjax"].update(format=99),
        lambda c: c.update(tsjax={"router": None}),
    ):
        config = json.loads((asymmetric[2] / "config.json").read_text())
        spoil(config)
        write_json(tmp_path / "copy" / "config.json", config)
        with pytest.raises(tsjax.CheckpointError):
            tsjax.load(tmp_path / "copy")


def test_a_failed_conversion_leaves_nothing(asymmetric, tmp_path):
    shutil.copytree(asymmetric[1], tmp_path / "source")
    (tmp_path / "source" / "document_0_Transformer" / "model.safetensors").unlink()
    with pytest.raises(tsjax.ConversionError, match="document_0_Transformer holds no weights"):
        tsjax.load(tmp_path / "source")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "out")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_changed_module_is_converted_anew(asymmetric, tmp_path):
    shutil.copytree(asymmetric[1], tmp_path / "source")
    first = tsjax.load(tmp_path / "source").encoding_fingerprint
    write_json(
        tmp_path / "source" / "query_1_Pooling" / "config.json", {"embedding_dimension": 36, "pooling_mode": "max"}
    )
    assert tsjax.load(tmp_path / "source").encoding_fingerprint != first


def test_a_changed_module_deep_down_is_too(save, encoders):
    directory, _ = save(Transformer(encoders[0]), Pooling(36), Router({"query": [Dense(36, 9)]}))
    first = tsjax.load(directory).encoding_fingerprint
    file = directory / "2_Router" / "query_0_Dense" / "config.json"
    file.write_text(file.read_text().replace("Tanh", "ReLU"))
    assert tsjax.load(directory).encoding_fingerprint != first


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r["parameters"].update(default_route="no"), "default_route 'no' is not among the routes query, doc"),
        (lambda r: r["parameters"].update(flux=1), "unknown field 'flux'"),
        (
            lambda r: r["parameters"].update(route_mappings={"(None, 'image')": "query"}),
            "'query' is for modality 'image'",
        ),
        (lambda r: r["parameters"].update(route_mappings={"(None, ('image', 'text'))": "query"}), "modality .*'image'"),
        (lambda r: r["parameters"].update(route_mappings={"('query', None)": "no"}), "leads to 'no'"),
        (lambda r: r["parameters"].update(route_mappings={"exit()": "query"}), "not a task and a modality"),
        (lambda r: r["parameters"].update(route_mappings={"(3, 'text')": "query"}), "the task 3"),
        (lambda r: r["structure"].update(query=["elsewhere"]), "route 'query' is .*'elsewhere'"),
        (lambda r: r["structure"].update(query=["query_1_Pooling"]), "expected a Transformer and then a Pooling"),
        (lambda r: r["structure"].clear(), "there is no route"),
        (lambda r: r.update(more=1), "unknown field 'more'"),
        (lambda r: r["types"].update(x="sentence_transformers.base.modules.router.Router"), "Router in a Router"),
        (lambda r: r["types"].update(x="evil.Module"), "'evil.Module' is foreign code"),
        (lambda r: r["types"].update({"../x": "sentence_transformers.models.Dense"}), "leads out of the checkpoint"),
        (
            lambda r: r["types"].update(x="sentence_transformers.sparse_encoder.modules.SparseStaticEmbedding"),
            "SparseStaticEmbedding' is not supported; supported are Transformer, Pooling",
        ),
    ],
)
def test_a_spoilt_router_is_explained(asymmetric, tmp_path, spoil, message):
    shutil.copytree(asymmetric[1], tmp_path / "source")
    config = json.loads((tmp_path / "source" / "router_config.json").read_text())
    spoil(config)
    write_json(tmp_path / "source" / "router_config.json", config)
    with pytest.raises(tsjax.ConversionError, match=message):
        tsjax.load(tmp_path / "source")


def test_a_route_that_is_a_static_embedding_is_refused(save, encoders):
    document = Transformer(encoders[0])
    static = StaticEmbedding(document.tokenizer, embedding_dim=36)
    directory, _ = save(Router.for_query_document([static], [document, Pooling(36)]))
    with pytest.raises(tsjax.ConversionError, match="StaticEmbedding' is not supported; supported are Transformer"):
        tsjax.load(directory)


def test_one_place_to_choose(save, encoders):
    routers = [Router({"query": [Dense(36, 36)]}) for _ in range(2)]
    directory, _ = save(Transformer(encoders[0]), Pooling(36), *routers)
    with pytest.raises(tsjax.ConversionError, match="2 Routers"):
        tsjax.load(directory)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"routes": {}}, "at least one route"),
        ({"routes": {"a": "x/y"}}, "not a plain name"),
        ({"routes": {"a": ""}}, "not a plain name"),
        ({"routes": {"a": "x"}, "default_route": "b"}, "no route 'b'"),
    ],
)
def test_a_router_that_leads_nowhere(fields, message):
    with pytest.raises(tsjax.ConfigError, match=message):
        RouterConfig(**{"tasks": {}, **fields})
    with pytest.raises(tsjax.InputError, match="a task is a name, not 3"):
        RouterConfig(routes={"a": "x"}, tasks={}).route(3)
