"""Activations that a Dense module can name, against torch.nn; and those that it can name but not keep."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conversion.activations import ACTIVATIONS, torch_activation
from tests.support.lazy import lazy
from tsjax.errors import ConversionError
from tsjax.model.activations import _FUNCTIONS, activate

Dense = lazy("sentence_transformers.base.modules", "Dense")
fullname = lazy("sentence_transformers.util", "fullname")
torch = lazy("torch")

# These have weights; change the width; are not for vectors; or need arguments, so that sentence-transformers fails too.
REFUSED = {"PReLU", "GLU", "Softmax2d", "Threshold", "MultiheadAttention"}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_same_function(name):
    module = getattr(torch.nn, name)().eval()
    ours = torch_activation(fullname(module), "config.json")
    corners = [-90, -20, -3, -1, -0.5, 0, 0.5, 1, 3, 6, 20, 21, 90]
    x = np.array([*corners, *3 * np.random.default_rng(0).standard_normal(500)], "f4")[None].repeat(2, 0)
    expected = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(activate(jnp.asarray(x), ours), expected, rtol=2e-6, atol=1e-6)


def test_every_activation_of_torch_is_thought_of():
    known = {name for name in torch.nn.modules.activation.__all__ if inspect.isclass(getattr(torch.nn, name))}
    assert {*ACTIVATIONS, *REFUSED} == {*known, "Identity"}
    assert set(ACTIVATIONS.values()) == set(_FUNCTIONS) - {"gelu_tanh"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_others_are_refused_by_name(name):
    with pytest.raises(ConversionError, match=f"activation.{name}' is not supported; of torch.nn, known: CELU, ELU"):
        torch_activation(f"torch.nn.modules.activation.{name}", "config.json")


def test_sentence_transformers_forgets_the_parameters(tmp_path):
    """Both therefore load the class with its defaults."""
    for module, default in ((torch.nn.GELU(approximate="tanh"), "none"), (torch.nn.LeakyReLU(0.5), 0.01)):
        Dense(4, 4, activation_function=module).save(str(tmp_path))
        loaded = Dense.load(str(tmp_path)).activation_function
        assert getattr(loaded, "approximate", getattr(loaded, "negative_slope", None)) == default


def test_gelu_is_nearer_to_the_exact_one_than_pytorch():
    x = np.linspace(-8, 8, 400_001).astype("f4")
    exact = torch.nn.functional.gelu(torch.tensor(x.astype("f8"))).numpy()
    ours = np.asarray(activate(jnp.asarray(x), "gelu"))
    error = np.abs(ours - exact).max()
    assert error < 3e-7
    assert error < np.abs(torch.nn.functional.gelu(torch.tensor(x)).numpy() - exact).max()
    assert np.asarray(activate(jnp.array([-1e30, -40.0, 0.0, 40.0, 1e30]), "gelu")).tolist() == [
        0,
        0,
        0,
        40,
        np.float32(1e30),
    ]


def test_the_slope_of_gelu_is_the_exact_one():
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, 0.0, 1e4]]).astype("f4")
    exact = torch.tensor(x.astype("f8"), requires_grad=True)
    torch.nn.functional.gelu(exact).sum().backward()
    ours = jax.vmap(jax.grad(lambda value: activate(value, "gelu")))(jnp.asarray(x))
    np.testing.assert_allclose(ours, exact.grad, atol=2e-7)
