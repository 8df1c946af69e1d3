import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion.convert import convert
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_json, write_sentence_transformers
from tsjax.checkpoints.format import read_header, read_weights
from tsjax.errors import ConversionError, MissingExtraError, OutputError
from tsjax.model.config import HeadConfig
from tsjax.model.forward import weight_shapes
from tsjax.temperature import Temperature


@pytest.fixture
def source(tmp_path):
    return write_bert(tmp_path / "source")


def change_json(file, **changes):
    write_json(file, {**json.loads(file.read_text()), **changes})


def weights_of(path):
    header = read_header(path)
    return read_weights(header, weight_shapes(header.metadata.model))


def assert_same_weights(a, b):
    first, second = weights_of(a), weights_of(b)
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("changes", [{"hidden_size": "x"}, {"hidden_size": None}, {"hidden_act": "x"}, {"a": "x" * 9}])
def test_an_error_names_its_file_once(source, tmp_path, changes):
    change_json(source / "config.json", **changes)
    with pytest.raises(ConversionError) as error:
        convert(source, tmp_path / "out")
    assert str(error.value).count("config.json") == 1


def test_a_file_that_cannot_be_read_is_named_once(source, tmp_path):
    (source / "config.json").unlink()
    (source / "config.json").mkdir()
    with pytest.raises(ConversionError) as error:
        convert(source, tmp_path / "out")
    assert str(error.value).count("config.json") == 1


