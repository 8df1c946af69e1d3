"""Jina v3's task adapters against PyTorch with the weights merged by hand, in both layouts."""

import copy
import functools

import numpy as np
import pytest

import tsjax
from conversion.convert import convert
from tests.support.checkpoints import write_bert, write_json
from tests.support.hidden_states import LENGTHS, compare, ids, mean_vectors, ours
from tests.support.lazy import lazy
from tests.support.published import JINA_V3, JINA_V3_CONFIG, TASKS, packed, save_native
from tsjax.errors import ConversionError

save_file = lazy("safetensors.torch", "save_file")
torch = lazy("torch")

RANK, ALPHA = 4, 3.0
PEFT_CONFIG = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "jinaai/jina-embeddings-v3-hf",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": ALPHA,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "fc1", "word_embeddings"],
    "task_type": "FEATURE_EXTRACTION",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}


ADAPTED = ("layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.2.mlp.fc1", "pooler.dense")


def factors(seed, *shape):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published():
    """Return a model, its published weights, and the merged weights by task.

    Every table and every matrix has factors, also those of the pooler.
    """
    model = JINA_V3.model()
    plain = JINA_V3.weights(model)
    files, merged = {}, {task: dict(plain) for task in TASKS}
    for seed, (name, weight) in enumerate(plain.items()):
        module = name.removesuffix(".weight")
        if weight.ndim != 2:
            files[name] = weight
            continue
        rows, columns = weight.shape
        table = module.endswith("_embeddings")
        a, b = factors(seed, len(TASKS), RANK, columns), factors(seed + 1000, len(TASKS), rows, RANK)
        files[f"{module}.parametrizations.weight.original"] = weight
        files[f"{module}.parametrizations.weight.0.lora_A"] = b if table else a
        files[f"{module}.parametrizations.weight.0.lora_B"] = a if table else b
        for index, task in enumerate(TASKS):
            merged[task][name] = weight + ALPHA / RANK * b[index] @ a[index]
    return model, files, merged


def with_weights(model, weights):
    """Return a copy of a model with other weights, which have the published names."""
    model = copy.deepcopy(model)
    named = {name: weights[theirs] for name, theirs in published_names(model).items()}
    for layer in range(3):
        parts = weights[f"roberta.encoder.layers.{layer}.mixer.Wqkv.weight"].chunk(3)
        for part, value in zip("qkv", parts, strict=True):
            named[f"layers.{layer}.self_attn.{part}_proj.weight"] = value
    model.load_state_dict(named, strict=False)
    return model


def published_names(model):
    """Map transformers' names of the matrices to the published names, without the packed ones."""
    numbered = {name: torch.full_like(weight, float(i)) for i, (name, weight) in enumerate(model.state_dict().items())}
    stand_in = copy.deepcopy(model)
    stand_in.load_state_dict(numbered)
    by_number = {int(weight.flatten()[0]): name for name, weight in JINA_V3.weights(stand_in).items()}
    return {
        name: by_number[i]
        for i, name in enumerate(numbered)
        if numbered[name].ndim == 2 and not any(f"{part}_proj" in name for part in "qkv")
    }


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """Return a checkpoint in Jina's layout, and a function from a task to a reference and a conversion."""
    path = tmp_path_factory.mktemp("beside")
    model, files, merged = published()
    JINA_V3.save(path / "theirs", files, lora_alpha=ALPHA, lora_rank=RANK)

    @functools.cache
    def make(task):
        convert(path / "theirs", path / f"ours {task}", adapter=task)
        return (model if task is None else with_weights(model, merged[task])), path / f"ours {task}"

    return path / "theirs", make


