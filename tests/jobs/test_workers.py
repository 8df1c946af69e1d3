import pytest

from tsjax.errors import InputError
from tsjax.jobs.plan import Worker, parse_worker
from tsjax.jobs.run import worker_identity as workers
from tsjax.jobs.run.worker_identity import find_worker


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "7",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (2, 4),
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, (1, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_PROCID": "1", "SLURM_NTASKS": "4"},
            (9, 12),
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
            (2, 3),
        ),
        ({"JOB_COMPLETION_INDEX": "7", "JOB_COMPLETIONS": "8"}, (7, 8)),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}, (1, 4)),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
    ],
)
def test_what_the_surroundings_say(environment, worker):
    found = find_worker(environment)
    assert (found and found.worker) == (worker and Worker(*worker))
    if found is not None:
        assert any(name in found.by for name in environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT does not say of how many"),
        ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETIONS does not say of how many"),
        ({"JOB_COMPLETION_INDEX": "8", "JOB_COMPLETIONS": "8"}, "says worker 8 of 8"),
        ({"RANK": "x", "WORLD_SIZE": "8"}, "RANK is 'x', not a number"),
        (
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MAX": "9"},
            "not numbered evenly",
        ),
    ],
)
def test_what_says_too_little(environment, message):
    with pytest.raises(InputError, match=message):
        find_worker(environment)


def test_jax_distributed_comes_first(monkeypatch):
    import jax

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    found = find_worker({"RANK": "0", "WORLD_SIZE": "9"})
    assert found == (Worker(2, 3), "jax.distributed")


def test_a_worker_that_is_said():
    assert parse_worker("3/8") == Worker(3, 8)
    assert str(Worker(3, 8)) == "00003-of-00008"
    for text in ("8/8", "3", "a/b", "-1/8", "3/0", "1/2/3"):
        with pytest.raises(InputError):
            parse_worker(text)


def test_the_command_says_what_it_found(tmp_path, monkeypatch, capsys):
    from tsjax.cli.batch import _worker
    from tsjax.jobs.run.progress import Reporter

    monkeypatch.setattr(workers.os, "environ", {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "2"})
    assert _worker("auto", Reporter()) == Worker(1, 2)
    assert "worker 1 of 2, by JOB_COMPLETION_INDEX" in capsys.readouterr().err
    assert _worker(None, Reporter()) == Worker()
    assert "but all is embedded here; --shard auto would share it out" in capsys.readouterr().err
    assert _worker("0/3", Reporter()) == Worker(0, 3)
    monkeypatch.setattr(workers.os, "environ", {})
    with pytest.raises(InputError, match="--shard auto found no worker"):
        _worker("auto", Reporter())