def test_a_bare_encoder_gets_mean_pooling(source, tmp_path):
    metadata = convert(source, tmp_path / "out").metadata
    assert metadata.model.pooling.modes == ("mean",)
    assert metadata.model.heads == ()
    assert metadata.max_seq_length == 41
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize("new_names", [False, True])
def test_both_generations_of_sentence_transformers(tmp_path, new_names):
    dense = {
        "in_features": 36,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "weights": {"linear.weight": np.ones((5, 36), "f4"), "linear.bias": np.arange(5, dtype="f4")},
    }
    norm = {"dimension": 5, "weights": {"norm.weight": np.ones(5, "f4"), "norm.bias": np.zeros(5, "f4")}}
    options = {
        "__version__": {"sentence_transformers": "5.4.0"},
        "prompts": {"query": "query: "},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
        "truncate_dim": 4,
    }
    heads = [("Dense", dense), ("LayerNorm", norm), ("Normalize", {})]
    source = write_sentence_transformers(tmp_path / "st", new_names=new_names, heads=heads, options=options)
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    metadata = convert(source, tmp_path / "out").metadata
    assert metadata.model.pooling.modes == ("mean",)
    assert metadata.model.heads == (
        HeadConfig(kind="dense", in_features=36, out_features=5, activation="tanh"),
        HeadConfig(kind="layer_norm", in_features=5, out_features=5),
        HeadConfig(kind="normalize", in_features=5, out_features=5),
    )
    assert metadata.prompts == {"query": "query: "}
    assert metadata.default_prompt_name == "query"
    assert metadata.similarity_fn_name == "dot"
    assert metadata.truncate_dim == 4
    assert metadata.max_seq_length == 20
    np.testing.assert_array_equal(weights_of(tmp_path / "out")["heads.0.linear.bias"], np.arange(5))


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"word_embedding_dimension": 36, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"word_embedding_dimension": 36, "pooling_mode_lasttoken": True}, ("lasttoken",)),
        (
            {"word_embedding_dimension": 36, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            ("max", "mean"),
        ),
        ({"word_embedding_dimension": 36, "pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
        ({"word_embedding_dimension": 36, "pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"word_embedding_dimension": 36}, ("mean",)),
        ({"embedding_dimension": 36, "pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"embedding_dimension": 36, "pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ],
)
def test_pooling_configs(tmp_path, pooling, modes):
    source = write_sentence_transformers(tmp_path / "st", pooling=pooling)
    assert convert(source, tmp_path / "out").metadata.model.pooling.modes == modes


def test_transformer_in_a_folder_of_its_own(tmp_path):
    source = write_sentence_transformers(tmp_path / "st")
    (source / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(source / "0_Transformer" / name)
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(source / "modules.json", modules)
    convert(source, tmp_path / "out")
    write_bert(tmp_path / "flat")
    convert(tmp_path / "flat", tmp_path / "out2")
    assert_same_weights(tmp_path / "out", tmp_path / "out2")


@pytest.mark.parametrize(
    ("said", "tokenizer", "expected"),
    [(20, 30, 20), (None, 30, 30), (None, 10**30, 41), (None, None, 41), (100, 30, 41), (None, 512, 41)],
)
def test_where_texts_are_cut(tmp_path, said, tokenizer, expected):
    source = write_sentence_transformers(tmp_path / "st")
    write_json(source / "sentence_bert_config.json", {} if said is None else {"max_seq_length": said})
    change_json(source / "tokenizer_config.json", model_max_length=tokenizer)
    assert convert(source, tmp_path / "out").metadata.max_seq_length == expected


def test_sharded_safetensors(source, tmp_path):
    convert(source, tmp_path / "whole")
    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    shard_of = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shard_of.values()):
        save_file({name: weights[name] for name in names if shard_of[name] == shard}, source / shard)
    (source / "model.safetensors").unlink()
    write_json(source / "model.safetensors.index.json", {"metadata": {}, "weight_map": shard_of})
    convert(source, tmp_path / "sharded")
    assert_same_weights(tmp_path / "whole", tmp_path / "sharded")

    stray = dict(shard_of)
    del stray[names[0]]
    write_json(source / "model.safetensors.index.json", {"weight_map": stray})
    with pytest.raises(ConversionError, match="not in model.safetensors.index.json"):
        convert(source, tmp_path / "no")
    write_json(
        source / "model.safetensors.index.json", {"weight_map": {**shard_of, names[0]: "../elsewhere.safetensors"}}
    )
    with pytest.raises(ConversionError, match="leads out of the checkpoint"):
        convert(source, tmp_path / "no")
    write_json(source / "model.safetensors.index.json", {"weight_map": {**shard_of, names[0]: "missing.safetensors"}})
    with pytest.raises(ConversionError, match=r"missing.safetensors is missing|not in model"):
        convert(source, tmp_path / "no")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files(source, tmp_path, dtype):
    weights = {name: value.astype(dtype) for name, value in bert_weights(BERT_CONFIG).items()}
    save_file(weights, source / "model.safetensors")
    convert(source, tmp_path / "out")
    found = weights_of(tmp_path / "out")["encoder.embeddings.token.embedding"]
    np.testing.assert_array_equal(found, weights["embeddings.word_embeddings.weight"].astype("f4"))


def test_the_temperature_is_saved_and_changes_the_fingerprint(source, tmp_path):
    plain = convert(source, tmp_path / "plain")
    warm = convert(source, tmp_path / "warm", temperature=Temperature(0.9))
    assert read_header(tmp_path / "warm").metadata.temperature == Temperature(0.9)
    assert plain.fingerprint != warm.fingerprint


def test_the_fingerprint_does_not_depend_on_where_a_model_lies(source, tmp_path):
    shutil.copytree(source, tmp_path / "copy")
    assert convert(source, tmp_path / "a").fingerprint == convert(tmp_path / "copy", tmp_path / "b").fingerprint


def test_nothing_is_overwritten_unasked(source, tmp_path):
    convert(source, tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        convert(source, tmp_path / "out")
    again = convert(source, tmp_path / "out", temperature=Temperature(0.5), overwrite=True)
    assert read_header(tmp_path / "out").fingerprint == again.fingerprint
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a tsjax checkpoint"):
        convert(source, tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "precious"}


def test_overwriting_loses_nothing_but_a_checkpoint(tmp_path):
    source, out = write_bert(tmp_path / "source"), tmp_path / "out"
    convert(source, out)
    (out / "notes").mkdir()
    (out / "notes" / "a.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"out holds notes.a\.txt"):
        convert(source, out, overwrite=True)
    (out / "notes" / "a.txt").rename(out / "a.txt")
    with pytest.raises(OutputError, match=r"out holds a\.txt"):
        convert(source, out, overwrite=True)
    (out / "a.txt").unlink()
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(OutputError, match="symbolic link"):
        convert(source, tmp_path / "link", overwrite=True)
    convert(source, out, overwrite=True)


def test_a_failed_conversion_leaves_nothing(source, tmp_path):
    weights = bert_weights(BERT_CONFIG)
    weights["encoder.layer.2.output.LayerNorm.bias"][0] = np.nan
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ConversionError, match="NaN"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_lower_casing_before_the_tokenizer(tmp_path):
    source = write_sentence_transformers(tmp_path / "st")
    change_json(source / "tokenizer_config.json", do_lower_case=False)
    convert(source, tmp_path / "cased")
    write_json(source / "sentence_bert_config.json", {"do_lower_case": True})
    convert(source, tmp_path / "uncased")

    def normalizer(path):
        return json.loads((path / "tokenizer.json").read_text())["normalizer"]

    assert normalizer(tmp_path / "cased")["lowercase"] is False
    assert [step["type"] for step in normalizer(tmp_path / "uncased")["normalizers"]] == ["Lowercase", "BertNormalizer"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "model.safetensors").unlink(), "holds no weights"),
        (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-100]), "damaged"),
        (lambda p: (p / "model.safetensors").write_bytes(b""), "damaged"),
        (lambda p: (p / "config.json").unlink(), "config.json is missing"),
        (lambda p: (p / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda p: (p / "config.json").write_text("[]"), "does not hold a JSON object"),
        (
            lambda p: change_json(p / "config.json", model_type="mamba"),
            "architecture 'mamba' is not supported; tsjax converts BERT",
        ),
        (lambda p: change_json(p / "config.json", model_type=None), "architecture None"),
        (lambda p: change_json(p / "config.json", flux_capacitor=1.21), "unknown field 'flux_capacitor' = 1.21"),
        (lambda p: change_json(p / "config.json", auto_map={"AutoModel": "x.M"}), "auto_map = .* is not supported"),
        (lambda p: change_json(p / "config.json", is_decoder=True), "is_decoder = True is not supported"),
        (lambda p: change_json(p / "config.json", position_embedding_type="relative_key"), "position_embedding_type"),
        (lambda p: change_json(p / "config.json", hidden_act="swiglu"), "activation 'swiglu'"),
        (lambda p: change_json(p / "config.json", hidden_size="36"), "'hidden_size' is '36'"),
        (lambda p: change_json(p / "config.json", num_hidden_layers=None), "'num_hidden_layers' is missing"),
        (lambda p: change_json(p / "config.json", num_hidden_layers=2), r"no rule for weight 'encoder.layer.2"),
        (lambda p: change_json(p / "config.json", num_hidden_layers=4), r"'encoder.layer.3.* is missing"),
        (
            lambda p: change_json(p / "config.json", num_attention_heads=7),
            r"config.json: hidden_size 36 is not a multiple",
        ),
        (lambda p: change_json(p / "config.json", num_hidden_layers=0), "not a number of at least 1"),
        (lambda p: change_json(p / "config.json", vocab_size=50), "the tokenizer gives ids up to"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda p: (p / "tokenizer.json").write_text("nothing"), "tokenizer.json cannot be read"),
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.safetensors"), "holds no weights"),
    ],
)
def test_a_spoilt_encoder_is_explained(source, tmp_path, spoil, message):
    spoil(source)
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fields_that_published_checkpoints_carry(source, tmp_path):
    odd = {
        "emb_size": 36,
        "cell": {},
        "name": "Bert",
        "eos_token_ids": None,
        "flux_capacitor": None,
        "chunk_size_feed_forward": 2,
    }
    plain = convert(source, tmp_path / "plain")
    change_json(source / "config.json", **odd)
    assert convert(source, tmp_path / "out").fingerprint == plain.fingerprint


def test_an_unknown_field_can_be_waved_through_by_name(source, tmp_path):
    plain = convert(source, tmp_path / "plain")
    change_json(source / "config.json", flux_capacitor=1.21)
    out = convert(source, tmp_path / "out", ignore_config_fields=["flux_capacitor"])
    assert out.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m[0].update(type="evil.module.Transformer"), "'evil.module.Transformer' is foreign code"),
        (lambda m: m[1].update(type="sentence_transformers_evil.models.Pooling"), "foreign code"),
        (lambda m: m[2].update(type="sentence_transformers.models.LSTM"), "LSTM' is not supported"),
        (lambda m: m[1].update(path="../1_Pooling"), "leads out of the checkpoint"),
        (lambda m: m[1].update(path="/etc"), "leads out of the checkpoint"),
        (lambda m: m[1].update(path="..\\1_Pooling"), "leads out of the checkpoint"),
        (lambda m: m.pop(1), "expected a Transformer and then a Pooling module"),
        (lambda m: m.append(m[1]), "Pooling cannot stand after the pooling"),
        (lambda m: m.clear(), "expected a Transformer"),
        (lambda m: m.append("Dense"), "is not a list of modules"),
    ],
)
def test_spoilt_modules_are_explained(tmp_path, spoil, message):
    source = write_sentence_transformers(tmp_path / "st", heads=[("Normalize", {})])
    modules = json.loads((source / "modules.json").read_text())
    spoil(modules)
    write_json(source / "modules.json", modules)
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "1_Pooling/config.json",
            {"embedding_dimension": 36, "pooling_mode": "median"},
            "unknown pooling mode 'median'",
        ),
        ("1_Pooling/config.json", {"embedding_dimension": 35, "pooling_mode": "mean"}, "the encoder gives 36"),
        (
            "1_Pooling/config.json",
            {"embedding_dimension": 36, "pooling_mode_new": True},
            "unknown field 'pooling_mode_new'",
        ),
        (
            "1_Pooling/config.json",
            {"embedding_dimension": 36, "pooling_mode_mean_tokens": "yes"},
            "not what belongs there",
        ),
        ("1_Pooling/config.json", {"embedding_dimension": 36, "pooling_mode": 5}, "not what belongs there"),
        ("1_Pooling/config.json", {"embedding_dimension": 36, "pooling_mode": []}, "names no mode"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "not what belongs there"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "not a number of at least 1"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "at least 3 tokens"),
        ("config_sentence_transformers.json", {"truncate_dim": 37}, "truncate_dim is 37, of 36 dimensions"),
        ("sentence_bert_config.json", {"model_args": {"x": 1}}, "model_args"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompt 'query' is not text"),
        ("config_sentence_transformers.json", {"default_prompt_name": "sts"}, "'sts' is not among the prompts"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "similarity 'maxsim' is unknown"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type = 'SparseEncoder'"),
    ],
)
def test_spoilt_module_configs_are_explained(tmp_path, file, content, message):
    source = write_sentence_transformers(tmp_path / "st")
    write_json(source / file, content)
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "my.code.Swish"}, "activation 'my.code.Swish' is not supported"),
        (
            {"activation_function": "torch.nn.modules.activation.PReLU"},
            "PReLU' is not supported; of torch.nn, known: CELU",
        ),
        ({"activation_function": "torch.nn_evil.Tanh"}, "'torch.nn_evil.Tanh' is not supported"),
        ({"in_features": 35}, "takes 35 features but the step before gives 36"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
        ({"weights": {"linear.weight": np.ones((5, 36), "f4")}}, "'linear.bias' is missing"),
        ({"bias": False}, "no rule for weight 'linear.bias'"),
    ],
)
def test_a_spoilt_dense_is_explained(tmp_path, change, message):
    dense = {
        "in_features": 36,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "weights": {"linear.weight": np.ones((5, 36), "f4"), "linear.bias": np.zeros(5, "f4")},
        **change,
    }
    source = write_sentence_transformers(tmp_path / "st", heads=[("Dense", dense)])
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "out")