def native(path, task_folders=("retrieval_query", "separation"), config=(), packs=True, **more):
    """Write a checkpoint with transformers' config and PEFT's folders; return the model and the merged ones."""
    model = JINA_V3.model()
    save_native(path, model)
    if packs:
        model.save_pretrained(path)  # with the names and packing of the authors
    config = {**PEFT_CONFIG, **dict(config)}
    scale = ALPHA / (RANK**0.5 if config["use_rslora"] else RANK)
    merged = {}
    for seed, folder in enumerate(task_folders):
        merged[folder] = copy.deepcopy(model)
        adapter = {}
        for index, name in enumerate(ADAPTED):
            weight = merged[folder].get_submodule(name).weight.data
            a = factors(seed + 10 * index, RANK, weight.shape[1])
            b = factors(seed + 100 * index + 7, weight.shape[0], RANK)
            adapter |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
            weight += scale * b @ a
        name = "embeddings.word_embeddings"
        weight = merged[folder].get_submodule(name).weight.data
        a, b = factors(seed + 3, RANK, weight.shape[0]), factors(seed + 4, weight.shape[1], RANK)
        adapter |= {f"base_model.model.{name}.lora_embedding_A": a, f"base_model.model.{name}.lora_embedding_B": b}
        weight += scale * (b @ a).T
        (path / folder).mkdir()
        save_file(adapter | more, path / folder / "adapter_model.safetensors")
        write_json(path / folder / "adapter_config.json", config)
    return model, merged


@pytest.mark.parametrize("tau", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("task", [None, *TASKS])
def test_beside_the_weights(beside, task, tau):
    compare(*beside[1](task), tau)


def test_every_task_gives_vectors_of_its_own(beside):
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    vectors = [mean_vectors(ours(beside[1](task)[1], ids(1), 1.0), mask) for task in (None, *TASKS)]
    for i, one in enumerate(vectors):
        for other in vectors[:i]:
            assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(("stabilised", "packs"), [(False, True), (True, True), (False, False)])
def test_in_folders(tmp_path, stabilised, packs):
    model, merged = native(tmp_path / "theirs", config={"use_rslora": stabilised}, packs=packs)
    for task, reference in {None: model, "retrieval.query": merged["retrieval_query"], **merged}.items():
        convert(tmp_path / "theirs", tmp_path / f"ours {task}", adapter=task)
        compare(reference, tmp_path / f"ours {task}", 0.8)


def test_the_factors_may_be_half_precision(tmp_path):
    """Published factors have half precision, and are merged in float32 all the same."""
    model, files, merged = published()
    JINA_V3.save(tmp_path / "theirs", {name: weight.bfloat16() for name, weight in files.items()}, lora_alpha=ALPHA)
    convert(tmp_path / "theirs", tmp_path / "ours", adapter="separation")
    rounded = {name: weight.bfloat16().float() for name, weight in files.items()}
    expected = {}
    for name, weight in merged["separation"].items():
        module = name.removesuffix(".weight")
        if weight.ndim != 2:
            expected[name] = rounded[name]
            continue
        a, b = (rounded[f"{module}.parametrizations.weight.0.lora_{letter}"][2] for letter in "AB")
        product = a @ b if module.endswith("_embeddings") else b @ a
        expected[name] = rounded[f"{module}.parametrizations.weight.original"] + ALPHA / RANK * product
    reference = with_weights(model, expected)
    state = reference.state_dict()
    with torch.no_grad():
        for weight in state.values():
            if weight.ndim == 1:
                weight.copy_(weight.bfloat16().float())
    compare(reference, tmp_path / "ours", 1.0)


def test_an_unknown_task_lists_the_tasks(beside, tmp_path):
    with pytest.raises(
        ConversionError, match=r"adapter 'nothing'; its adapters are retrieval.query, retrieval.passage"
    ):
        convert(beside[0], tmp_path / "ours", adapter="nothing")
    native(tmp_path / "theirs")
    with pytest.raises(ConversionError, match=r"adapter 'nothing'; its adapters are retrieval_query, separation$"):
        convert(tmp_path / "theirs", tmp_path / "ours", adapter="nothing")
    with pytest.raises(ConversionError, match="has no task adapters"):
        convert(write_bert(tmp_path / "bert"), tmp_path / "ours", adapter="separation")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["pooler"]),
        ("peft_type", "LOHA"),
        ("init_lora_weights", "pissa"),
        ("rank_pattern", {"fc1": 8}),
        ("fan_in_fan_out", True),
        ("something_new", 1),
        ("lora_alpha", None),
        ("r", 0),
        ("use_rslora", 1),
    ],
)
def test_what_is_not_known_of_an_adapter_is_refused_by_name(tmp_path, field, value):
    native(tmp_path / "theirs", config={"use_rslora": False})
    for folder in ("retrieval_query", "separation"):
        write_json(tmp_path / "theirs" / folder / "adapter_config.json", {**PEFT_CONFIG, field: value})
    with pytest.raises(ConversionError, match=field):
        convert(tmp_path / "theirs", tmp_path / "ours", adapter="separation")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base_model.model.layers.0.mlp.fc2.lora_A.weight": np.ones((4, 50), "f4")}, r"fc2.lora_B.weight' is missing"),
        ({"base_model.model.layers.0.mlp.fc2.weight": np.ones((4, 50), "f4")}, "no part of a LoRA adapter"),
        (
            {f"base_model.model.layers.7.mlp.fc2.lora_{x}.weight": np.ones((4, 4), "f4") for x in "AB"},
            "layers.7.mlp.fc2.weight', which",
        ),
        ({f"base_model.model.layers.0.mlp.fc2.lora_{x}.weight": np.ones((4, 4), "f4") for x in "AB"}, "do not make up"),
        (
            {f"base_model.model.layers.0.mlp.fc2.lora_{x}.weight": np.ones((4, 4), "i4") for x in "AB"},
            "int32, not floating",
        ),
    ],
)
def test_a_damaged_adapter_is_refused(tmp_path, more, message):
    native(tmp_path / "theirs", **{name: torch.tensor(value) for name, value in more.items()})
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "theirs", tmp_path / "ours", adapter="separation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("roberta.emb.parametrizations.weight.0.lora_B"), r"lora_B' is missing"),
        (lambda files: files.pop("roberta.emb.parametrizations.weight.original"), r"original' is missing"),
        (
            lambda files: files.update({"roberta.emb.parametrizations.weight.1.lora_A": torch.ones(5, 4, 36)}),
            "parametrisation",
        ),
        (lambda files: files.update({"roberta.emb.weight": torch.ones(101, 36)}), "are the same weight"),
        (
            lambda files: files.update({"roberta.emb.parametrizations.weight.0.lora_A": torch.ones(3, 101, 4)}),
            "for 5 tasks",
        ),
        (
            lambda files: files.update({"roberta.emb.parametrizations.weight.0.lora_A": torch.ones(5, 4, 36)}),
            "do not make up",
        ),
    ],
)
def test_damaged_parametrisations_are_refused(tmp_path, change, message):
    short = "roberta.embeddings.word_embeddings"
    files = {name.replace(short, "roberta.emb"): weight for name, weight in published()[1].items()}
    change(files)
    files = {name.replace("roberta.emb.", f"{short}."): weight for name, weight in files.items()}
    JINA_V3.save(tmp_path / "theirs", files)
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "theirs", tmp_path / "ours", adapter="separation")


