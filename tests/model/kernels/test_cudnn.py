"""cuDNN's attention without a GPU: the program for CUDA and the choice of kernels are checked."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from tsjax.model.config import EncoderConfig, ModelConfig
from tsjax.model.forward import Inputs, abstract_params, compiled_apply
from tsjax.model.kernels.dispatch import kernel_for
from tsjax.model.packing import Packing
from tsjax.model.params import cast_params

ENCODER = EncoderConfig(
    vocab_size=100, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64, max_positions=512
)
PLAIN, MASKED = TARGETS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaScaleBiasSoftmax")


def program(encoder, dtype, kernel="cudnn"):
    """Return the StableHLO of a batch of 4 texts of up to 256 tokens, as for an NVIDIA GPU."""
    config = ModelConfig(encoder=encoder)
    params = jax.eval_shape(lambda params: cast_params(config, params, jnp.dtype(dtype)), abstract_params(config))
    by_token, by_text = jax.ShapeDtypeStruct((4, 256), jnp.int32), jax.ShapeDtypeStruct((4, 1), jnp.int32)
    inputs = Inputs(by_token, Packing(by_token, by_token, by_text, by_text), by_text)
    temperature = jax.ShapeDtypeStruct((encoder.num_layers, encoder.num_heads), jnp.float32)
    factors = jax.ShapeDtypeStruct((4, 1), jnp.float32)
    exported = export.export(
        compiled_apply,
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(target) for target in TARGETS],
    )(params, inputs, temperature, factors, config=config, kernel=kernel)
    return exported.mlir_module()


@pytest.fixture(autouse=True)
def _cudnn(monkeypatch):
    """Replace the check of the library's version that JAX makes before lowering to cuDNN."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "bf16"), ("float16", "f16")])
def test_the_program_for_cuda_calls_flash_attention_with_lengths(dtype, name):
    text = program(ENCODER, dtype)
    (call,) = re.findall(r"custom_call @__cudnn.*", text)  # one: a scan runs over the layers
    assert "PADDING" in call
    assert call.count(f"4x256x2x32x{name}") >= 3  # query, key and value
    assert call.count("4xi32") == 2  # lengths
    assert "256x256" not in text  # no logits, and no mask of them


def test_layers_that_see_a_window_have_a_mask_and_the_others_lengths_only():
    encoder = dataclasses.replace(ENCODER, local_layers=(1,), local_window=8)
    calls = re.findall(r"custom_call @(__cudnn\S+)\(.*", program(encoder, "bfloat16"))
    assert sorted(calls) == sorted([PLAIN, MASKED])


def test_float32_on_a_gpu_is_plain_xla():
    assert "__cudnn" not in program(ENCODER, "float32", kernel="xla")


@pytest.mark.parametrize(
    ("platform", "capability", "changes", "dtype", "kernel"),
    [
        ("cpu", None, {}, "float32", "windows"),
        ("gpu", "9.0", {}, "bfloat16", "cudnn"),
        ("gpu", "8.6", {}, "float16", "cudnn"),
        ("gpu", "9.0", {}, "float32", "xla"),
        ("gpu", "7.5", {}, "bfloat16", "xla"),
        ("gpu", "gfx90a", {}, "bfloat16", "xla"),
        ("gpu", "9.0", {"alibi": True}, "bfloat16", "xla"),
        ("gpu", "9.0", {"head_size": 12}, "bfloat16", "xla"),
        ("tpu", None, {}, "bfloat16", "splash"),
        ("tpu", None, {}, "float32", "splash"),
        ("tpu", None, {"relative_buckets": 8}, "bfloat16", "xla"),
    ],
)
def test_each_device_has_its_kernel(platform, capability, changes, dtype, kernel):
    assert kernel_for(platform, capability, dataclasses.replace(ENCODER, **changes), dtype) == kernel
