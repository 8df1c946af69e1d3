"""What a benchmark says of the machine it ran on, and how much memory a process took. Neither NumPy nor JAX here."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def describe() -> dict[str, Any]:
    """CPU model, the cores that this process may use, and memory in GB, as plain JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def reset_peak_resident() -> bool:
    """Have `peak_resident` count from here on; False where the system knows only the peak of the whole process."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_resident() -> int | None:
    """The most bytes of memory that this process had at a time, since `reset_peak_resident` where that works."""
    if value := _field(_PROC / "self" / "status", "VmHWM"):
        return int(value.split()[0]) * 1024
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # other systems have it

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def busy_seconds() -> float | None:
    """Seconds that all cores together have worked since the machine started; None where the system does not tell."""
    try:
        first = (_PROC / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, *interrupts_and_stolen = map(int, first[1:9])
    return float(user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


def process_seconds(process: int) -> float | None:
    """Seconds that a process has worked on all cores together; None where the system does not tell."""
    try:
        # What comes after the name, which may hold anything.
        fields = (
            (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return float(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    return _field(_PROC / "cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    value = _field(_PROC / "meminfo", "MemTotal")
    return round(int(value.split()[0]) * 1024 / 1e9, 1) if value else None


def _field(file: Path, name: str) -> str | None:
    """The first value of that name in a file of ``name: value`` lines."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