def test_bin_files_without_torch_name_the_extra(source, tmp_path, monkeypatch):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[torch\]'"):
        convert(source, tmp_path / "out")


def test_an_instructor_leaves_its_prompt_out_of_the_pooling(tmp_path):
    """The files do not say so; sentence-transformers recognises the model by its name."""
    source = write_sentence_transformers(tmp_path / "st")
    for number, (name, included) in enumerate(
        {"hkunlp/instructor-large": False, "other/instructor-large": True}.items()
    ):
        header = convert(source, tmp_path / str(number), name=name)
        assert header.metadata.model.pooling.include_prompt is included


def test_null_prompts_are_empty(tmp_path):
    source = write_sentence_transformers(
        tmp_path / "st", options={"prompts": {"query": None, "topic": None}, "default_prompt_name": "topic"}
    )
    metadata = convert(source, tmp_path / "out").metadata
    assert metadata.prompts == {"query": "", "topic": ""}
    assert metadata.default_prompt_name == "topic"
    write_json(source / "config_sentence_transformers.json", {"prompts": None, "default_prompt_name": "document"})
    metadata = convert(source, tmp_path / "again").metadata
    assert (metadata.prompts, metadata.default_prompt_name) == ({}, "document")


def test_segments_that_the_encoder_has_not(tmp_path):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    for rows in (2, 3):
        source = write_bert(tmp_path / f"source{rows}", type_vocab_size=rows)
        content = json.loads((source / "tokenizer.json").read_text())
        content["post_processor"]["single"][1]["Sequence"]["type_id"] = 2
        write_json(source / "tokenizer.json", content)
        change_json(
            source / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", model_input_names=names
        )
    with pytest.raises(ConversionError, match="segment 2"):
        convert(tmp_path / "source2", tmp_path / "out")
    assert convert(tmp_path / "source3", tmp_path / "out").metadata.token_types


