"""Scripts that an operator runs for a job on many machines, as far as they can run on one."""

import subprocess
from pathlib import Path

import pytest
import yaml

import tsjax
from tsjax.cli.main import _parser
from tsjax.jobs.plan import Worker
from tsjax.jobs.run.worker_identity import find_worker

SCRIPTS = Path(__file__).parents[2] / "scripts" / "cluster"
TPU_SCRIPT = SCRIPTS / "tpu_batch_job.sh"

# A stand-in for gcloud: a slice of hosts. A command for one of them runs here, with a separate home and tsjax.
_GCLOUD = """#!/usr/bin/env bash
case "$*" in
  *"tpu-vm ssh"*) export HOME=$FAKE_HOME; bash -c "${@: -1}" ;;
  *describe*) echo "${FAKE_HOSTS:-3}" ;;
  "storage cp gs://"*) cp "$FAKE_BUCKET/$(basename "$3")" "$4" ;;
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


# A stand-in for pip that records its arguments.
_PIP = """#!/usr/bin/env bash
echo "$*" >> "$HOME/pip"
"""


def test_a_new_wheel_takes_the_place_of_the_one_before(tmp_path):
    home, bucket = tmp_path / "home", tmp_path / "bucket"
    executable(tmp_path / "bin" / "gcloud", _GCLOUD)
    executable(tmp_path / "bin" / "find", _FIND)
    executable(home / "tsjax" / "bin" / "tsjax", _TSJAX)
    executable(home / "tsjax" / "bin" / "pip", _PIP)
    bucket.mkdir()

    def installed(name, content):
        """Return the arguments of pip in a job with this wheel."""
        (home / "pip").write_text("")
        (bucket / name).write_text(content)
        environment = {"FAKE_HOME": str(home), "FAKE_STATUS": "0", "FAKE_HOSTS": "1", "FAKE_BUCKET": str(bucket)}
        environment["TSJAX_WHEEL"] = f"gs://bucket/{name}"
        subprocess.run(
            [TPU_SCRIPT, "slice", "zone", "gs://b/a.parquet", "/mnt/out"],
            capture_output=True,
            check=True,
            env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **environment},
        )
        return (home / "pip").read_text().splitlines()

    first, second = "tsjax-0.1.0-py3-none-any.whl", "tsjax-0.2.0-py3-none-any.whl"
    for name, content in ((first, "old"), (second, "new"), (second, "mended, under the same version")):
        assert installed(name, content) == [
            f"install --quiet {home}/{name}[tpu,batch] gcsfs",
            f"install --quiet --force-reinstall --no-deps {home}/{name}",
        ]
        assert installed(name, content) == []  # It is installed already.


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
    assert pod["restartPolicy"] == "Never"  # which backoffLimitPerIndex requires
    (container,) = pod["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert find_worker({**environment, "JOB_COMPLETION_INDEX": "3"}).worker == Worker(3, count)
    # A preempted pod costs no attempt; tsjax would refuse again what it has refused.
    ignored, refused = job["spec"]["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    codes = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert refused == {"action": "FailJob", "onExitCodes": codes}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    for resource, amount in container["resources"]["limits"].items():
        assert container["resources"]["requests"].get(resource, amount) == amount
    # The shell's words after `exec tsjax`, which the command line must understand.
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
    # Pods that start at different times are the same job only with the same versions.
    assert f"batch]=={tsjax.__version__}' 'jax==" in script
    # A failed installation, for which pip also ends with 2, may succeed the next time.
    failed = subprocess.run(["sh", "-c", script.replace("pip install", "sh -c 'exit 2'")], check=False)
    assert failed.returncode == 1
