"""An upper estimate of a TPU's speed, from the TPU's own compiler on a machine without a TPU.

    python -m scripts.cluster.tpu_estimate [--models minilm,bert-base] [--chips v5e,v6e] [--devices 1,4] [--json FILE]

Compiles the model, or with ``--attention`` splash attention alone, for every shape of a batch. Prints whether it
compiles, the memory that it needs, its operations and bytes, and the resulting speed. Nothing is run, so nothing here
is a measurement. Requires libtpu: pip install 'tsjax[tpu]'.

Operations and bytes are the compiled program's own (``cost_analysis``), per device, with three corrections:

- A loop's body is counted once, regardless of its number of iterations, and with the parameters of all layers. So
  unrolled programs of one layer and of two are counted, and L layers follow from their difference: 251 MB for MiniLM at
  4 × 128, where six unrolled layers count 257.
- For a Pallas kernel the compiler counts neither operations (it reports −1) nor bytes, so `kernel_work` adds them.
- ``optimal_seconds`` is not used: it counts −1 s for each operation whose cost is unknown.

Two speeds follow from them, in tokens of full rows per second, padding included, for all devices together:

- The bound, which no run can exceed: matrix products at the chip's peak rate, or parameters read and vectors written
  once, whichever takes longer.
- The speed that the counts give: all operations at the peak rate, or all bytes from the chip's main memory. It is
  lower, and no bound: buffers that the compiler keeps in the vector memory are counted like the others.

Neither includes the vector unit, which the softmax and GELU keep busy, nor the start-up cost of a kernel's step.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tsjax.engine import shapes
from tsjax.engine.batching import Shape
from tsjax.engine.engine import TOKEN_BUDGET_ACCELERATOR
from tsjax.errors import is_installed
from tsjax.model.config import EncoderConfig, HeadConfig, ModelConfig
from tsjax.model.forward import Inputs, abstract_params, compiled_apply
from tsjax.model.kernels.splash import block_sizes, splash_attention, supports
from tsjax.model.packing import Packing
from tsjax.model.params import cast_params
from tsjax.model.sharding import mesh_of
from tsjax.storage.atomic import expanded, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The maximum length of both models.
MAX_LENGTH = 512

# Additional row lengths for splash attention, for models with longer texts.
LONG_ROWS = (Shape(32, 1024), Shape(16, 2048), Shape(4, 8192))

# `jax.lax.Precision.HIGHEST`, which computes true float32 products, takes six passes of bfloat16.
PASSES = {"bfloat16": 1, "float32": 6}


class Chip(NamedTuple):
    """Published figures of a chip.

    Attributes:
        operations: peak bfloat16 operations per second.
        bandwidth: bytes per second from and to the main memory.
        memory: bytes of main memory.
    """

    operations: float
    bandwidth: float
    memory: float


# https://docs.cloud.google.com/tpu/docs/v5e and https://docs.cloud.google.com/tpu/docs/v6e, "Key chip specifications"
CHIPS = {"v5e": Chip(197e12, 819e9, 16e9), "v6e": Chip(918e12, 1638e9, 32e9)}


def bert(layers: int, size: int) -> ModelConfig:
    """Return the config of a BERT with twelve heads and mean pooling."""
    return ModelConfig(
        encoder=EncoderConfig(
            vocab_size=30522,
            hidden_size=size,
            num_layers=layers,
            num_heads=12,
            intermediate_size=4 * size,
            max_positions=MAX_LENGTH,
            type_vocab_size=2,
        ),
        heads=(HeadConfig(kind="normalize", in_features=size, out_features=size),),
    )


MODELS = {"minilm": bert(6, 384), "bert-base": bert(12, 768)}


@dataclasses.dataclass
class Estimate:
    """The compiler's figures for one program; sizes and counts are per device.

    Attributes:
        program: the model, or ``attention`` and its heads.
        chip: the kind of chip.
        devices: number of devices.
        rows: rows of the global batch.
        tokens: tokens of each row.
        seconds: compilation time.
        error: the reason for a failed compilation; None if it succeeded.
        memory_bytes: memory that the program needs while it runs, parameters included.
        memory_share: the same as a share of the chip's memory.
        operations: operations of the program.
        bytes_accessed: bytes that the program accesses.
        bound_tokens_per_second: the bound.
        bound_by: the limit that gives the bound, ``operations`` or ``memory``.
        counted_tokens_per_second: the speed that the counts give.
    """

    program: str
    chip: str
    devices: int
    rows: int
    tokens: int
    seconds: float = 0.0
    error: str | None = None
    memory_bytes: int = 0
    memory_share: float = 0.0
    operations: float = 0.0
    bytes_accessed: float = 0.0
    bound_tokens_per_second: float = 0.0
    bound_by: str = ""
    counted_tokens_per_second: float = 0.0


class Work(NamedTuple):
    """A number of operations and of bytes."""

    operations: float
    bytes_accessed: float

    def seconds(self, chip: Chip, passes: int) -> float:
        """Return the time of a chip at its peak rates, with both kinds of work in parallel."""
        return max(self.operations * passes / chip.operations, self.bytes_accessed / chip.bandwidth)


def planned_shapes(devices: int) -> list[Shape]:
    """Return every shape of a batch that the planner can emit, in rows that the devices share evenly."""
    return list(shapes.multi_row_shapes(MAX_LENGTH, TOKEN_BUDGET_ACCELERATOR, devices).shapes)


def lower_model(config: ModelConfig, shape: Shape, mesh: Mesh, dtype: str) -> jax.stages.Lowered:
    """Lower a model for one shape of a batch of packed rows, split by rows over the devices of a mesh."""
    encoder = config.encoder
    slots = shapes.multi_row_shapes(MAX_LENGTH, TOKEN_BUDGET_ACCELERATOR).slots(shape)
    by_token: Any = jax.ShapeDtypeStruct(shape, jnp.int32)  # shapes stand for arrays
    by_text: Any = jax.ShapeDtypeStruct((shape.rows, slots), jnp.int32)
    params = jax.eval_shape(lambda: cast_params(config, _zeros(abstract_params(config)), jnp.dtype(dtype)))
    specs: tuple[Any, ...] = (
        params,
        Inputs(by_token, Packing(by_token, by_token, by_text, by_text), by_text),
        jax.ShapeDtypeStruct((encoder.num_layers, encoder.num_heads), jnp.float32),
        jax.ShapeDtypeStruct(by_text.shape, jnp.float32),
    )
    placed = _placed(specs, (P(), P("rows"), P(), P("rows")), mesh)
    return compiled_apply.lower(*placed, config=config, kernel="splash", mesh=mesh)


def lower_attention(heads: int, head_size: int, shape: Shape, mesh: Mesh, dtype: str) -> jax.stages.Lowered:
    """Lower splash attention alone."""
    assert supports(shape.tokens, heads, head_size, biased=False)
    operand = jax.ShapeDtypeStruct((*shape, heads, head_size), jnp.dtype(dtype))
    specs = (operand, operand, operand, jax.ShapeDtypeStruct(shape, jnp.int32))
    return _lower(splash_attention, specs, (P("rows"),) * 4, mesh)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _lower(function: Any, specs: tuple[Any, ...], places: tuple[P, ...], mesh: Mesh) -> jax.stages.Lowered:
    split = jax.shard_map(function, mesh=mesh, in_specs=places, out_specs=P("rows"), check_vma=False)
    return jax.jit(split).lower(*_placed(specs, places, mesh))


def _placed(specs: tuple[Any, ...], places: tuple[P, ...], mesh: Mesh) -> list[Any]:
    return [
        jax.tree.map(lambda x, at=at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, at)), spec)
        for spec, at in zip(specs, places, strict=True)
    ]


def kernel_work(rows: int, tokens: int, heads: int, head_size: int, itemsize: int) -> Work:
    """Return the work of one call of the splash attention kernel, which the compiler does not count.

    Operations are those of its two matrix products, logits and mixed values, for all pairs of a row's tokens: it skips
    no block because of segments.

    Bytes are those of its blocks, which are fetched when the next step of the grid (row, head, block of queries, block
    of keys) needs another one. So keys and values are read once, or once per block of queries where they have several
    blocks. Segments, int32 along 128 lanes for queries and 8 sublanes for keys, are read once per row, or once per head
    where there are several blocks. Results are written once: the mixed values, their lanes filled up to 128, and for
    each row the kernel's three float32 accumulators.
    """
    blocks = block_sizes(tokens, head_size, windowed=False)
    of_queries, of_keys = tokens // blocks.block_q, tokens // blocks.block_kv
    lanes = math.ceil(head_size / 128) * 128
    values = rows * heads * tokens * itemsize
    read = values * head_size * (1 + 2 * (of_queries if of_keys > 1 else 1))
    read += rows * tokens * 128 * 4 * (heads if of_queries > 1 else 1)
    read += rows * tokens * 8 * 4 * (heads * of_queries if of_keys > 1 else 1)
    written = values * lanes + rows * blocks.block_q * (128 + 128 + lanes) * 4
    return Work(4 * rows * heads * tokens**2 * head_size, read + written)


def least_work(config: ModelConfig, rows: int, tokens: int, dtype: str) -> Work:
    """Return the minimum work of a program for the model: matrix products, parameters read and vectors written once.

    The embedding tables are omitted, because only some of their rows are read.
    """
    encoder = config.encoder
    size, width = encoder.hidden_size, encoder.num_heads * encoder.head_dim
    layer = 8 * size * width + 4 * size * encoder.intermediate_size + 4 * tokens * width
    params = jax.eval_shape(lambda: cast_params(config, _zeros(abstract_params(config)), jnp.dtype(dtype)))
    params["encoder"].pop("embeddings")
    read = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return Work(encoder.num_layers * layer * rows * tokens, read + rows * config.embedding_dimension * 4)


def counted(compiled: jax.stages.Compiled) -> Work:
    """Return the compiler's own counts."""
    costs = compiled.cost_analysis() or {}
    return Work(max(costs.get("flops", 0.0), 0.0), costs["bytes accessed"])


