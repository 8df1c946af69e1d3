"""The whole network as a flax module, from which everything about its parameters follows.

A parameter is declared once, in the module that computes with it: shape, initialiser, and by its type the policy. A
`Weight` has the compute dtype and names its axes, for `tsjax.model.sharding.RULES`; a plain `nnx.Param` stays float32
and whole. The nested dict of arrays that checkpoints, jit and optimizers see is the module's state, never declared
beside it. So the modules are ordinary flax::

    model = EmbeddingModel(config, rngs=nnx.Rngs(0))  # random parameters
    model = bind(config, params)  # given ones
    output = model(inputs, temperature)
    graph, state = nnx.split(model)

Modules are pytrees, so `jax.lax.scan` runs over the stacked layers as they are. The compiled functions of
`tsjax.model.forward` take the dict instead of a module because JAX flattens a dict in C++ at each call.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from tsjax.model.config import ModelConfig
from tsjax.model.encoder import Encoder
from tsjax.model.heads import make_head
from tsjax.model.kernels.dispatch import Kernel
from tsjax.model.packing import Packing
from tsjax.model.pooling import pool
from tsjax.model.weight import Weight


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
    """The output of a forward pass: the vector of each text and, when asked for, of each token; float32.

    `tsjax.model.forward.apply` gives them by text, (B, E) and (B, T, D); what runs on packed rows, by row and place.
    """

    embeddings: Float[Array, "*texts E"]
    tokens: Float[Array, "R T D"] | None


class EmbeddingModel(nnx.Module):
    """Encoder, pooling and heads."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs)
        # By strings as in a file, where nnx.List would number them.
        self.heads = nnx.Dict({str(index): make_head(head, rngs=rngs) for index, head in enumerate(config.heads)})

    def __call__(self, inputs: Inputs, temperature: Float[Array, "L #R #K N"], kernel: Kernel = "xla") -> Output:
        packing = inputs.packing
        tokens = self.encoder(inputs.input_ids, packing, temperature, inputs.token_type_ids, kernel)
        with jax.named_scope("pooling"):
            x = pool(tokens, packing, inputs.prompt_lengths, self.config.pooling.modes)
        with jax.named_scope("heads"):
            for index in range(len(self.config.heads)):
                x = self.heads[str(index)](x)
        return Output(x, tokens)


@functools.lru_cache(maxsize=32)
def declare(config: ModelConfig, devices: int = 1) -> tuple[nnx.GraphDef[EmbeddingModel], dict[str, Any]]:
    """Return the static part of the model, and its parameters as a nested dict of abstract `nnx.Param`.

    Args:
        config: the architecture.
        devices: how many share the matrices out; 1 where each has all.
    """
    model = nnx.eval_shape(lambda: EmbeddingModel(config, rngs=nnx.Rngs(0)))
    if devices > 1:
        for _, node in nnx.iter_graph(model):
            if isinstance(node, Weight):
                node.share_out(devices)
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state, lambda parameter: parameter)


def bind(config: ModelConfig, params: dict[str, Any], devices: int = 1) -> EmbeddingModel:
    """Return the model with these parameters, sharded over this number of devices in the program that calls it."""
    return nnx.merge(declare(config, devices)[0], params)
