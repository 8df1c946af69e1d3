"""The network as pure functions of a config and a nested dict of arrays: what is jitted and differentiated."""

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tsjax.errors import InputError
from tsjax.model.compiling import jit
from tsjax.model.config import ModelConfig
from tsjax.model.kernels.dispatch import Kernel
from tsjax.model.network import Inputs, Output, bind
from tsjax.model.packing import one_a_row
from tsjax.model.params import Params, abstract_params, init_params, partitions, weight_shapes
from tsjax.model.sharding import BY_ROWS, WHOLE

__all__ = [
    "Inputs",
    "Output",
    "abstract_params",
    "apply",
    "apply_packed",
    "compiled_apply",
    "init_params",
    "traced_programs",
    "weight_shapes",
]


def apply(
    config: ModelConfig,
    params: Params,
    input_ids: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    temperature: Float[Array, "L #B N"],
    prompt_lengths: Int[Array, " B"] | None = None,
    token_type_ids: Int[Array, "B T"] | None = None,
) -> Output:
    """Run the model: a pure function, differentiable with respect to ``params`` and ``temperature``.

    Args:
        config: the architecture; static under jit.
        params: nested dict of arrays, as `init_params` or a checkpoint gives it.
        input_ids: int32 token ids, padded to T.
        lengths: int32 tokens of each text; 0 for a padding row, whose output means nothing.
        temperature: float32 τ by layer, text (or 1 for all alike) and head.
        prompt_lengths: int32 leading tokens that pooling leaves out; None for none.
        token_type_ids: int32 segment of each token; None for 0 throughout.

    Raises:
        InputError: T is more than the model has positions for.
    """
    texts, length = input_ids.shape
    longest = config.encoder.max_length
    if longest is not None and length > longest:
        raise InputError(f"the input has {length} tokens; this model has positions for {longest}")
    if prompt_lengths is None:
        prompt_lengths = jnp.zeros_like(lengths)
    inputs = Inputs(input_ids, one_a_row(lengths, length), prompt_lengths[:, None], token_type_ids)
    output = apply_packed(config, params, inputs, temperature[:, :, None])
    return output._replace(embeddings=output.embeddings.reshape(texts, -1))


def apply_packed(
    config: ModelConfig,
    params: Params,
    inputs: Inputs,
    temperature: Float[Array, "L #R #K N"],
    kernel: Kernel = "xla",
    devices: int = 1,
) -> Output:
    """Run the model on packed rows.

    Args:
        config: the architecture; static under jit.
        params: nested dict of arrays.
        inputs: the batch. No text has more tokens than the model has positions for.
        temperature: float32 τ by layer, text and head.
        kernel: what computes attention. Only ``xla`` and ``mapped`` can be differentiated, ``cudnn`` needs a text a
            row, and ``windows`` a row's texts by falling length.
        devices: how many share the parameters out, within a `jax.shard_map` over them; 1 where each has all.
    """
    return bind(config, params, devices)(inputs, temperature, kernel)


class _Traced(threading.local):
    """The number of programs that the calling thread has traced."""

    programs = 0


_traced = _Traced()


def traced_programs() -> int:
    """Return how many programs of `compiled_apply` were traced in the calling thread so far.

    JAX traces a program in the thread whose call needs it, once for each program that it compiles or fetches from the
    compilation cache. The difference around a call is what that call compiled, whatever other threads do.
    """
    return _traced.programs


@functools.partial(jit, static_argnames=("config", "kernel", "with_tokens", "mesh", "shared_out", "device"))
def compiled_apply(
    params: Params,
    inputs: Inputs,
    temperature: Float[Array, "L N"],
    factors: Float[Array, "R K"],
    *,
    config: ModelConfig,
    kernel: Kernel = "xla",
    with_tokens: bool = False,
    mesh: Mesh | None = None,
    shared_out: bool = False,
    device: jax.Device | None = None,
) -> Output:
    """`apply_packed`, compiled; the temperature is a value in it, never part of the program.

    Args:
        params: nested dict of arrays, in the compute dtype.
        inputs: the batch.
        temperature: τ by layer and head.
        factors: what each text's temperature is multiplied by.
        config: the architecture.
        kernel: what computes attention.
        with_tokens: whether to give the vectors of tokens too.
        mesh: the devices that the rows are spread over; None for one device.
        shared_out: whether they share the parameters out among them.
        device: the one device, where ``mesh`` is None. JAX compiles a program for each device and traces only what
            differs in an argument, so this one makes `traced_programs` count them all.
    """
    del device
    _traced.programs += 1

    shares = mesh.size if mesh is not None and shared_out else 1

    def run(params: Params, inputs: Inputs, temperature: Float[Array, "L N"], factors: Float[Array, "R K"]) -> Output:
        tau = temperature[:, None, None, :] * factors[None, :, :, None]
        output = apply_packed(config, params, inputs, tau, kernel, shares)
        return output if with_tokens else output._replace(tokens=None)

    if mesh is not None:
        specs = (partitions(config, mesh.size, shared_out=shared_out), BY_ROWS, WHOLE, BY_ROWS)
        # JAX's splash kernel does not declare how its output varies over the devices, as the check wants of Pallas.
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=BY_ROWS, check_vma=kernel != "splash")
    return run(params, inputs, temperature, factors)
