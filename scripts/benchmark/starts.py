"""The time of a fresh process to its first vector: import, load, tokenise, compile, run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmark.table import ratios

if TYPE_CHECKING:
    from collections.abc import Sequence

REFERENCE = "sentence-transformers"
QUERY = "how tall is the eiffel tower in paris"

# The program that a fresh process runs to its first vector, on a model and a text.
START = {
    "tsjax": ("import sys, tsjax\ntsjax.enable_compile_cache()\ntsjax.load(sys.argv[1]).encode(sys.argv[2])"),
    REFERENCE: (
        "import sys\n"
        "from sentence_transformers import SentenceTransformer\n"
        "SentenceTransformer(sys.argv[1], device={'gpu': 'cuda'}.get(sys.argv[3], 'cpu')).encode(sys.argv[2])"
    ),
}


def measure_starts(folder: Path, chosen: Sequence[str], device: str, rounds: int) -> dict[str, Any]:
    """Return the seconds from starting a Python process to its first vector, with all files in the system's cache.

    tsjax is measured with a compilation cache that an earlier process filled (warm), and with an empty one (cold). The
    cache is in a temporary folder, which TSJAX_CACHE and XDG_CACHE_HOME name. The model is already converted.
    """
    cases = {"tsjax": ("start, cold", "start, warm"), REFERENCE: ("",)}
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        warm = Path(name) / "warm"
        for number in range(rounds + 1):  # the first round fills caches and does not count
            for engine in (name for name in chosen if name in cases):
                for case in cases[engine]:
                    cache = warm if case != "start, cold" else Path(name) / f"cold{number}"
                    taken = one_start(engine, folder, device, cache)
                    if number:
                        seconds.setdefault((engine, case), []).append(taken)
    results = {}
    how = " ".join((measure_starts.__doc__ or "").split())
    for case in cases["tsjax"]:
        times = {engine: found for (engine, of), found in seconds.items() if of in (case, "")}
        engines = {engine: {"seconds": found} for engine, found in times.items()}
        results[case] = {"texts": 1, "engines": engines, "ratios": ratios(times), "how": how}
    return results


def one_start(engine: str, folder: Path, device: str, cache: Path) -> float:
    """Return the wall-clock seconds of one process."""
    cache.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JAX_")},
        **dict.fromkeys(("TSJAX_CACHE", "XDG_CACHE_HOME"), str(cache)),
        "HF_HUB_OFFLINE": "1",
        **({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }
    model = folder / ("tsjax" if engine == "tsjax" else "original")
    command = [sys.executable, "-c", START[engine], str(model), QUERY, device]
    start = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"benchmark.py: a fresh process with {engine} failed:\n{process.stderr}")
    return time.perf_counter() - start
