"""Fields of config.json that state one thing twice: tsjax follows transformers, or refuses the contradiction."""

import pytest

from conversion.families import family_of
from conversion.fields import Fields
from tsjax.errors import ConversionError

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 30,
    "max_position_embeddings": 40,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "pad_token_id": 0,
}
FLAT = {name: value for name, value in SIZES.items() if name not in ("num_key_value_heads", "head_dim")}
T5 = {"vocab_size": 50, "d_model": 24, "d_kv": 6, "d_ff": 30, "num_layers": 2, "num_heads": 4}
DISTILBERT = {"vocab_size": 50, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 30}
ROTARY = {
    "qwen3": SIZES,
    "eurobert": {**SIZES, "mask_token_id": 4},
    "nomic_bert": FLAT,
    "gte": FLAT,
    "jina_embeddings_v3": FLAT,
}
GEMMA = {**SIZES, "use_bidirectional_attention": True, "query_pre_attn_scalar": 6}
LINEAR = {"rope_type": "linear", "factor": 3.0}
OTHER = {"rope_type": "linear", "rope_theta": 77.0, "factor": 5.0}


def translated(model_type, **config):
    config["model_type"] = model_type
    return family_of(config, "config.json").translate(Fields(config, "config.json"))


@pytest.mark.parametrize("model_type", ROTARY)
def test_rope_scaling_takes_the_place_of_rope_parameters(model_type):
    found = translated(model_type, **ROTARY[model_type], rope_scaling=LINEAR, rope_parameters=OTHER, rope_theta=88.0)
    assert (found.rope_theta, found.rope_factor) == (88.0, 3.0)


@pytest.mark.parametrize("model_type", ROTARY)
@pytest.mark.parametrize("empty", [{}, None])
def test_an_empty_one_does_not(model_type, empty):
    found = translated(model_type, **ROTARY[model_type], rope_scaling=empty, rope_parameters=OTHER, rope_theta=88.0)
    assert (found.rope_theta, found.rope_factor) == (77.0, 5.0)


def test_rope_type_wins_over_its_old_name():
    assert translated("qwen3", **SIZES, rope_scaling={"type": "linear", "rope_type": "default"}).rope_factor == 1
    assert translated("qwen3", **SIZES, rope_scaling={"type": "linear", "factor": 2}).rope_factor == 2


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": None}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": "linear"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
        {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
        {"partial_rotary_factor": 0.5},
    ],
)
@pytest.mark.parametrize("model_type", ROTARY)
def test_rotations_that_are_not_known_are_refused(model_type, rope):
    with pytest.raises(ConversionError):
        translated(model_type, **ROTARY[model_type], **rope)


def test_the_published_gte_reads_the_old_name():
    config = {**FLAT, "type_vocab_size": 0, "position_embedding_type": "rope"}
    assert translated("new", **config, rope_scaling={"type": "ntk", "factor": 2.0}).rope_theta == 20_000
    with pytest.raises(ConversionError, match="rope_scaling"):
        translated("new", **config, rope_scaling={"type": "ntk", "rope_type": "linear", "factor": 2.0})


@pytest.mark.parametrize(
    ("model_type", "config", "alias", "field", "value"),
    [
        ("distilbert", DISTILBERT, "num_attention_heads", "num_heads", 2),
        ("distilbert", DISTILBERT, "hidden_size", "hidden_size", 36),
        ("distilbert", DISTILBERT, "num_hidden_layers", "num_layers", 3),
        ("t5", T5, "num_attention_heads", "num_heads", 2),
        ("mt5", T5, "head_dim", "head_size", 8),
    ],
)
def test_the_general_name_of_a_size_wins(model_type, config, alias, field, value):
    assert getattr(translated(model_type, **config, **{alias: value}), field) == value


def test_the_windows_of_modernbert():
    assert translated("modernbert", **FLAT, local_attention=8).local_window == 4
    assert translated("modernbert", **FLAT, local_attention=8, sliding_window=3).local_window == 3
    kinds = ["full_attention", "sliding_attention"] * 2
    assert translated("modernbert", **FLAT, layer_types=kinds, global_attn_every_n_layers=4).local_layers == (1, 3)


@pytest.mark.parametrize("name", ["global_rope_theta", "local_rope_theta"])
def test_a_null_base_is_refused(name):
    with pytest.raises(ConversionError, match=name):
        translated("modernbert", **FLAT, **{name: None})


def test_the_windows_of_gemma():
    assert translated("gemma3_text", **GEMMA, _sliding_window_pattern=2).local_layers == (0, 1, 2, 3)
    assert translated("gemma3_text", **GEMMA, sliding_window_pattern=2).local_layers == (0, 2)
    assert translated("gemma3_text", **GEMMA).local_window == 2048
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 9.0}}
    found = translated("gemma3_text", **GEMMA, rope_parameters=nested, rope_theta=7.0, rope_local_base_freq=5.0)
    assert (found.rope_theta, found.local_rope_theta) == (9.0, 5.0)


def test_a_window_that_is_not_used():
    assert translated("qwen3", **SIZES, use_sliding_window=False, sliding_window=4).local_layers == ()
    with pytest.raises(ConversionError, match="use_sliding_window"):
        translated("qwen3", **SIZES, use_sliding_window=True, sliding_window=4)


def test_fields_that_repeat_t5s_projection():
    assert translated("t5", **T5, feed_forward_proj="gated-gelu", dense_act_fn="gelu_new").activation == "gelu_tanh"
    for contradiction in ({"dense_act_fn": "silu"}, {"is_gated_act": False}):
        with pytest.raises(ConversionError):
            translated("t5", **T5, feed_forward_proj="gated-gelu", **contradiction)