def test_from_the_library_and_with_the_authors_own_module(beside, tmp_path):
    """`tsjax.load` merges, caches each task separately, and accepts the published module class."""
    source = tmp_path / "theirs"
    source.mkdir()
    for file in beside[0].iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    modules = [
        {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer"},
        {"idx": 1, "name": "pooler", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "normalizer", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    write_json(source / "modules.json", modules)
    write_json(source / "1_Pooling" / "config.json", {"word_embedding_dimension": 36, "pooling_mode_mean_tokens": True})
    vectors = [tsjax.load(source, adapter=task).encode("the a of and") for task in (None, "separation", TASKS[0], None)]
    assert np.array_equal(vectors[0], vectors[3])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-2
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-2


def test_the_authors_own_module_is_for_their_models_only(tmp_path):
    write_bert(tmp_path / "theirs")
    modules = [("custom_st.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")]
    write_json(
        tmp_path / "theirs" / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)],
    )
    with pytest.raises(ConversionError, match="custom_st.Transformer' is foreign code"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_packing_by_hand_is_what_the_file_has():
    """The reference above unpacks packed weights; this test packs them again."""
    weights = {f"x.{part}.weight": factors(i, 2, 3) for i, part in enumerate("qkv")}
    assert torch.equal(packed(weights, "all", tuple("qkv"))["x.all.weight"], torch.cat([*weights.values()]))
    assert JINA_V3_CONFIG["lora_adaptations"] == TASKS
