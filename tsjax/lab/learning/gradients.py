"""Vectors and their gradients computed in chunks: a batch of any size in the memory of one chunk, or of two on a CPU.

The loss needs the vectors of all texts of a batch at once, but the network does not. Therefore three passes follow each
other. The first computes the vectors without the intermediate values of a gradient. The second computes the loss and
its gradient with respect to the vectors. The third computes, again in chunks, the gradient of the learned parameters.
The sum is the gradient of the batch up to rounding (GradCache, Gao et al., arXiv:2101.06983).
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from tsjax.engine import shapes
from tsjax.engine.batching import fill, plan
from tsjax.engine.forks import check_not_forked
from tsjax.engine.jax_modes import usual_modes
from tsjax.engine.prefetch import prefetch_map
from tsjax.lab.learning.parameters import Learned, length_terms, per_text
from tsjax.model.compiling import jit
from tsjax.model.config import ModelConfig
from tsjax.model.forward import Inputs, apply_packed
from tsjax.model.kernels.dispatch import Kernel
from tsjax.model.packing import one_a_row
from tsjax.model.params import Params, cast_params
from tsjax.model.sharding import BY_ROWS, ROWS, WHOLE, mesh_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from tsjax.lab.learning.recipe import Recipe
    from tsjax.text.tokenizer import Tokenized

# Tokens of a chunk on each device. A gradient takes some kilobytes for each token and layer.
_CHUNK = {"cpu": 2048}
_CHUNK_ACCELERATOR = 16384

# Chunks computed at once. XLA leaves CPU cores idle between operations; an accelerator queues work ahead itself.
_AT_ONCE = {"cpu": 2}

# For texts longer than this, the attention scores kept for the gradient would take most of the memory.
_LONG = 1024


class Texts(NamedTuple):
    """Texts of one role, tokenized for the network.

    Attributes:
        tokenized: the tokens of the texts.
        prompt_length: the number of leading tokens that pooling leaves out.
        tempered: whether the learned temperatures apply to these texts; otherwise their temperature is 1.
    """

    tokenized: Tokenized
    prompt_length: int
    tempered: bool

    def of(self, chosen: Sequence[int] | NDArray[np.intp]) -> Texts:
        """Return the texts with the chosen indices."""
        ids = [self.tokenized.ids[i] for i in chosen]
        tokenized = self.tokenized._replace(
            ids=ids, lengths=self.tokenized.lengths[chosen], truncated=self.tokenized.truncated[chosen]
        )
        return self._replace(tokenized=tokenized)


class _Chunk(NamedTuple):
    texts: NDArray[np.intp]
    ids: Int[Array, "R T"]
    lengths: Int[Array, " R"]
    prompts: Int[Array, "R 1"]
    terms: Float[Array, "R 1 2"]


class Network:
    """Network whose vectors and gradients are computed in chunks on all its devices.

    Args:
        config: the architecture.
        weights: float32 weights that are not learned, or None if all weights are learned.
        recipe: the choices of the run.
        pad_token_id: the id that fills a chunk.
        max_length: the length of the longest text in tokens.
        devices: the devices, each of which takes its share of a chunk's rows.
        dtype: the dtype that the encoder computes in.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Params | None,
        recipe: Recipe,
        pad_token_id: int,
        max_length: int,
        devices: Sequence[jax.Device],
        dtype: str = "float32",
    ) -> None:
        check_not_forked()
        self._config, self._recipe, self._pad, self._dtype = config, recipe, pad_token_id, dtype
        self._mesh = mesh_of(devices)
        self._by_rows, self._whole = NamedSharding(self._mesh, BY_ROWS), NamedSharding(self._mesh, WHOLE)
        budget = _CHUNK.get(devices[0].platform, _CHUNK_ACCELERATOR)
        self._ladder = shapes.uniform_shapes(max_length, budget, len(devices))
        on_cpu = devices[0].platform == "cpu"
        self._at_once = _AT_ONCE.get(devices[0].platform, 1) if len(devices) == 1 else 1
        self._compiling, self._compiled = threading.Lock(), set[Any]()
        # The fastest kernel without a gradient, and the fastest one that has a gradient.
        self._kernels: dict[Any, Kernel] = (
            {_embed: "windows", _pull: "mapped"}
            if on_cpu
            else {_embed: "xla", _pull: "mapped" if max_length > _LONG else "xla"}
        )
        self._frozen = None if weights is None else self.place(weights)

    def place(self, tree: Any) -> Any:
        """Place arrays on the devices, with a full copy on each."""
        return jax.device_put(tree, self._whole)

    def embed(self, learned: Learned, texts: Texts) -> NDArray[np.float32]:
        """Return the vector of each text: float32 (texts, E); not normalised unless the model does so."""
        vectors = np.empty((len(texts.tokenized.ids), self._config.embedding_dimension), np.float32)
        started = list(self._computed(lambda chunk: self._start(_embed, learned, chunk, texts), texts))
        for chunk, output in started:  # fetched only after all chunks have been started
            vectors[chunk.texts] = np.asarray(output)[: len(chunk.texts)]
        return vectors

    def pull(self, learned: Learned, texts: Texts, cotangents: NDArray[np.float32]) -> Learned | None:
        """Return the gradient of the learned parameters from that of the vectors, (texts, E).

        The result is None if nothing is learned from these texts.
        """
        if not texts.tempered and "weights" not in learned:
            return None

        def gradient(chunk: _Chunk) -> Learned:
            given = np.zeros((chunk.ids.shape[0], cotangents.shape[1]), np.float32)
            given[: len(chunk.texts)] = cotangents[chunk.texts]
            own: Learned = self._start(_pull, learned, chunk, texts, jax.device_put(given, self._by_rows))
            return own

        gradients = (own for _, own in self._computed(gradient, texts))  # always in the order of the chunks
        return functools.reduce(_add, gradients)

    def _computed(self, work: Callable[[_Chunk], Any], texts: Texts) -> Iterator[tuple[_Chunk, Any]]:
        """Yield each chunk of the texts, in order, with the result of the work on it."""
        if self._at_once == 1:
            yield from ((chunk, work(chunk)) for chunk in self._chunks(texts))
            return

        @usual_modes()  # modes are set per thread
        def whole(chunk: _Chunk) -> tuple[_Chunk, Any]:
            return chunk, jax.block_until_ready(work(chunk))  # type: ignore[no-untyped-call]

        yield from prefetch_map(whole, self._chunks(texts), threads=self._at_once)

    def _start(self, function: Any, learned: Learned, chunk: _Chunk, texts: Texts, *more: Any) -> Any:
        program = _Program(self._config, self._dtype, self._kernels[function], texts.tempered, self._mesh)
        key = (function, program, chunk.ids.shape)
        if key in self._compiled:
            return function(program, learned, self._frozen, chunk[1:], *more)
        with self._compiling:  # otherwise two threads would both compile it
            result = function(program, learned, self._frozen, chunk[1:], *more)
            self._compiled.add(key)
        return result

    def _chunks(self, texts: Texts) -> Iterator[_Chunk]:
        lengths = texts.tokenized.lengths
        for batch in plan(lengths, self._ladder):
            own = np.ones(batch.shape.rows, np.int32)  # one token in padding rows keeps the gradient from being NaN
            own[: len(batch.rows)] = lengths[batch.indices]
            arrays = (
                fill(texts.tokenized.ids, batch, self._pad),
                own,
                np.full((batch.shape.rows, 1), texts.prompt_length, np.int32),
                length_terms(self._recipe, own[:, None]),
            )
            yield _Chunk(batch.indices, *(jax.device_put(array, self._by_rows) for array in arrays))