def has_kernel(compiled: jax.stages.Compiled) -> bool:
    """Return whether a Pallas kernel is part of a program."""
    return 'custom_call_target="tpu_custom_call"' in (compiled.as_text() or "")


def model_work(config: ModelConfig, shape: Shape, mesh: Mesh, dtype: str) -> Work:
    """Return the operations and bytes of a model, per device."""

    def of_layers(layers: int) -> tuple[Work, bool]:
        shallow = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, num_layers=layers))
        with mock.patch.object(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True)):
            compiled = lower_model(shallow, shape, mesh, dtype).compile()
        return counted(compiled), has_kernel(compiled)

    (one, splash), (two, _) = of_layers(1), of_layers(2)
    encoder = config.encoder
    rows, itemsize = shape.rows // mesh.size, jnp.dtype(dtype).itemsize
    again = encoder.num_layers - 1
    work = Work(*(a + again * (b - a) for a, b in zip(one, two, strict=True)))
    if not splash:
        return work
    kernel = kernel_work(rows, shape.tokens, encoder.num_heads, encoder.head_dim, itemsize)
    return Work(*(a + encoder.num_layers * b for a, b in zip(work, kernel, strict=True)))


def estimate(program: str, chip: str, mesh: Mesh, shape: Shape, dtype: str) -> Estimate:
    """Compile one program and return its estimate."""
    result = Estimate(program, chip, mesh.size, *shape)
    rows, itemsize, start = shape.rows // mesh.size, jnp.dtype(dtype).itemsize, time.perf_counter()
    try:
        if program in MODELS:
            config = MODELS[program]
            compiled = lower_model(config, shape, mesh, dtype).compile()
            result.seconds = time.perf_counter() - start
            work, least = model_work(config, shape, mesh, dtype), least_work(config, rows, shape.tokens, dtype)
        else:
            heads, head_size = map(int, program.removeprefix("attention ").split("×"))
            compiled = lower_attention(heads, head_size, shape, mesh, dtype).compile()
            result.seconds = time.perf_counter() - start
            kernel = kernel_work(rows, shape.tokens, heads, head_size, itemsize)
            work = Work(*(a + b for a, b in zip(counted(compiled), kernel, strict=True)))
            least = Work(kernel.operations, 4 * rows * shape.tokens * heads * head_size * itemsize)
    except jax.errors.JaxRuntimeError as error:
        result.error = str(error).splitlines()[0]
        return result
    memory = compiled.memory_analysis()
    assert memory is not None, "the TPU's compiler says no memory"
    result.memory_bytes = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        - memory.alias_size_in_bytes
    )
    result.memory_share = result.memory_bytes / CHIPS[chip].memory
    result.operations, result.bytes_accessed = work
    tokens, passes = shape.rows * shape.tokens, PASSES[dtype]
    result.bound_tokens_per_second = tokens / least.seconds(CHIPS[chip], passes)
    computing = least.operations * passes / CHIPS[chip].operations >= least.bytes_accessed / CHIPS[chip].bandwidth
    result.bound_by = "operations" if computing else "memory"
    result.counted_tokens_per_second = tokens / work.seconds(CHIPS[chip], passes)
    return result