@pytest.mark.parametrize("names", [("sentence_bert_config.json", "sentence_roberta_config.json")])
def test_the_first_of_the_transformers_configs_that_says_anything(tmp_path, names):
    source = write_sentence_transformers(tmp_path / "source")
    write_json(source / names[0], {})
    write_json(source / names[1], {"max_seq_length": 11, "do_lower_case": False})
    assert convert(source, tmp_path / "first").metadata.max_seq_length == 11
    write_json(source / names[0], {"max_seq_length": 13, "do_lower_case": False})
    assert convert(source, tmp_path / "second").metadata.max_seq_length == 13


def test_two_widths_of_the_pooling_that_differ(tmp_path):
    pooling = {"embedding_dimension": 36, "word_embedding_dimension": 35, "pooling_mode": "mean"}
    source = write_sentence_transformers(tmp_path / "source", pooling=pooling)
    with pytest.raises(ConversionError, match="word_embedding_dimension"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("value", [[], "torch.nn.Tanh", 7])
def test_what_sentence_transformers_left_in_config_json_is_an_object(tmp_path, value):
    path = write_bert(tmp_path / "scorer", architectures=["BertForSequenceClassification"], sentence_transformers=value)
    with pytest.raises(ConversionError):
        convert(path, tmp_path / "out")
