import dataclasses

import pytest

from tsjax.errors import ConfigError
from tsjax.model.config import EncoderConfig, HeadConfig, ModelConfig, PoolingConfig

BASE = EncoderConfig(vocab_size=100, hidden_size=36, num_layers=3, num_heads=3, intermediate_size=50, max_positions=40)


def test_json_gives_the_same_config_back():
    config = ModelConfig(
        encoder=BASE,
        pooling=PoolingConfig(modes=("cls", "mean"), include_prompt=False),
        heads=(
            HeadConfig(kind="dense", in_features=72, out_features=20, activation="tanh"),
            HeadConfig(kind="normalize", in_features=20, out_features=20),
        ),
    )
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.embedding_dimension == 20


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"num_layers": -1},
        {"vocab_size": 2.5},
        {"num_heads": True},
        {"num_heads": 5, "head_size": None},
        {"norm_eps": 0},
        {"attention_scale": float("inf")},
        {"position_padding_id": 40},
        {"position_padding_id": -1},
        {"max_positions": None},
        {"position_stride": 8, "position_stride_up_to": 20},
        {"num_key_value_heads": 2},
        {"rope_theta": -1.0},
        {"rope_theta": 1e4, "head_size": 7},
        {"relative_buckets": 2},
        {"relative_buckets": 64, "relative_max_distance": 16},
        {"local_layers": (1,)},
        {"local_layers": (3,), "local_window": 5},
        {"norm_placement": "between"},
        {"activation": "gelu?"},
    ],
)
def test_nonsense_is_refused(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(BASE, **change)


def test_head_size_follows_what_is_replaced():
    assert dataclasses.replace(BASE, num_heads=4).head_dim == 9
    assert dataclasses.replace(BASE, head_size=7).head_dim == 7


def test_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="dropout"):
        EncoderConfig.from_json({**BASE.to_json(), "dropout": 0.1})


def test_the_longest_text_is_what_the_offset_leaves():
    assert dataclasses.replace(BASE, max_positions=514, position_padding_id=1).max_length == 512
    assert dataclasses.replace(BASE, max_positions=None, absolute_positions=False, rope_theta=1e4).max_length is None


def test_heads_must_fit_each_other():
    with pytest.raises(ConfigError, match="gets 36"):
        ModelConfig(encoder=BASE, heads=(HeadConfig(kind="normalize", in_features=35, out_features=35),))
    with pytest.raises(ConfigError, match="cannot change the width"):
        HeadConfig(kind="layer_norm", in_features=36, out_features=35)


def test_pooling_needs_known_modes():
    with pytest.raises(ConfigError, match="median"):
        PoolingConfig(modes=("mean", "median"))
    with pytest.raises(ConfigError, match="at least one"):
        PoolingConfig(modes=())