def meshes(chip: str, counts: Sequence[int]) -> Iterator[Mesh]:
    """Yield meshes of the given numbers of chips of a described machine of 2 × 2."""
    # libtpu would otherwise query the machine for these settings. It needs no device, so other processes may use it.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:2x2").devices
    for count in counts:
        yield mesh_of(devices[:count])


def show(result: Estimate) -> str:
    """Return a line of the table."""
    start = f"{result.chip} × {result.devices}  {result.rows:5d} × {result.tokens:<5d}"
    if result.error is not None:
        return f"{start}  does not compile: {result.error}"
    return (
        f"{start}{result.seconds:8.1f}{result.memory_bytes / 1e6:9.0f}{result.memory_share:7.1%}"
        f"{result.operations / 1e9:12.1f}{result.bytes_accessed / 1e6:11.0f}"
        f"{result.bound_tokens_per_second:15,.0f} ({result.bound_by}){'':{11 - len(result.bound_by)}}"
        f"{result.counted_tokens_per_second:15,.0f}"
    )


def write(results: Sequence[Estimate], dtype: str, path: Path) -> None:
    """Write the figures so far, so that an interrupted run keeps them."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    about = {"what": "compiled, not run: bounds and counts, no measurements", "dtype": dtype, **versions}
    chips = {name: chip._asdict() for name, chip in CHIPS.items()}
    text = json.dumps({**about, "chips": chips, "estimates": [dataclasses.asdict(r) for r in results]}, indent=1)
    with replacing(path, overwrite=True) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def shape_of(text: str) -> Shape:
    """Parse ``64x512`` as a shape."""
    rows, tokens = text.split("x")
    return Shape(int(rows), int(tokens))


def main() -> None:
    """Print the table, and write it on request; exit with an error where a program does not compile or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", metavar="NAME,…", default="minilm,bert-base", help=" or ".join(MODELS))
    parser.add_argument("--chips", metavar="NAME,…", default="v5e,v6e", help=" or ".join(CHIPS))
    parser.add_argument("--devices", metavar="N,…", default="1,4", help="chips that share a batch, up to 4")
    parser.add_argument("--dtype", choices=PASSES, default="bfloat16")
    parser.add_argument("--shapes", metavar="ROWSxTOKENS,…", help="instead of those that the planner emits")
    parser.add_argument("--attention", action="store_true", help="splash attention alone, with the models' heads")
    parser.add_argument("--json", metavar="FILE", type=expanded, help="write the figures there as well, row by row")
    options = parser.parse_args()
    if not is_installed("libtpu"):
        sys.exit("tpu_estimate needs the TPU's compiler, libtpu: pip install 'tsjax[tpu]'")
    jax.config.update("jax_platforms", "cpu")

    results = []
    counts = [int(n) for n in options.devices.split(",")]
    for name in options.models.split(","):
        encoder = MODELS[name].encoder
        program = f"attention {encoder.num_heads}×{encoder.head_dim}" if options.attention else name
        print(f"\n{program}, {options.dtype}; a device's memory, operations and bytes; no measurements")
        print(
            f"{'chips':9}{'rows × tokens':>13}{'compiled':>8}{'memory':>9}{'':7}{'operations':>12}{'bytes':>11}", end=""
        )
        print(f"{'UPPER BOUND, tokens/s':>28}{'by the counts':>15}")
        print(f"{'':22}{'s':>8}{'MB':>9}{'of it':>7}{'10⁹':>12}{'MB':>11}")
        for chip in options.chips.split(","):
            for mesh in meshes(chip, counts):
                shapes = planned_shapes(mesh.size) + list(LONG_ROWS if options.attention else ())
                if options.shapes is not None:
                    shapes = [shape_of(text) for text in options.shapes.split(",")]
                for shape in shapes:
                    if options.attention and not supports(shape.tokens, 12, encoder.head_dim, biased=False):
                        continue
                    results.append(estimate(program, chip, mesh, shape, options.dtype))
                    print(show(results[-1]), flush=True)
                    if options.json is not None:
                        write(results, options.dtype, options.json)
    if bad := [r for r in results if r.error is not None or r.memory_share > 1]:
        sys.exit(f"{len(bad)} of {len(results)} programs do not compile or do not fit")


if __name__ == "__main__":
    main()
