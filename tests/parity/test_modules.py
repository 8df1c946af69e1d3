"""Module by module against PyTorch, on small random configs of awkward sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion.families.bert import BERT
from conversion.fields import Fields
from tests.support.checkpoints import BERT_CONFIG, SIZES, write_bert
from tests.support.lazy import lazy
from tsjax.checkpoints.format import read_header, read_weights
from tsjax.engine.batching import Batch, Shape, pack
from tsjax.hub import resolve
from tsjax.model.config import ModelConfig
from tsjax.model.encoder import Embeddings, FeedForward, Layer
from tsjax.model.forward import apply, weight_shapes
from tsjax.model.kernels.dispatch import View
from tsjax.model.packing import Packing, one_a_row
from tsjax.model.params import unflatten
from tsjax.model.pooling import pool

hidden_states, load_original = lazy("conversion.originals", "hidden_states", "load_original")
Pooling = lazy("sentence_transformers.sentence_transformer.modules", "Pooling")
torch = lazy("torch")

ROWS, LONGEST = 4, 41
temperatures = st.sampled_from([1.0, 0.9, 0.7, 0.5, 1.7])
lengths = st.lists(st.integers(1, LONGEST), min_size=ROWS, max_size=ROWS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def ours(directory):
    """Return the compiled model: (ids, lengths, temperature, types) → hidden states."""
    header = read_header(resolve(directory))
    params = unflatten(read_weights(header, weight_shapes(header.metadata.model)))

    @jax.jit
    def run(input_ids, lengths, temperature, types):
        return apply(header.metadata.model, params, input_ids, lengths, temperature, token_type_ids=types).tokens

    run.params, run.config = params, header.metadata.model.encoder
    return run


@functools.cache
def theirs(directory):
    return load_original(directory)


@functools.cache
def exact(directory):
    """Return the original in float64: at τ = 0.5, float32 puts PyTorch itself more than 1e-6 away from it."""
    return load_original(directory).double()


def ids(seed, shape=(ROWS, LONGEST)):
    return np.random.default_rng(seed).integers(5, SIZES["vocab_size"], shape).astype(np.int32)


@settings(deadline=None, max_examples=40)
@given(lengths=lengths, tau=temperatures, seed=st.integers(0, 1000))
def test_the_whole_network(directory, ours, lengths, tau, seed):
    input_ids, types = ids(seed), ids(seed + 1) % 2
    states = np.asarray(ours(input_ids, jnp.array(lengths), jnp.full((3, 1, 3), tau), types))
    expected, mask = hidden_states(exact(directory), input_ids, lengths, tau, types)
    scale = np.abs(expected[mask]).max()
    np.testing.assert_allclose(states[mask] / scale, expected[mask] / scale, rtol=0, atol=2e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(lengths=lengths, taus=st.lists(st.floats(0.5, 2.0, width=32), min_size=9, max_size=9))
def test_a_temperature_for_each_head(directory, ours, lengths, taus):
    """On PyTorch's side, each head's own scale is applied to its queries."""
    temperature = np.float32(taus).reshape(3, 3)
    model = load_original(directory).double()
    with torch.no_grad():
        for layer, values in zip(model.encoder.layer, temperature, strict=True):
            query = layer.attention.self.query
            factor = torch.tensor(1 / values).repeat_interleave(12)
            query.weight.mul_(factor[:, None])
            query.bias.mul_(factor)
    expected, mask = hidden_states(model, ids(3).astype(np.int64), lengths)
    states = np.asarray(ours(ids(3), jnp.array(lengths), jnp.asarray(temperature)[:, None], None))
    scale = np.abs(expected[mask]).max()
    np.testing.assert_allclose(states[mask] / scale, expected[mask] / scale, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_embeddings(directory, ours):
    input_ids, types = ids(5), ids(6) % 2
    from flax import nnx

    graph, _ = nnx.split(nnx.eval_shape(lambda: Embeddings(ours.config, rngs=nnx.Rngs(0))))
    embeddings = nnx.merge(graph, ours.params["encoder"]["embeddings"])
    expected = theirs(directory).embeddings(torch.tensor(input_ids).long(), torch.tensor(types).long())
    np.testing.assert_allclose(
        embeddings(jnp.asarray(input_ids), one_a_row(jnp.full(ROWS, LONGEST), LONGEST), jnp.asarray(types)),
        expected.detach(),
        rtol=0,
        atol=2e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 2])
def test_feed_forward_and_layer(directory, ours, index):
    from flax import nnx

    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), ours.params["encoder"]["layers"])
    x = np.random.default_rng(index).standard_normal((2, 9, 36)).astype("f4")
    layer = theirs(directory).encoder.layer[index]
    graph, _ = nnx.split(nnx.eval_shape(lambda: FeedForward(ours.config, rngs=nnx.Rngs(0))))
    with torch.no_grad():
        expected = layer.output.dense(layer.intermediate(torch.tensor(x)))
    np.testing.assert_allclose(nnx.merge(graph, one["feed_forward"])(jnp.asarray(x)), expected, rtol=0, atol=4e-6)

    graph, _ = nnx.split(nnx.eval_shape(lambda: Layer(ours.config, rngs=nnx.Rngs(0))))
    view = View(one_a_row(jnp.array([9, 9]), 9))
    with torch.no_grad():
        expected = layer(torch.tensor(x))
    expected = expected[0] if isinstance(expected, tuple) else expected
    states = nnx.merge(graph, one)(jnp.asarray(x), view, jnp.ones((1, 1, 3)), jnp.asarray(index == 0), "xla")
    np.testing.assert_allclose(states, expected, rtol=0, atol=4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"])
@pytest.mark.parametrize("types", [1, 2])
def test_activations_and_token_types(tmp_path, activation, types):
    source = write_bert(tmp_path / "model", hidden_act=activation, type_vocab_size=types, num_hidden_layers=1)
    header = read_header(resolve(source))
    params = unflatten(read_weights(header, weight_shapes(header.metadata.model)))
    lengths = [13, 4]
    states = apply(
        header.metadata.model, params, jnp.asarray(ids(1, (2, 13))), jnp.array(lengths), jnp.ones((1, 1, 3))
    ).tokens
    expected, mask = hidden_states(load_original(source), ids(1, (2, 13)).astype(np.int64), lengths)
    np.testing.assert_allclose(np.asarray(states)[mask], expected[mask], rtol=0, atol=4e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    modes=st.lists(st.deferred(lambda: st.sampled_from(Pooling.POOLING_MODES)), min_size=1, max_size=3, unique=True),
    lengths=st.lists(st.integers(3, 11), min_size=3, max_size=3),
    prompt=st.integers(0, 2),
)
def test_pooling(modes, lengths, prompt):
    tokens = np.random.default_rng(0).standard_normal((3, 11, 5)).astype("f4")
    mask = np.arange(11) < np.array(lengths)[:, None]
    features = {"token_embeddings": torch.tensor(tokens), "attention_mask": torch.tensor(mask).long()}
    if prompt:
        features["prompt_length"] = prompt
    expected = Pooling(5, tuple(modes), include_prompt=not prompt)(features)["sentence_embedding"]
    packing = one_a_row(jnp.array(lengths), 11)
    pooled = pool(jnp.asarray(tokens), packing, jnp.full((3, 1), prompt), tuple(modes))[:, 0]
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-6)
    # the same texts, one after the other in one row
    order = np.argsort(-np.array(lengths), kind="stable")
    row = Batch((order,), Shape(1, 40))
    together = Packing(*map(jnp.asarray, pack(np.array(lengths), row, 7)))
    row_tokens = np.concatenate([tokens[i, : lengths[i]] for i in order] + [np.full((40 - sum(lengths), 5), 9)])
    pooled = pool(jnp.asarray(row_tokens)[None], together, jnp.full((1, 7), prompt), tuple(modes))[0]
    np.testing.assert_allclose(np.asarray(pooled)[:3][np.argsort(order)], expected, rtol=0, atol=1e-6)


def test_the_config_of_the_model_is_a_plain_fact():
    config = ModelConfig(encoder=BERT.translate(Fields(BERT_CONFIG, "config.json")))
    assert hash(config) == hash(ModelConfig.from_json(config.to_json()))
