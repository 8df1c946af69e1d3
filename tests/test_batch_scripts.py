"""What an operator runs for a job on many machines, as far as it can run on one."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tsjax.cli import _parser
from tsjax.jobs.plan import Worker
from tsjax.jobs.workers import find_worker

SCRIPTS = Path(__file__).parent.parent / "scripts"
TPU_SCRIPT = SCRIPTS / "tpu_batch_job.sh"

# Stands for gcloud: a slice of three hosts; what is run on one of them is run here, with a home and a tsjax of its own.
_GCLOUD = """#!/usr/bin/env bash
case "$*" in
  *describe*) echo 3 ;;
  *"tpu-vm ssh"*) export HOME=$FAKE_HOME; bash -c "${@: -1}" ;;
esac
"""
_TSJAX = """#!/usr/bin/env bash
mkdir -p "$HOME/calls"
printf '%s|' "$TPU_PROCESS_BOUNDS" "$TPU_CHIPS_PER_PROCESS_BOUNDS" "$TPU_VISIBLE_CHIPS" "$@" > "$HOME/calls/$$"
case "$*" in *1/3*) exit "$FAKE_STATUS" ;; esac
"""
_FIND = "#!/usr/bin/env bash\nprintf '/dev/accel%s\\n' 0 1 2 3\n"


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("status", [0, 1])
def test_every_host_of_a_slice_is_a_worker(tmp_path, status):
    executable(tmp_path / "bin" / "gcloud", _GCLOUD)
    executable(tmp_path / "bin" / "find", _FIND)
    executable(tmp_path / "home" / "tsjax" / "bin" / "tsjax", _TSJAX)
    process = subprocess.run(
        [TPU_SCRIPT, "slice", "zone", "gs://b/a b*.parquet", "/mnt/out", "--template", "{a}'\n{b}"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "FAKE_HOME": str(tmp_path / "home"),
            "FAKE_STATUS": str(status),
        },
    )
    assert process.returncode == status, process.stderr
    calls = sorted(path.read_text() for path in (tmp_path / "home" / "calls").iterdir())
    bounds = "1,1,1|2,2,1|0,1,2,3|"
    expected = [
        f"{bounds}batch|--input|gs://b/a b*.parquet|--output|/mnt/out|--shard|{index}/3|--dtype|bfloat16|"
        "--template|{a}'\n{b}|"
        for index in range(3)
    ]
    assert [call for call in calls if "--shard" in call] == expected
    assert [call for call in calls if "verify" in call] == ([] if status else ["|||batch|verify|/mnt/out|"])
    assert ("worker 1 failed; start the same command again" in process.stderr) == bool(status)


def test_a_script_without_arguments_says_what_it_wants():
    process = subprocess.run([TPU_SCRIPT], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "TPU_NAME ZONE" in process.stderr


@pytest.mark.parametrize("name", ["gpu_job.yaml", "tpu_job.yaml"])
def test_an_indexed_job_of_kubernetes(name):
    job = yaml.safe_load((SCRIPTS / "k8s" / name).read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which backoffLimitPerIndex asks for
    (container,) = pod["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert find_worker({**environment, "JOB_COMPLETION_INDEX": "3"}).worker == Worker(3, count)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    for resource, amount in container["resources"]["limits"].items():
        assert container["resources"]["requests"].get(resource, amount) == amount
    # The shell's words after `exec tsjax`, which the command line has to understand.
    (script,) = container["args"]
    printed = subprocess.run(
        ["sh", "-c", script.replace("pip install", "true").replace("exec tsjax", "printf '%s\\n'")],
        capture_output=True,
        text=True,
        check=True,
    )
    options = _parser().parse_args(printed.stdout.splitlines())
    assert options.shard == "auto"
    assert options.output.startswith(mounts["data"])
