"""Settings for every test: offline, with its own cache, and with the shapes in annotations checked by beartype."""

import atexit
import contextlib
import ctypes
import os
import shutil
import tempfile
from pathlib import Path

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Processes that use every core wait for each other, so XLA and PyTorch get a share. Both read this when they start.
    share = max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, "sched_getaffinity") else 1
    os.environ["PJRT_NPROC"] = os.environ["OMP_NUM_THREADS"] = str(share)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Compiling takes most of a test's time, and many tests compile the same programs. All processes of one run, also
    # those that tests start, share a directory. It is not kept: a program that was compiled wrongly, or half written by
    # a process that a test killed, must not be found again.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tsjax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import tsjax.model.config  # has no arrays, and its tests give it wrong types on purpose

with install_import_hook("tsjax.model", "beartype.beartype"):
    import tsjax.model.forward  # This imports the whole network under the hook.
    import tsjax.model.kernels.splash
with install_import_hook("tsjax.lab.analysis.probe", "beartype.beartype"):
    import tsjax.lab.analysis.probe

import jax
import pytest
from hypothesis import settings

import tsjax
from tests.support.schedule import ByGroup

# Above either bound, compiled programs are dropped: each has dozens of memory maps, and Linux allows a process 65,530.
MOST_MEMORY_MAPS = 40_000
MOST_MEMORY = 1 << 30
PROC = Path("/proc/self")


def pytest_configure(config):
    """Choose the number of hypothesis examples: fewer if the slow tests are left out."""
    settings.register_profile("dev", max_examples=25, deadline=None)
    settings.register_profile("ci", max_examples=100, deadline=None)
    settings.load_profile("dev" if "not slow" in config.option.markexpr else "ci")


def pytest_xdist_make_scheduler(config, log):
    return ByGroup(config, log)


def pytest_collection_modifyitems(items):
    """Mark all parity tests with `torch`: each compares with an original in PyTorch."""
    for item in items:
        if "/tests/parity/" in item.path.as_posix():
            item.add_marker(pytest.mark.torch)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["TSJAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _memory_is_freed():
    """Drop compiled programs if there are many, and return the memory that compiling used: glibc keeps it otherwise."""
    yield
    if not PROC.exists():
        jax.clear_caches()
        return
    resident = int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > MOST_MEMORY or (PROC / "maps").read_text().count("\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def minilm(_own_cache):
    return tsjax.load()
