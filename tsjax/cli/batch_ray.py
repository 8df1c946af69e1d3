"""``tsjax batch --engine ray``: its options, and the engine that they configure."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import load_keywords
from tsjax.errors import InputError

if TYPE_CHECKING:
    from tsjax.jobs.ray.driver import RayRunner


def add_engine_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process (default); ray: actors on a Ray cluster, by the extra tsjax[ray]; model, inputs and "
        "output have to be on storage that every node has at the same paths",
    )
    group.add_argument(
        "--address",
        metavar="A",
        help="of the Ray cluster: host:port or auto (default: $RAY_ADDRESS, this machine's cluster, or a new one)",
    )
    group.add_argument(
        "--resources",
        metavar="JSON",
        help="""of each actor, by Ray's names: '{"TPU": 4}' for a TPU host, '{"GPU": 1}', '{"CPU": 8}' (default: a """
        "GPU, or a TPU host's chips, or a node's CPUs, whichever the cluster has)",
    )
    group.add_argument(
        "--concurrency", metavar="N", type=int, help="how many actors (default: as many as the cluster has room for)"
    )


def check_engine_options(options: argparse.Namespace) -> None:
    """Reject options that the chosen engine does not have."""
    if options.engine == "ray":
        if options.shard is not None:
            raise InputError("--shard is for workers that know nothing of each other; --engine ray shares the job out")
        return
    for name in ("address", "resources", "concurrency"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} has a meaning only with --engine ray")


def ray_runner(asked: argparse.Namespace, **arguments: Any) -> RayRunner:
    """Return the engine for Ray, with the other arguments of `RayRunner` unchanged."""
    from tsjax.jobs.ray.actors import ModelSource
    from tsjax.jobs.ray.cluster import parse_resources
    from tsjax.jobs.ray.driver import Pool, RayRunner

    resources = None if asked.resources is None else parse_resources(asked.resources)
    source = ModelSource(
        model=asked.model,
        options=load_keywords(asked),
        task=asked.task,
        prompt_name=asked.prompt_name,
        prompt=asked.prompt,
        compile_cache=not asked.no_compile_cache,
        folder=os.getcwd(),  # noqa: PTH109
    )
    return RayRunner(source, pool=Pool(asked.address, resources, asked.concurrency), **arguments)
