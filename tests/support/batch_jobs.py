"""A small model and a small corpus, and jobs over them, in this process or in others that can be killed."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

from conversion.convert import convert
from tests.support.checkpoints import WORDS, write_sentence_transformers
from tsjax.cli.main import main


def make_model(folder):
    """Write a converted checkpoint whose vectors have norm 1."""
    source = write_sentence_transformers(folder / "source", heads=[("Normalize", {})])
    convert(source, folder / "model")
    return folder / "model"


def make_text(rng, least=1, most=25):
    return " ".join(rng.choice(WORDS.split()) for _ in range(rng.randint(least, most)))


def write_corpus(folder, rows=240, seed=0):
    """Write two JSONL files, with bad rows and duplicates; return their paths."""
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    paths = []
    for part in range(2):
        lines = []
        for row in range(rows // 2):
            text = None if row % 37 == 5 else "the same" if row % 10 == 3 else make_text(rng)
            lines.append(json.dumps({"id": f"{part}-{row}", "text": text, "title": f"title {row}"}))
        lines[7] = '{"id": "broken"'
        path = folder / f"part{part}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        paths.append(str(path))
    return paths


def arguments(model, inputs, output, *more):
    return [
        *("batch", "--input", *map(str, inputs), "--output", str(output), "--model", str(model)),
        *("--rows-per-shard", "16", *more),
    ]


def run(*arguments_):
    """Run the command in this process; return its exit status."""
    return main([str(argument) for argument in arguments_])


def contents(output):
    """Return every file of an output by its name, except hidden ones."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(Path(output).rglob("*"))
        if path.is_file() and ".tsjax" not in path.parts
    }


# A process that has imported everything and forks one process for each job, so that jobs start at once.
_ZYGOTE = """
import json, os, resource, signal, sys
import pyarrow.parquet, filelock
import tsjax.api, tsjax.encoders.embedder, tsjax.jobs.run.worker_loop
from tsjax.cli.main import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(line)
        error = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(error, 2)
        if request["largest_file"]:  # a larger one cannot be written, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], resource.RLIM_INFINITY))
        status = main(request["arguments"])
        with open(request["status"], "w") as file:
            file.write(str(status))
        os._exit(status)
    print(pid, flush=True)
"""


class Jobs:
    """A starter of jobs in separate processes."""

    def __init__(self, folder):
        self._folder = folder
        self._count = 0
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
        self._zygote = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *arguments_, largest_file=None):
        self._count += 1
        files = {name: str(self._folder / f"{name}-{self._count}") for name in ("stderr", "status")}
        request = {"arguments": [str(argument) for argument in arguments_], "largest_file": largest_file, **files}
        self._zygote.stdin.write(json.dumps(request) + "\n")
        self._zygote.stdin.flush()
        return Process(int(self._zygote.stdout.readline()), files)

    def close(self):
        self._zygote.stdin.close()
        self._zygote.wait()
        self._zygote.stdout.close()


class Process:
    """A job in a separate process."""

    def __init__(self, pid, files):
        self.pid, self._files = pid, files

    def alive(self):
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self.join()

    def join(self):
        while self.alive():
            time.sleep(0.005)

    def resident(self):
        """Return its current memory in bytes."""
        try:
            return psutil.Process(self.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return 0

    def status(self):
        """Return the exit status, or None if it was killed."""
        self.join()
        path = Path(self._files["status"])
        return int(path.read_text()) if path.exists() else None

    def stderr(self):
        return Path(self._files["stderr"]).read_text()
