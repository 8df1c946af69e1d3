"""The network as flax has it: a module whose state is the parameters, with their policies in its declarations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from tsjax.model.config import EncoderConfig, HeadConfig, ModelConfig
from tsjax.model.forward import Inputs, apply_packed, init_params
from tsjax.model.network import EmbeddingModel, bind, declare
from tsjax.model.packing import one_a_row
from tsjax.model.params import cast_params, flatten, partitions
from tsjax.model.sharding import RULES
from tsjax.model.weight import Weight

# Every kind of parameter: a projection of the embeddings, grouped queries, a gate, biases by position, a head.
ENCODER = EncoderConfig(
    vocab_size=50,
    hidden_size=24,
    embedding_size=12,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    intermediate_size=32,
    max_positions=16,
    type_vocab_size=2,
    relative_buckets=8,
    query_key_norm=True,
    feed_forward="gated",
)
HEAD = HeadConfig(kind="dense", in_features=24, out_features=8)
CONFIG = ModelConfig(encoder=ENCODER, heads=(HEAD,))


def test_a_model_is_a_module_that_flax_can_split_compile_and_differentiate():
    model = EmbeddingModel(CONFIG, rngs=nnx.Rngs(3))
    lengths = jnp.array([6, 4])
    inputs = Inputs(jnp.ones((2, 6), jnp.int32), one_a_row(lengths, 6), jnp.zeros((2, 1), jnp.int32))
    tau = jnp.full((2, 1, 1, 4), 0.7)

    def total(model):
        return model(inputs, tau).embeddings.sum()

    value, gradient = nnx.jit(nnx.value_and_grad(total))(model)
    params = init_params(CONFIG, seed=3)
    expected = jax.jit(lambda params: apply_packed(CONFIG, params, inputs, tau).embeddings.sum())(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert nnx.to_pure_dict(gradient).keys() == params.keys()
    assert np.abs(gradient["encoder"]["layers"]["attention"]["out"]["kernel"][...]).max() > 0
    np.testing.assert_allclose(jax.jit(lambda params: total(bind(CONFIG, params)))(params), expected, rtol=1e-6)


def test_heads_are_applied_in_their_order_beyond_ten():
    """The heads' names are strings, of which "10" sorts before "2"."""
    widths = [24, *range(12, 0, -1)]
    heads = [HeadConfig(kind="dense", in_features=a, out_features=b) for a, b in itertools.pairwise(widths)]
    config = ModelConfig(encoder=ENCODER, heads=tuple(heads))
    inputs = Inputs(jnp.ones((1, 3), jnp.int32), one_a_row(jnp.array([3]), 3), jnp.zeros((1, 1), jnp.int32))
    output = jax.eval_shape(lambda: apply_packed(config, init_params(config), inputs, jnp.ones((2, 1, 1, 4))))
    assert output.embeddings.shape == (1, 1, 1)


def test_matrices_have_the_compute_dtype_and_all_else_stays_float32():
    half = jax.eval_shape(lambda: flatten(CONFIG, cast_params(CONFIG, init_params(CONFIG), jnp.dtype("bfloat16"))))
    kept = {name for name, leaf in half.items() if leaf.dtype == jnp.float32}
    assert kept == {name for name in half if "norm." in name or "relative_bias" in name or name.startswith("heads.")}
    assert {leaf.dtype for name, leaf in half.items() if name not in kept} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("devices", [1, 2, 3, 5, 7, 8])
def test_every_cut_follows_the_rules_and_is_even(devices):
    declared = declare(CONFIG, devices)[1]
    for parameter in jax.tree.leaves(declared, is_leaf=lambda node: isinstance(node, nnx.Param)):
        if not isinstance(parameter, Weight):
            continue
        shape = parameter.get_raw_value().shape
        assert set(parameter.axes) <= RULES.keys()
        assert len(parameter.axes) in (0, parameter.ndim, parameter.ndim - 1)  # layers are stacked
        divided = [size for axis, size in zip(parameter.axes[::-1], shape[::-1], strict=False) if RULES[axis]]
        assert (parameter.cut is not None) == (devices > 1 and any(size % devices == 0 for size in divided))
        assert parameter.cut is None or shape[parameter.cut] % devices == 0


def test_each_matrix_is_cut_along_its_first_axis_that_the_devices_divide():
    parts = flatten_specs(partitions(CONFIG, 8, shared_out=True))
    assert parts["encoder.embeddings.token.embedding"] == P()  # neither 50 nor 12 is a multiple of 8
    assert parts["encoder.embeddings.position.embedding"] == P("rows")
    assert parts["encoder.embeddings.projection.kernel"] == P(None, "rows")
    assert parts["encoder.layers.attention.query_key_value.kernel"] == P(None, "rows")
    assert parts["encoder.layers.attention.out.kernel"] == P(None, None, None, "rows")
    assert parts["encoder.layers.feed_forward.down.kernel"] == P(None, "rows")
    assert parts["encoder.layers.feed_forward.down.bias"] == parts["encoder.layers.attention_norm.scale"] == P()
    assert set(flatten_specs(partitions(CONFIG, 8, shared_out=False)).values()) == {P()}


def flatten_specs(parts):
    leaves = jax.tree_util.tree_leaves_with_path(parts, is_leaf=lambda node: isinstance(node, P))
    return {".".join(key.key for key in path): spec for path, spec in leaves}
