"""Every test runs offline, with a cache of its own, and with the shapes in annotations checked by beartype."""

import atexit
import os
import shutil
import tempfile

from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Workers that use every core each wait for each other: XLA and PyTorch get a share. Both read this when they start.
    share = max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, "sched_getaffinity") else 1
    os.environ["PJRT_NPROC"] = os.environ["OMP_NUM_THREADS"] = str(share)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Most of a test's time is compiling, and many compile the same programs. A directory for one run, which its workers
    # and the processes that tests start use, too: what an earlier version compiled wrongly must not be found again.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tsjax-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import tsjax.model.config  # has no arrays, and its tests give it wrong types on purpose

with install_import_hook("tsjax.model", "beartype.beartype"):
    import tsjax.model.forward  # imports the whole network under the hook
    import tsjax.model.kernels.splash
with install_import_hook("tsjax.lab.analysis.probe", "beartype.beartype"):
    import tsjax.lab.analysis.probe

import jax
import pytest

import tsjax


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["TSJAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _programs_are_freed():
    """A compiled program holds dozens of memory maps; Linux allows a process 65,530, and XLA aborts there."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def minilm(_own_cache):
    return tsjax.load()
