"""Jobs killed at any moment and restarted, which end with the bytes of a job that was not killed."""

import os
import random
import signal
import time

import pytest

from tests.support import batch_jobs

KILLS = 20

# Some shards have fewer rows than a range: they are cut by bytes of text.
MORE = ("--id-column", "id", "--keep", "title", "--bytes-per-shard", "900")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    jobs = batch_jobs.Jobs(tmp_path_factory.mktemp("jobs"))
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=600)


@pytest.fixture(scope="module")
def whole(model, corpus, jobs, tmp_path_factory):
    """Return an undisturbed output, and the time that a run takes once there is a manifest."""
    for name in ("first", "second"):  # the first run compiles, and keeps the programs
        output = tmp_path_factory.mktemp("whole") / name
        process = jobs.start(*batch_jobs.arguments(model, corpus, output, *MORE))
        wait_for_work(process, output, "manifest.json")
        start = time.monotonic()
        assert process.status() == 0, process.stderr()
    return batch_jobs.contents(output), time.monotonic() - start


def wait_for_work(process, output, manifest):
    while process.alive() and not (output / manifest).exists():
        time.sleep(0.002)


def wait_for_shards(process, output, count):
    while process.alive() and shards_in(output) < count:
        time.sleep(0.002)


def shards_in(output):
    return len(list((output / "records").glob("*")))


@pytest.mark.slow
def test_twenty_kills(model, corpus, jobs, whole, tmp_path):
    expected, seconds = whole
    shards = [name for name in expected if name.startswith("records/")]
    rng = random.Random(5)
    kills, shards_at_kills, output = 0, [], None
    while kills < KILLS:
        output = tmp_path / f"out-{kills}"
        command = batch_jobs.arguments(model, corpus, output, *MORE)
        # Each output has a few kills, and then runs to the end.
        for _ in range(rng.randint(2, 5)):
            process = jobs.start(*command)
            wait_for_work(process, output, "manifest.json")
            # Wait for some shard and a moment of the next, however busy the machine is.
            wait_for_shards(process, output, rng.randint(shards_in(output), len(shards)))
            time.sleep(rng.uniform(0, seconds / len(shards)))
            process.kill()
            if process.status() is None:
                kills += 1
                shards_at_kills.append(shards_in(output))
        process = jobs.start(*command)
        assert process.status() == 0, process.stderr()
        assert batch_jobs.contents(output) == expected
    assert batch_jobs.run("batch", "verify", output) == 0
    # The kills came during the work, and not all before or after it.
    assert len(set(shards_at_kills)) > 4
    assert not list((output / ".tsjax").glob("*/*"))


def test_four_workers_of_which_one_is_killed_and_restarted(model, corpus, jobs, whole, tmp_path):
    expected, seconds = whole
    output = tmp_path / "out"
    commands = [
        batch_jobs.arguments(model, corpus, output, *MORE, "--shard", f"{index}/4", "--rows-per-shard", "16")
        for index in range(4)
    ]
    processes = [jobs.start(*command) for command in commands]
    wait_for_work(processes[2], output, "manifest-00002-of-00004.json")
    time.sleep(seconds / 8)
    processes[2].kill()
    assert processes[2].status() is None
    assert batch_jobs.run("batch", "verify", output) == 2  # its shards are missing, whatever the other workers do
    again = jobs.start(*commands[2])
    for process in [processes[0], processes[1], again, processes[3]]:
        assert process.status() == 0, process.stderr()
    assert not (output / "manifest.json").exists()
    assert batch_jobs.run("batch", "verify", output) == 0
    found = batch_jobs.contents(output)
    shards = {name: content for name, content in expected.items() if "shard-" in name}
    assert {name: content for name, content in found.items() if "shard-" in name} == shards
    assert found["rejected.jsonl"] == expected["rejected.jsonl"]  # merged
    assert found["manifest.json"] == expected["manifest.json"]
    assert [name for name in found if name.startswith("manifest-")] == [
        f"manifest-{index:05d}-of-00004.json" for index in range(4)
    ]


@pytest.mark.slow
def test_a_second_process_on_the_same_output_is_refused(model, corpus, jobs, tmp_path):
    command = batch_jobs.arguments(model, corpus, tmp_path / "out")
    first = jobs.start(*command)
    wait_for_work(first, tmp_path / "out", "manifest.json")
    os.kill(first.pid, signal.SIGSTOP)  # so that it does not end while the second waits for it
    second = jobs.start(*command)
    assert second.status() == 2
    os.kill(first.pid, signal.SIGCONT)
    assert "another process is writing to" in second.stderr()
    assert first.status() == 0, first.stderr()
