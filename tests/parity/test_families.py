"""Every family against its class in transformers: hidden states, vectors, temperatures, half precision, fields."""

import contextlib
import functools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion.convert import convert
from conversion.families import FAMILIES, family_of
from conversion.families.family import HARMLESS
from conversion.fields import Fields
from tests.support.checkpoints import write_json
from tests.support.families import CASES, Case
from tests.support.hidden_states import LENGTHS, TEMPERATURES, ids, mean_vectors, ours
from tests.support.lazy import lazy
from tests.support.tiers import fast_where
from tsjax.errors import ConversionError

hidden_states, load_original = lazy("conversion.originals", "hidden_states", "load_original")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return by family: the directory that transformers wrote, and the one that was converted from it."""

    @functools.cache
    def make(name):
        path = tmp_path_factory.mktemp("family")
        CASES[name].save(path / "theirs")
        convert(path / "theirs", path / "ours")
        return path / "theirs", path / "ours"

    return make


@pytest.mark.parametrize("tau", fast_where(lambda tau: tau not in (1, 0.5), TEMPERATURES))
@pytest.mark.parametrize("name", CASES)
def test_hidden_states_and_vectors(saved, name, tau):
    theirs, converted = saved(name)
    expected, mask = hidden_states(load_original(theirs), ids(1), LENGTHS, tau)
    states = ours(converted, ids(1), tau)
    scale = np.abs(expected[mask]).max()
    np.testing.assert_allclose(states[mask] / scale, expected[mask] / scale, rtol=0, atol=2e-6)
    np.testing.assert_allclose(mean_vectors(states, mask), mean_vectors(expected, mask), rtol=0, atol=1e-6)
    if tau != 1:
        assert np.abs(states - ours(converted, ids(1), 1.0))[mask].max() > 0.01 * scale, "τ changes nothing here"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_half_precision(saved, name, dtype):
    _, converted = saved(name)
    mask = np.arange(LENGTHS.max()) < LENGTHS[:, None]
    full, half = (mean_vectors(ours(converted, ids(2), 0.8, kind), mask) for kind in ("float32", dtype))
    assert (full * half).sum(-1).min() >= 0.999


@pytest.mark.parametrize("name", CASES)
def test_every_field_of_the_config_class_is_accounted_for(name):
    """The test fails when a new release of transformers adds a field that is not handled."""
    case = CASES[name]
    config = case.config(**case.sizes).to_dict()
    family = family_of(config, "config.json")
    family.translate(Fields(config, "config.json"))
    assert set(family.fields) <= set(config)


@pytest.mark.parametrize("name", CASES)
def test_what_is_used_is_used(name):
    """Another value of a translated field gives another architecture, or an error."""
    case = CASES[name]
    config = case.config(**case.sizes).to_dict()
    family = family_of(config, "config.json")
    plain = family.translate(Fields(config, "config.json"))
    for field in family.fields:
        other = {"hidden_act": "relu", "hidden_activation": "relu", "activation": "relu"}.get(
            field, another(config[field])
        )
        try:
            changed = family.translate(Fields({**config, field: other}, "config.json"))
        except ConversionError:
            continue
        assert changed != plain, field


def test_a_causal_gemma_is_refused(tmp_path):
    """The field may say so or be missing: transformers then takes the model for a language model."""
    CASES["EmbeddingGemma"].save(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    for value in (False, None):
        write_json(tmp_path / "theirs" / "config.json", {**config, "use_bidirectional_attention": value})
        with pytest.raises(ConversionError, match="language model, not an encoder"):
            convert(tmp_path / "theirs", tmp_path / "ours")


def test_a_published_gemma_is_read(tmp_path):
    """The version that published it names the second base separately."""
    CASES["EmbeddingGemma"].save(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    del config["rope_parameters"]
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None, "_sliding_window_pattern": 6}
    family = family_of(config, "config.json")
    encoder = family.translate(Fields({**config, **old}, "config.json"))
    assert (encoder.rope_theta, encoder.local_rope_theta) == (1e6, 1e4)


def test_two_tables_of_t5_that_differ_are_refused(tmp_path):
    CASES["T5"].save(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}, file)
    convert(tmp_path / "theirs", tmp_path / "ours")
    save_file({**weights, "encoder.embed_tokens.weight": weights["shared.weight"] + 1}, file)
    with pytest.raises(ConversionError, match="should be the same weight, but differ"):
        convert(tmp_path / "theirs", tmp_path / "again")


@pytest.mark.parametrize("pad", [0, 5, None])
def test_mpnet_counts_from_1_whatever_the_padding(tmp_path, pad):
    case = CASES["MPNet"]
    Case(case.config_name, case.model_name, {**case.sizes, "pad_token_id": pad}).save(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    expected, mask = hidden_states(load_original(tmp_path / "theirs"), ids(1), LENGTHS)
    states = ours(tmp_path / "ours", ids(1), 1.0)
    np.testing.assert_allclose(states[mask], expected[mask], rtol=0, atol=2e-6 * np.abs(expected[mask]).max())


@pytest.mark.parametrize("name", CASES)
def test_absurd_values_are_an_error_with_a_sentence(name):
    case = CASES[name]
    config = case.config(**case.sizes).to_dict()
    family = family_of(config, "config.json")
    for field in config:
        for value in (0, -1, 10**9, 10**400, 0.5, float("nan"), "x", [], [["x"]], {"full_attention": "x"}, True):
            with contextlib.suppress(ConversionError):
                family.translate(Fields({**config, field: value}, "config.json"))


@pytest.mark.parametrize("name", CASES)
def test_a_field_that_is_called_harmless_changes_nothing_in_transformers(name):
    case = CASES[name]
    model = case.make()
    model.set_attn_implementation("eager")
    expected, mask = hidden_states(model, ids(1), LENGTHS)
    config = case.config(**case.sizes).to_dict()
    changed = []
    for field in sorted({*HARMLESS, *family_of(config, "config.json").harmless} & set(config)):
        other = another(config[field])
        if other is None or field in MEANT:
            continue
        try:
            again = case.model(case.config(**{**case.sizes, field: other})).eval()
        except Exception:  # transformers' own check of the value
            continue
        again.load_state_dict(model.state_dict())
        again.set_attn_implementation("eager")
        states, _ = hidden_states(again, ids(1), LENGTHS)
        np.testing.assert_array_equal(states[mask], expected[mask], err_msg=field)
        changed.append(field)
    assert len(changed) >= 5


# Fields that are looked up and not computed with: ways to run, and fields that the converter reads in another place.
MEANT = {"attn_implementation", "dtype", "output_hidden_states", "output_attentions", "return_dict"}


def another(value):
    """Return another value of the same kind, or None if the kind has no obvious one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return min(1.0, value + 0.25) if isinstance(value, float) else None


@pytest.mark.parametrize("name", CASES)
def test_an_absent_field_has_the_value_that_transformers_gives_it(name):
    case = CASES[name]
    whole, sizes = case.config(**case.sizes).to_dict(), {"model_type": case.config.model_type, **case.sizes}
    family = family_of(whole, "config.json")
    assert family.translate(Fields(sizes, "config.json")) == family.translate(Fields(whole, "config.json"))


def test_every_family_has_a_case():
    assert {family.model_type for family in FAMILIES if family.exportable} == {
        case.config.model_type for case in CASES.values()
    }
