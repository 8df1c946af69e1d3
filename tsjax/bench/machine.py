"""Description of the machine, and the memory and time of processes, for benchmark reports.

Must not import NumPy or JAX, because it measures processes that do not.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil

_PROC = Path("/proc")


def describe() -> dict[str, Any]:
    """Return the CPU model, the number of cores that this process may use, and memory in GB, as plain JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def reset_peak_resident() -> bool:
    """Reset the peak of `peak_resident`; return False if the system knows only the peak of the entire process."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_resident() -> int:
    """Return the maximum bytes of memory of this process, since `reset_peak_resident` if that is supported."""
    if value := _field(_PROC / "self" / "status", "VmHWM"):
        return int(value.split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415  # other systems have it

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def busy_seconds() -> float:
    """Return the seconds that all cores together have worked since the machine started."""
    times = psutil.cpu_times()
    # Linux includes the time of guests in that of the user.
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice")))


def process_seconds(process: int) -> float | None:
    """Return the seconds that a process has worked on all cores together; None if there is no such process."""
    try:
        times = psutil.Process(process).cpu_times()
    except psutil.NoSuchProcess:
        return None
    return float(times.user + times.system)


def _cpu_model() -> str:
    return _field(_PROC / "cpuinfo", "model name") or platform.processor() or platform.machine()


def _field(file: Path, name: str) -> str | None:
    """Return the first value of a name in a file of ``name: value`` lines."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
