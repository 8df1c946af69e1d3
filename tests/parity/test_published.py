"""The dialects of the published checkpoints against PyTorch: their config fields, names and packing."""

import functools

import numpy as np
import pytest

from conversion.convert import convert
from tests.support.hidden_states import LENGTHS, TEMPERATURES, compare, ids
from tests.support.lazy import lazy
from tests.support.published import (
    DIALECTS,
    GTE,
    JINA_V2_CONFIG,
    JINA_V3,
    NOMIC,
    jina_v2,
    save,
    save_jina_v2,
    save_native,
)
from tsjax.checkpoints.format import read_header
from tsjax.errors import ConversionError
from tsjax.model.positions import alibi_slopes

hidden_states = lazy("conversion.originals", "hidden_states")
torch = lazy("torch")

JINA_V2 = {
    "jina-embeddings-v2": {},
    "jina-embeddings-v2, 4 heads": {"num_attention_heads": 4},
    "jina-embeddings-v2, reglu": {"feed_forward_type": "reglu", "num_attention_heads": 6},
}


NATIVE = {"NomicBert": NOMIC, "GTE": DIALECTS["arctic-embed-m-v2.0"], "Jina v3": JINA_V3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return by name: the model in PyTorch, and the converted model from the published form of its weights."""

    @functools.cache
    def make(name):
        path = tmp_path_factory.mktemp("published")
        if name in JINA_V2:
            model = jina_v2(**JINA_V2[name])
            save_jina_v2(path / "theirs", model)
        elif name in NATIVE:
            model = NATIVE[name].model()
            save_native(path / "theirs", model)
        else:
            model = DIALECTS[name].model()
            DIALECTS[name].save(path / "theirs", DIALECTS[name].weights(model))
        convert(path / "theirs", path / "ours")
        return model, path / "ours"

    return make


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("name", [*DIALECTS, *JINA_V2, *NATIVE])
def test_hidden_states_and_vectors(saved, name, tau):
    compare(*saved(name), tau)


def test_nobody_is_asked_to_run_foreign_code(tmp_path, capsys):
    GTE.save(tmp_path / "theirs", GTE.weights(GTE.model()))
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert "code" not in capsys.readouterr().out


def test_ntk_scaling_matters(saved):
    """Without the scaling, the reference is far away, so the comparison above would notice its absence."""
    model, _ = saved("gte-multilingual-base")
    plain = GTE.case.make()
    plain.set_attn_implementation("eager")
    (scaled, mask), (unscaled, _) = (hidden_states(one, ids(1), LENGTHS) for one in (model, plain))
    assert np.abs(scaled - unscaled)[mask].max() > 1e-3


@pytest.mark.parametrize("heads", [1, 3, 8, 12, 16])
def test_slopes_of_alibi(heads):
    powers = {1: [8], 3: [4, 8, 2], 8: range(1, 9), 12: [*range(1, 9), 0.5, 1.5, 2.5, 3.5]}
    powers[16] = [k / 2 for k in range(1, 17)]
    assert alibi_slopes(heads) == pytest.approx([2.0**-power for power in powers[heads]])


@pytest.mark.parametrize(
    ("dialect", "field", "value"),
    [
        *((NOMIC, name, True) for name in ("prenorm", "causal", "qkv_proj_bias", "mlp_fc1_bias", "parallel_block")),
        (NOMIC, "rotary_scaling_factor", 2),
        (NOMIC, "rotary_emb_fraction", 0.5),
        (NOMIC, "rotary_emb_interleaved", True),
        (NOMIC, "activation_function", "gelu"),
        (NOMIC, "num_experts", 8),
        (NOMIC, "hidden_size", 48),
        (NOMIC, "layer_norm_eps", 1e-5),
        (NOMIC, "hidden_act", "gelu"),
        (NOMIC, "rope_parameters", {"rope_theta": 10000.0, "rope_type": "default"}),
        (GTE, "rope_scaling", {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}),
        (GTE, "rope_scaling", {"type": "linear", "factor": 8.0}),
        (GTE, "rope_scaling", {"type": "ntk", "factor": 0.5}),
        (GTE, "layer_norm_type", "rms_norm"),
        (GTE, "logn_attention_scale", True),
        (GTE, "position_embedding_type", "absolute"),
        (JINA_V3, "truncate_dim", 256),
        (JINA_V3, "use_reg_tokens", True),
        (JINA_V3, "something_new", 1),
    ],
)
def test_a_field_that_would_change_vectors_is_refused_by_name(tmp_path, dialect, field, value):
    dialect.save(tmp_path / "theirs", dialect.weights(dialect.model()), **{field: value})
    with pytest.raises(ConversionError, match=field):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_jina_v2_with_norms_on_queries_and_keys_is_refused(tmp_path):
    model = jina_v2()
    more = {
        "bert.encoder.layer.0.attention.self.layer_norm_q.weight": torch.ones(36),
        "bert.encoder.layer.0.mlp.up_gated_layer.weight": torch.ones(100, 36),
    }
    save_jina_v2(tmp_path / "theirs", model, **more)
    with pytest.raises(ConversionError, match=r"no rule for weight '.*layer_norm_q\.weight'"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_jina_v2_without_a_gate_is_refused(tmp_path):
    model = jina_v2()
    save(tmp_path / "theirs", model.state_dict(), {**JINA_V2_CONFIG, "feed_forward_type": "original"})
    with pytest.raises(ConversionError, match="feed_forward_type 'original'"):
        convert(tmp_path / "theirs", tmp_path / "ours")


def test_the_longest_text_of_a_file_in_both_dialects_is_the_published_one(saved):
    """The length of the training, which stands where transformers has its own field, is not used."""
    for name in ("nomic-embed-text-v1", "nomic-embed-text-v1.5"):
        assert read_header(saved(name)[1]).metadata.model.encoder.max_positions == 83
