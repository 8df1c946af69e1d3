"""Detection of the worker that this process is, from the environment that a scheduler has set."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tsjax.errors import InputError
from tsjax.jobs.plan import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping


class Found(NamedTuple):
    """A worker and the source that identified it."""

    worker: Worker
    by: str


def find_worker(environment: Mapping[str, str] | None = None) -> Found | None:
    """Return the worker that the environment says this process is; None if it says nothing.

    The sources are tried in this order:

    1. `jax.distributed`, if it is initialised;
    2. a Slurm array, the tasks of a Slurm step, or an array of such steps;
    3. a Kubernetes indexed job; JOB_COMPLETIONS is set only if the job's manifest sets it;
    4. the hosts of a TPU slice;
    5. RANK and WORLD_SIZE;
    6. OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE.

    A source that says there is only one worker is ignored.

    Raises:
        InputError: the environment is contradictory, or gives the worker's index but not the number of workers.
    """
    env = os.environ if environment is None else environment
    for find in (_jax_distributed, _slurm, _kubernetes, _tpu, _ranks):
        found = find(env)
        if found is not None and found.worker.count > 1:
            return found
    return None


def _jax_distributed(env: Mapping[str, str]) -> Found | None:
    del env
    jax: Any = sys.modules.get("jax")  # initialised only if it has been imported
    if jax is None or not jax.distributed.is_initialized():
        return None
    return _found(jax.process_index(), jax.process_count(), "jax.distributed")


def _slurm(env: Mapping[str, str]) -> Found | None:
    array, step = _slurm_array(env), _slurm_step(env)
    if array is None or step is None or step.worker.count == 1:
        return array or step
    if array.worker.count == 1:
        return step
    tasks = step.worker.count
    index = array.worker.index * tasks + step.worker.index
    return _found(index, array.worker.count * tasks, f"{array.by} and {step.by}")


def _slurm_array(env: Mapping[str, str]) -> Found | None:
    index = _number(env, "SLURM_ARRAY_TASK_ID")
    if index is None:
        return None
    count = _needed(env, "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_ID")
    first, last = _number(env, "SLURM_ARRAY_TASK_MIN") or 0, _number(env, "SLURM_ARRAY_TASK_MAX")
    step = _number(env, "SLURM_ARRAY_TASK_STEP") or 1
    if (last is not None and last != first + step * (count - 1)) or (index - first) % step:
        raise InputError(
            f"the Slurm array's {count} tasks are not numbered evenly, so that {index} does not tell which it is; "
            "say --shard i/n"
        )
    return _found((index - first) // step, count, "SLURM_ARRAY_TASK_ID")


def _slurm_step(env: Mapping[str, str]) -> Found | None:
    index = _number(env, "SLURM_PROCID")
    if index is None:
        return None
    # srun sets the number of the step's tasks. SLURM_NTASKS counts the allocation, of which a step may use a part.
    count = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS")
    return None if count is None else _found(index, count, "SLURM_PROCID")


def _kubernetes(env: Mapping[str, str]) -> Found | None:
    index = _number(env, "JOB_COMPLETION_INDEX")
    if index is None:
        return None
    return _found(index, _needed(env, "JOB_COMPLETIONS", "JOB_COMPLETION_INDEX"), "JOB_COMPLETION_INDEX")


def _tpu(env: Mapping[str, str]) -> Found | None:
    index, hosts = _number(env, "TPU_WORKER_ID"), env.get("TPU_WORKER_HOSTNAMES")
    if index is None or not hosts:
        return None
    return _found(index, len(hosts.split(",")), "TPU_WORKER_ID and TPU_WORKER_HOSTNAMES")


def _ranks(env: Mapping[str, str]) -> Found | None:
    for rank, size in (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if (index := _number(env, rank)) is not None and (count := _number(env, size)) is not None:
            return _found(index, count, f"{rank} and {size}")
    return None


def _found(index: int, count: int, by: str) -> Found:
    if not 0 <= index < count:
        raise InputError(f"{by} says worker {index} of {count}, counted from 0; say --shard i/n")
    return Found(Worker(index, count), by)


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name)
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name} is {value!r}, not a number; say --shard i/n") from None


def _needed(env: Mapping[str, str], name: str, beside: str) -> int:
    value = _number(env, name)
    if value is None:
        raise InputError(f"{beside} says which worker this is, but {name} does not say of how many; say --shard i/n")
    return value
