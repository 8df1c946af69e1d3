"""The whole model as pure functions of a plain pytree: what is jitted, differentiated, and checked against a file.

flax.nnx writes the network; here it is split once into a static part, which depends on the config alone, and a nested
dict of arrays. Only the dict crosses the jit boundary, which makes a call cheap to dispatch.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from tsjax.model.config import ModelConfig
from tsjax.model.encoder import Encoder
from tsjax.model.heads import make_head
from tsjax.model.pooling import pool

Params: TypeAlias = dict[str, Any]


class Output(NamedTuple):
    """What a forward pass gives: the vector of each text and, when asked for, of each token; float32."""

    embeddings: Float[Array, "B E"]
    tokens: Float[Array, "B T D"] | None


class EmbeddingModel(nnx.Module):
    """Encoder, pooling and heads."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.heads = nnx.List([make_head(head, rngs=rngs) for head in config.heads])

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        lengths: Int[Array, " B"],
        prompt_lengths: Int[Array, " B"],
        temperature: Float[Array, "L #B N"],
        token_type_ids: Int[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B T D"]]:
        tokens = self.encoder(input_ids, lengths, temperature, token_type_ids)
        with jax.named_scope("pooling"):
            x = pool(tokens, lengths, prompt_lengths, self.config.pooling.modes)
        with jax.named_scope("heads"):
            for head in self.heads:
                x = head(x)
        return x, tokens


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


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by dotted name, as a file has them."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    params: Params = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = params
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return params


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by dotted name."""
    return {name: leaf.shape for name, leaf in flatten(abstract_params(config)).items()}


def init_params(config: ModelConfig, seed: int = 0) -> Params:
    """Random parameters, float32."""
    return _string_keys(nnx.to_pure_dict(nnx.state(EmbeddingModel(config, rngs=nnx.Rngs(seed)))))


def cast_params(params: Params, dtype: jnp.dtype[Any]) -> Params:
    """The encoder's matrices in a compute dtype; norms, biases on logits and the heads after pooling stay float32."""

    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> Array:
        names = [key.key for key in path]
        keep = names[0] == "heads" or any(name.endswith(("norm", "relative_bias")) for name in names)
        return leaf.astype(jnp.float32 if keep else dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


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
    if prompt_lengths is None:
        prompt_lengths = jnp.zeros_like(lengths)
    model = nnx.merge(_split(config)[0], _nnx_keys(params))
    return Output(*model(input_ids, lengths, prompt_lengths, temperature, token_type_ids))


# How often each (config, batch shape, with tokens) was traced. JAX traces once for each program that it compiles here:
# one process, one set of devices.
_traces: Counter[tuple[ModelConfig, tuple[int, int], bool]] = Counter()
_traces_lock = threading.Lock()


def trace_counts(config: ModelConfig) -> dict[tuple[int, int], int]:
    """How many programs were compiled for this config in this process, by batch shape (rows, tokens)."""
    counts: Counter[tuple[int, int]] = Counter()
    with _traces_lock:
        for (traced, shape, _), times in _traces.items():
            if traced == config:
                counts[shape] += times
    return dict(counts)


@functools.partial(jax.jit, static_argnames=("config", "with_tokens"))
def compiled_apply(
    params: Params,
    input_ids: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    prompt_lengths: Int[Array, " B"],
    temperature: Float[Array, "L #B N"],
    token_type_ids: Int[Array, "B T"] | None = None,
    *,
    config: ModelConfig,
    with_tokens: bool,
) -> Output:
    """`apply`, compiled once for each batch shape; the temperature is a value in it, never part of the program."""
    with _traces_lock:
        _traces[config, (input_ids.shape[0], input_ids.shape[1]), with_tokens] += 1
    output = apply(config, params, input_ids, lengths, temperature, prompt_lengths, token_type_ids)
    return output if with_tokens else output._replace(tokens=None)
