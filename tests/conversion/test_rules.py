import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion.convert import axes
from conversion.families import FAMILIES
from conversion.families.bert import BERT
from conversion.fields import Fields
from conversion.rules import Names, Rule, apply, expand, invert, match, shape_before, swapped
from tests.support.checkpoints import BERT_CONFIG, bert_weights
from tests.support.family_configs import configs
from tsjax.errors import ConversionError
from tsjax.model.config import ModelConfig
from tsjax.model.forward import weight_shapes


def encoder(**changes):
    return BERT.translate(Fields({**BERT_CONFIG, **changes}, "config.json"))


def shapes_of(config):
    prefix = "encoder."
    return {name.removeprefix(prefix): shape for name, shape in weight_shapes(ModelConfig(encoder=config)).items()}


def convert(weights, config, spelling=BERT.spellings[0]):
    rows = match(weights, expand(spelling.rules(config), config.num_layers), spelling.names, "file")
    return apply(rows, weights.__getitem__, shapes_of(config), axes(config), "file")


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_there_and_back_is_exact_in_every_family_and_spelling(family, data):
    config = family.translate(Fields(data.draw(configs(family)), "config.json"))
    spelling = data.draw(st.sampled_from(family.spellings))
    shapes = shapes_of(config)
    table = expand(spelling.rules(config), config.num_layers)
    assert {row.ours for rows in table.values() for row in rows} == set(shapes)
    rng = np.random.default_rng(0)
    ours = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    theirs = invert(spelling.rules(config), config.num_layers, ours, axes(config))
    assert family.spelling(theirs) == spelling
    again = convert(theirs, config, spelling)
    back = invert(spelling.rules(config), config.num_layers, again, axes(config))
    assert set(back) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    for name, value in ours.items():
        unread = not config.first_norm and name.startswith("layers.attention_norm.")
        np.testing.assert_array_equal(again[name][unread:], value[unread:], err_msg=name)


@settings(deadline=None, max_examples=300)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_a_config_there_and_back(family, data):
    config = family.translate(Fields(data.draw(configs(family)), "config.json"))
    if family.exportable or family.spellings[0].marker:
        assert family.translate(Fields(family.config(config), "config.json")) == config


def test_the_layout_of_each_kind_of_weight():
    config = encoder()
    theirs = bert_weights(BERT_CONFIG)
    ours = convert(theirs, config)
    query = theirs["encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(ours["layers.attention.query.kernel"][1, :, 2, 5], query[2 * 12 + 5])
    out = theirs["encoder.layer.2.attention.output.dense.weight"]
    np.testing.assert_array_equal(ours["layers.attention.out.kernel"][2, 1, 3], out[:, 1 * 12 + 3])
    np.testing.assert_array_equal(
        ours["layers.feed_forward.up.kernel"][0], theirs["encoder.layer.0.intermediate.dense.weight"].T
    )


def test_prefixes_old_names_and_unused_heads():
    config = encoder()
    theirs = bert_weights(BERT_CONFIG)
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in theirs.items()
    }
    unused = dict.fromkeys(
        (
            "cls.predictions.bias",
            "bert.pooler.dense.weight",
            "bert.embeddings.position_ids",
            "cls.seq_relationship.weight",
        ),
        np.zeros(1, np.float32),
    )
    for name, value in convert(theirs, config).items():
        np.testing.assert_array_equal(convert(old | unused, config)[name], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("embeddings.LayerNorm.bias"), r"'embeddings.LayerNorm.bias' is missing \(1 in all\)"),
        (lambda w: w.update({"classifier.weight": np.zeros((2, 36), "f4")}), "no rule for weight 'classifier.weight'"),
        (
            lambda w: w.update({"encoder.layer.3.output.dense.bias": np.zeros(36, "f4")}),
            "no rule for weight 'encoder.layer.3",
        ),
        (lambda w: w.update({"bert.embeddings.LayerNorm.bias": np.zeros(36, "f4")}), "are the same weight"),
        (
            lambda w: w.update({"embeddings.LayerNorm.bias": np.zeros(35, "f4")}),
            r"shape \(35,\); the config asks for \(36,\)",
        ),
        (lambda w: w["embeddings.LayerNorm.bias"].__setitem__(3, np.nan), "holds NaN or infinity"),
        (lambda w: w["embeddings.LayerNorm.bias"].__setitem__(3, np.inf), "holds NaN or infinity"),
        (lambda w: w.update({"embeddings.LayerNorm.bias": np.zeros(36, "i4")}), "dtype int32, not floating point"),
        (
            lambda w: w.update({"encoder.layer.0.attention.self.key.weight": np.zeros((36, 12), "f4")}),
            r"shape \(36, 12\); the config asks for \(36, 36\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    weights = {name: value.copy() for name, value in bert_weights(BERT_CONFIG).items()}
    change(weights)
    with pytest.raises(ConversionError, match=message):
        convert(weights, encoder())


def test_half_precision_weights_become_float32():
    theirs = {name: value.astype(np.float16) for name, value in bert_weights(BERT_CONFIG).items()}
    ours = convert(theirs, encoder())
    np.testing.assert_array_equal(ours["embeddings.norm.bias"], theirs["embeddings.LayerNorm.bias"].astype("f4"))
    assert {value.dtype for value in ours.values()} == {np.dtype(np.float32)}


def test_a_mistake_in_a_family_file_is_found():
    with pytest.raises(AssertionError):
        expand([Rule("a", "x"), Rule("a", "y")], 1)
    with pytest.raises(AssertionError):
        expand([Rule("a", "x"), Rule("b", "x")], 1)
    with pytest.raises(ConversionError, match="do not agree"):
        apply(match(["a"], expand([Rule("a", "x")], 1), Names(), "f"), dict, {"y": (1,)}, {}, "f")


def test_the_shape_before_a_layout():
    assert shape_before("(n h) d -> d n h", (36, 3, 12)) == (36, 36)
    assert shape_before("d (n h) -> n h d", (3, 12, 37)) == (37, 36)
    assert shape_before("", (5,)) == (5,)


def test_a_layout_is_swapped_for_the_way_back():
    assert swapped("(n h) d -> d n h") == "d n h -> (n h) d"
    assert swapped("") == ""
