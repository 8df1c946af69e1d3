"""The whole model as pure functions of a plain pytree: what is jitted, differentiated, and checked against a file.

flax.nnx writes the network; here it is split once into a static part, which depends on the config alone, and a nested
dict of arrays. Only the dict crosses the jit boundary, which makes a call cheap to dispatch.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from tsjax.errors import InputError
from tsjax.model.compiling import jit
from tsjax.model.config import ModelConfig
from tsjax.model.encoder import Encoder
from tsjax.model.heads import make_head
from tsjax.model.kernels.dispatch import Kernel
from tsjax.model.packing import Packing, one_a_row
from tsjax.model.params import Params, flatten
from tsjax.model.pooling import pool
from tsjax.model.sharding import BY_ROWS, WHOLE, partitions, whole


class Inputs(NamedTuple):
    """A batch of texts, packed into rows.

    Attributes:
        input_ids: token ids.
        packing: which text each is of.
        prompt_lengths: leading tokens of each text that pooling leaves out.
        token_type_ids: which segment each token belongs to; None for 0 throughout.
    """

    input_ids: Int[Array, "R T"]
    packing: Packing
    prompt_lengths: Int[Array, "R K"]
    token_type_ids: Int[Array, "R T"] | None = None


class Output(NamedTuple):
    """What a forward pass gives: the vector of each text and, when asked for, of each token; float32.

    `apply` gives them by text, (B, E) and (B, T, D); what runs on packed rows, by row and place.
    """

    embeddings: Float[Array, "*texts E"]
    tokens: Float[Array, "R T D"] | None


class EmbeddingModel(nnx.Module):
    """Encoder, pooling and heads."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.heads = nnx.List([make_head(head, rngs=rngs) for head in config.heads])

    def __call__(self, inputs: Inputs, temperature: Float[Array, "L #R #K N"], kernel: Kernel = "xla") -> Output:
        packing = inputs.packing
        tokens = self.encoder(inputs.input_ids, packing, temperature, inputs.token_type_ids, kernel)
        with jax.named_scope("pooling"):
            x = pool(tokens, packing, inputs.prompt_lengths, self.config.pooling.modes)
        with jax.named_scope("heads"):
            for head in self.heads:
                x = head(x)
        return Output(x, tokens)


@functools.lru_cache(maxsize=32)
def _split(config: ModelConfig) -> tuple[nnx.GraphDef[EmbeddingModel], Params]:
    """The static part of the model, and the shapes of its parameters."""
    graph, state = nnx.split(nnx.eval_shape(lambda: EmbeddingModel(config, rngs=nnx.Rngs(0))))
    return graph, _string_keys(nnx.to_pure_dict(state))


def _string_keys(tree: Mapping[Any, Any]) -> Params:
    """Nnx numbers the items of a list; a file's names are strings."""
    return {str(k): _string_keys(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _nnx_keys(params: Params) -> Params:
    """The inverse of `_string_keys`."""
    heads = {int(index): head for index, head in params.get("heads", {}).items()}
    return {**params, "heads": heads} if heads else params


def abstract_params(config: ModelConfig) -> Params:
    """The parameters that a config asks for, as `jax.ShapeDtypeStruct`s, without allocating any."""
    return _split(config)[1]


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by dotted name, in the names' order."""
    # Arrays that take no memory, since shapes alone cannot be cut.
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract_params(config))
    shapes = {name: leaf.shape for name, leaf in flatten(config, params).items()}
    return dict(sorted(shapes.items(), key=lambda item: item[0].split(".")))


def init_params(config: ModelConfig, seed: int = 0) -> Params:
    """Random parameters, float32."""
    return _string_keys(nnx.to_pure_dict(nnx.state(EmbeddingModel(config, rngs=nnx.Rngs(seed)))))


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
) -> Output:
    """Run the model on packed rows.

    Args:
        config: the architecture; static under jit.
        params: nested dict of arrays.
        inputs: the batch. No text has more tokens than the model has positions for.
        temperature: float32 τ by layer, text and head.
        kernel: what computes attention. Only ``xla`` and ``mapped`` can be differentiated, ``cudnn`` needs a text a
            row, and ``windows`` a row's texts by falling length.
    """
    return bound(config, params)(inputs, temperature, kernel)


def bound(config: ModelConfig, params: Params) -> EmbeddingModel:
    """The model with these parameters, of which this device may have a share only."""
    graph, shapes = _split(config)
    rest = jax.tree.map(lambda leaf, full: whole(leaf, full.shape), _without_layers(params), _without_layers(shapes))
    rest["encoder"]["layers"] = params["encoder"]["layers"]  # a layer at a time
    return nnx.merge(graph, _nnx_keys(rest))


def _without_layers(params: Params) -> Params:
    return {**params, "encoder": {**params["encoder"], "layers": None}}


class _Traced(threading.local):
    """How many programs the calling thread has traced."""

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

    def run(params: Params, inputs: Inputs, temperature: Float[Array, "L N"], factors: Float[Array, "R K"]) -> Output:
        output = apply_packed(config, params, inputs, temperature[:, None, None, :] * factors[None, :, :, None], kernel)
        return output if with_tokens else output._replace(tokens=None)

    if mesh is not None:
        parts = partitions(abstract_params(config), mesh.size, shared_out=shared_out)
        specs = (parts, BY_ROWS, WHOLE, BY_ROWS)
        # Pallas' kernels do not say how their output varies over the devices, so it is not checked.
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=BY_ROWS, check_vma=False)
    return run(params, inputs, temperature, factors)
