"""Connection to a Ray cluster, and the resources of its actors. This module does not depend on texts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from tsjax.errors import InputError, require_optional
from tsjax.validation.numbers import finite_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Resources that Ray takes as separate keywords. All others go into its ``resources``.
_OWN_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}

# Maximum number of seconds to wait for a cluster's answer.
_PATIENCE = 20.0

# The layout of the chips of a complete TPU host by their number, for the TPU runtime.
_CHIP_BOUNDS = {4: "2,2,1", 8: "2,4,1"}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster.

    An existing connection of this process is used. Otherwise a new connection lasts for the block.

    Args:
        address: ``host:port``, ``auto``, or None for the address in RAY_ADDRESS, the cluster of this machine, or a new
            cluster on this machine alone.

    Raises:
        InputError: no cluster can be reached, or an address is given although this process is already connected.
        MissingExtraError: Ray is not installed.
    """
    require_optional("ray.data", extra="ray", feature="the engine ray")
    import ray  # noqa: PLC0415  # an extra

    if ray.is_initialized():
        if address is not None:
            raise InputError(f"this process is connected to a Ray cluster already; leave the address {address} out")
        yield ray
        return
    _check_answers(address or os.environ.get("RAY_ADDRESS", ""))
    # This affects only a cluster that is started here. No usage data is sent unless the user asks for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        # The output of actors stays in Ray's logs. Errors are returned as results.
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "" if address is None else f" at {address}"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"no Ray cluster can be used{where}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise an InputError at once if the address does not answer. Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # e.g. auto, or the address format of a plug-in
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address}: {error}") from error


def parse_resources(text: str) -> dict[str, float]:
    """Parse an actor's resources from JSON such as ``{"TPU": 4}``.

    Raises:
        InputError: the text is not a JSON object of names and numbers.
    """
    try:
        resources = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"""resources are JSON such as {{"TPU": 4}} or {{"GPU": 1}}, not {text!r:.60}""") from error
    return check_resources(resources)


def check_resources(resources: object) -> dict[str, float]:
    """Check that resources are names with numbers >= 0, at least one of them > 0, and return them.

    Raises:
        InputError: the resources are invalid.
    """
    if not isinstance(resources, dict) or not resources:
        raise InputError(f"""resources are names with numbers, such as {{"TPU": 4}}, not {resources!r:.60}""")
    for name, number in resources.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"a resource has a name, such as GPU, not {name!r:.60}")
        finite_number(f"the number of the resource {name}", number)
    if not any(resources.values()):
        raise InputError("an actor needs some resource, or any number of them would run at once")
    return dict(resources)


def remote_arguments(resources: Mapping[str, float]) -> dict[str, Any]:
    """Convert resources to Ray's keywords."""
    own = {_OWN_NAMES[name]: number for name, number in resources.items() if name in _OWN_NAMES}
    # Ray counts only integer CPUs, and one for each actor that requests nothing. An actor with a device requests none.
    others = {name: number for name, number in resources.items() if name not in _OWN_NAMES}
    return {"num_cpus": 0, **own, **({"resources": others} if others else {})}


def usual_resources(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the default resources of an actor: one GPU, or a host's TPU chips, or the CPUs of a node.

    Args:
        nodes: the resources of each node.
    """
    if any(node.get("GPU", 0) >= 1 for node in nodes):
        return {"GPU": 1}
    for name in ("TPU", "CPU"):
        if found := [node[name] for node in nodes if node.get(name, 0) >= 1]:
            return {name: min(found)}
    return {"CPU": 1}


def fitting(resources: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of actors with these resources that fit on the nodes."""
    needs = {name: number for name, number in resources.items() if number}
    return sum(int(min(node.get(name, 0) // number for name, number in needs.items())) for node in nodes)


def settle_process(resources: Mapping[str, float]) -> None:
    """Limit this process, which runs an actor, to its share of the node. Call this before JAX looks for devices."""
    cpus, gpus, chips = (resources.get(name, 0) for name in ("CPU", "GPU", "TPU"))
    if set(resources) == {"CPU"}:
        # JAX and the tokenizers size their thread pools by these variables, which do not change the bits of a vector.
        # Ray sets only the variable of OpenMP.
        for name in ("NPROC", "RAYON_NUM_THREADS"):
            os.environ.setdefault(name, str(max(1, int(cpus))))
    if 0 < gpus < 1:
        # By default JAX reserves three quarters of a GPU's memory at once, even if other processes share the GPU.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.75 * gpus:.3f}")
    if chips in _CHIP_BOUNDS:
        # Present the host to the TPU runtime as a separate slice. Otherwise it would wait for all hosts of the slice.
        os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0", "CLOUD_TPU_TASK_ID": "0"}
        os.environ.setdefault("TPU_PROCESS_BOUNDS", "1,1,1")
        os.environ.setdefault("TPU_CHIPS_PER_PROCESS_BOUNDS", _CHIP_BOUNDS[int(chips)])
        os.environ.setdefault("TPU_VISIBLE_CHIPS", ",".join(map(str, range(int(chips)))))