class _Program(NamedTuple):
    """Static description of a compiled program.

    Attributes:
        config: the architecture.
        dtype: the dtype that the encoder computes in.
        kernel: the attention kernel.
        tempered: whether the learned temperatures apply to these texts.
        mesh: the devices, each of which takes its share of the rows.
    """

    config: ModelConfig
    dtype: str
    kernel: Kernel
    tempered: bool
    mesh: Mesh

    def vectors(self, learned: Learned, frozen: Params | None, chunk: tuple[Any, ...]) -> Float[Array, "R E"]:
        """Return the vectors of a device's rows."""
        ids, lengths, prompts, terms = chunk
        weights = frozen if frozen is not None else learned["weights"]
        if self.dtype != "float32":
            weights = cast_params(self.config, weights, jnp.dtype(self.dtype))
        encoder = self.config.encoder
        tau = per_text(learned, encoder, terms) if self.tempered else per_text({}, encoder, jnp.asarray(_NO_TERMS))
        inputs = Inputs(ids, one_a_row(lengths, ids.shape[1]), prompts)
        return apply_packed(self.config, weights, inputs, tau, self.kernel).embeddings[:, 0]


# Length terms that give the factor 1 for any text.
_NO_TERMS = np.array([[[1, 0]]], np.float32)


@functools.partial(jit, static_argnames=("program",))
def _embed(program: _Program, learned: Learned, frozen: Params | None, chunk: tuple[Any, ...]) -> Float[Array, "R E"]:
    run = jax.shard_map(program.vectors, mesh=program.mesh, in_specs=(WHOLE, WHOLE, BY_ROWS), out_specs=BY_ROWS)
    return run(learned, frozen, chunk)


@functools.partial(jit, static_argnames=("program",))
def _pull(
    program: _Program,
    learned: Learned,
    frozen: Params | None,
    chunk: tuple[Any, ...],
    cotangents: Float[Array, "R E"],
) -> Learned:
    def own(
        learned: Learned, frozen: Params | None, chunk: tuple[Any, ...], cotangents: Float[Array, "R E"]
    ) -> Learned:
        # Each device's own gradient first, and one sum over the devices after it.
        varying = jax.lax.pcast(learned, ROWS, to="varying")
        _, pullback = jax.vjp(lambda x: program.vectors(x, frozen, chunk), varying)
        gradient: Learned = jax.lax.psum(pullback(cotangents)[0], ROWS)  # type: ignore[no-untyped-call]
        return gradient

    specs = (WHOLE, WHOLE, BY_ROWS, BY_ROWS)
    run = jax.shard_map(own, mesh=program.mesh, in_specs=specs, out_specs=WHOLE)
    return run(learned, frozen, chunk, cotangents)


@jit
def _add(one: Learned, other: Learned) -> Learned:
    return jax.tree.map(jnp.add, one, other)
