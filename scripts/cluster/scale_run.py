"""A job of many texts, killed twice and resumed, and its memory use: docs/scale.md.

    python -m scripts.cluster.scale_run [--rows 200000] [--max-seq-length 64] [--directory build/scale] [--write]

It prepares the texts (see `scale_texts.py`), runs `tsjax batch` on them in its own process, reads that process's
resident memory every second, kills it with signal 9 after each third of the rows, restarts it with the same command,
and finally runs `tsjax batch verify`. Figures go to DIRECTORY/run.json, the plot to DIRECTORY/memory.png; with --write,
the plot goes to docs/scale too. Requires Linux (/proc) and Debian's packages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from scripts.cluster.scale_texts import write_corpus
from tsjax.storage.atomic import expanded

_MIB = 1 << 20
_ROOT = Path(__file__).parents[2]

# The start of a process in seconds, in which it imports, loads and compiles.
_STARTED_SECONDS = 60.0


class Written:
    """A counter of the rows of an output's shards, which reads each record once."""

    def __init__(self, output: Path) -> None:
        self._records, self._seen = output / "records", dict[str, dict[str, Any]]()

    def rows(self) -> int:
        """Return the number of rows in completed shards."""
        return self.total("rows")

    def total(self, name: str) -> int:
        """Return the sum of a record's field."""
        for file in self._records.glob("shard-*.json"):
            if file.name not in self._seen:
                self._seen[file.name] = json.loads(file.read_text(encoding="utf-8"))
        return sum(record[name] for record in self._seen.values())


def resident(pid: int) -> int | None:
    """Return the bytes of memory that a process has now; None after its end."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return None


def run_once(command: list[str], written: Written, kill_at: int | None, start: float, log: Path) -> dict[str, Any]:
    """Run a command to its end, or until ``kill_at`` rows are written, and return measurements for every second."""
    samples = []
    began = time.monotonic()
    with log.open("w") as errors, subprocess.Popen(command, cwd=_ROOT, stderr=errors) as process:
        while process.poll() is None:
            now, memory, rows = time.monotonic(), resident(process.pid), written.rows()
            if memory:
                samples.append([round(now - start, 2), memory, rows])
            if kill_at is not None and rows >= kill_at:
                process.kill()
                break
            time.sleep(max(0.0, 1 - (time.monotonic() - now)))
    status = process.returncode
    if status not in (0, -9):
        sys.exit(f"the job failed: {log.read_text()[-2000:]}")
    return {"status": status, "seconds": round(time.monotonic() - began, 2), "samples": samples, **steady(samples)}


def steady(samples: list[list[float]]) -> dict[str, Any]:
    """Return the mean resident memory in the first and the last quarter of a process's time after its start."""
    memory = [bytes_ for at, bytes_, _ in samples if at - samples[0][0] >= _STARTED_SECONDS]
    quarter = len(memory) // 4
    if not quarter:
        return {}
    first, last = statistics.mean(memory[:quarter]), statistics.mean(memory[-quarter:])
    return {"first_quarter_mib": round(first / _MIB, 1), "last_quarter_mib": round(last / _MIB, 1)}


def figures(runs: list[dict[str, Any]], written: Written) -> dict[str, Any]:
    """Return the summary figures of all processes."""
    seconds = sum(run["seconds"] for run in runs)
    rows, tokens = written.rows(), written.total("tokens")
    return {
        "rows": rows,
        "tokens": tokens,
        "truncated": written.total("truncated"),
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_mib": round(max(sample[1] for run in runs for sample in run["samples"]) / _MIB, 1),
        "kills": sum(run["status"] == -9 for run in runs),
    }


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Plot resident memory and rows written, against time."""
    import matplotlib as mpl  # noqa: PLC0415  # an extra

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    rows_axis = axis.twinx()
    for number, run in enumerate(runs):
        minutes = [sample[0] / 60 for sample in run["samples"]]
        label = "resident memory" if number == 0 else None
        axis.plot(minutes, [sample[1] / _MIB for sample in run["samples"]], color="tab:blue", label=label)
        label = "rows written (right)" if number == 0 else None
        rows_axis.plot(minutes, [sample[2] / 1000 for sample in run["samples"]], color="tab:orange", label=label)
        if run["status"] == -9:
            label = "killed (signal 9), and started again" if number == 0 else None
            axis.axvline(minutes[-1], color="tab:red", linestyle=":", label=label)
    axis.set(xlabel="minutes", ylabel="resident memory, MiB", title="tsjax batch: memory of the process")
    axis.set_ylim(bottom=0)
    rows_axis.set(ylabel="rows written, thousands")
    rows_axis.set_ylim(bottom=0)
    lines = [*axis.get_legend_handles_labels()[0], *rows_axis.get_legend_handles_labels()[0]]
    axis.legend(lines, [str(line.get_label()) for line in lines], loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prepare the texts; run, kill, resume and verify the job; draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rows-per-shard", type=int, default=4096)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--max-seq-length", type=int, help="tokens of a text (default: the model's)")
    parser.add_argument("--directory", type=expanded, default=Path("build/scale"))
    parser.add_argument("--write", action="store_true", help="the plot to docs/scale as well")
    options = parser.parse_args()
    directory: Path = options.directory.absolute()
    corpus, output = directory / f"texts-{options.rows}.jsonl.gz", directory / "out"
    if not corpus.exists():
        write_corpus(corpus, options.rows)
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "tsjax", "batch", "--input", str(corpus), "--output", str(output)]
    command += ["--id-column", "id", "--rows-per-shard", str(options.rows_per_shard), "--json-log"]
    command += ["--max-seq-length", str(options.max_seq_length)] if options.max_seq_length else []
    written, runs, start = Written(output), [], time.monotonic()
    for number in range(options.kills + 1):
        kill_at = options.rows * (number + 1) // (options.kills + 1) if number < options.kills else None
        runs.append(run_once(command, written, kill_at, start, directory / f"log-{number}.jsonl"))
        shown = {name: value for name, value in runs[-1].items() if name != "samples"}
        print(json.dumps({"process": number, **shown, "rows_so_far": written.rows()}), flush=True)
    verify = [sys.executable, "-m", "tsjax", "batch", "verify", str(output)]
    checked = subprocess.run(verify, cwd=_ROOT, capture_output=True, text=True, check=False)
    verdict = checked.stdout.strip().replace(str(output), "the output")
    found = {**figures(runs, written), "verified": checked.returncode == 0, "verdict": verdict}
    print(json.dumps(found, indent=1))
    used = {"rows_per_shard": options.rows_per_shard, "max_seq_length": options.max_seq_length}
    content = json.dumps({**found, "options": used, "processes": runs}) + "\n"
    (directory / "run.json").write_text(content, encoding="utf-8")
    plot(runs, directory / "memory.png")
    if options.write:
        (_ROOT / "docs" / "scale").mkdir(exist_ok=True)
        shutil.copy(directory / "memory.png", _ROOT / "docs" / "scale")
    sys.exit(checked.returncode)


if __name__ == "__main__":
    main()
