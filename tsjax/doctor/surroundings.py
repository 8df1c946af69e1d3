"""Checks of this machine's versions, devices, kernels for each kind of model, and caches."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from tsjax.bench import machine
from tsjax.doctor.check import Check, Found
from tsjax.doctor.patterns import DTYPES
from tsjax.model.config import EncoderConfig
from tsjax.model.kernels.dispatch import kernel_for
from tsjax.storage.cache_directory import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGES = ("tsjax", "jax", "jaxlib", "flax", "optax", "transformers", "tokenizers", "numpy")

# Properties that determine the kernel: the size of the heads, and whether attention adds a term to the logits.
_CLASSES = {
    "BERT, RoBERTa, ModernBERT, GTE and others": (12, 64, False),
    "MPNet, T5, Jina v2 (bias on the logits)": (12, 64, True),
    "Qwen3-Embedding (heads of 128)": (16, 128, False),
    "EmbeddingGemma (heads of 256)": (3, 256, False),
}

# With less free memory, a model of base size may not fit.
_LEAST_FREE = 1 << 30


def surroundings_checks() -> Iterator[Check]:
    """Yield the checks of versions, devices, kernels and caches."""
    yield Check("versions", _versions)
    yield Check("machine", lambda: Found("ok", ", ".join(f"{k} {v}" for k, v in machine.describe().items())))
    for device in jax.local_devices():
        yield Check(f"{device}", partial(_device, device))
        for dtype in DTYPES:
            yield Check(f"{device}, {dtype}: attention kernels", partial(_kernels, device, dtype))
    # Each is looked up in its check, since an unknown home directory is a finding.
    folders = {
        "converted models": cache_directory,
        "compiled programs": lambda: cache_directory() / "compiled",
        "hub": _hub,
    }
    for name, folder in folders.items():
        yield Check(f"cache of {name}", partial(_cache, folder))


def _versions() -> Found:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path
            found.append(f"{name} (not installed as a package)")
    if flags := os.environ.get("XLA_FLAGS"):
        found.append(f"XLA_FLAGS={flags}")
    return Found("ok", ", ".join(found))


def _device(device: jax.Device) -> Found:
    capability = getattr(device, "compute_capability", None)
    detail = f"{device.platform}, {device.device_kind}" + (f", compute capability {capability}" if capability else "")
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        detail += f", {statistics['bytes_limit'] / 2**30:.1f} GiB for JAX"
    return Found("ok", detail)


def _kernels(device: jax.Device, dtype: str) -> Found:
    chosen: dict[str, list[str]] = {}
    for name, (heads, size, biased) in _CLASSES.items():
        encoder = EncoderConfig(
            vocab_size=1,
            hidden_size=heads * size,
            num_layers=1,
            num_heads=heads,
            intermediate_size=1,
            max_positions=512,
            relative_buckets=32 if biased else None,
        )
        capability = getattr(device, "compute_capability", None)
        chosen.setdefault(kernel_for(device.platform, capability, encoder, dtype), []).append(name)
    if len(chosen) == 1:
        return Found("ok", f"{next(iter(chosen))} for every model")
    return Found("ok", "; ".join(f"{kernel} for {', '.join(names)}" for kernel, names in chosen.items()))


def _hub() -> Path:
    from huggingface_hub import constants  # noqa: PLC0415  # reads the environment when it is imported

    return Path(constants.HF_HUB_CACHE)


def _cache(folder: Callable[[], Path]) -> Found:
    """Check that a directory can be written or created, and report other users who can write there."""
    path = folder()
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        return Found("fail", f"{path}: {nearest} is not a directory", "set TSJAX_CACHE or HF_HOME to a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        advice = "set TSJAX_CACHE (converted models, programs) or HF_HOME (the hub) to a directory that you can write"
        return Found("fail", f"{path}: no permission to write in {nearest}", advice)
    mode = nearest.stat().st_mode
    free = shutil.disk_usage(nearest).free
    detail = f"{path}{'' if path.exists() else ' (not made yet)'}, {free / 2**30:.1f} GiB free"
    if path.exists():
        detail += f", permissions {stat.filemode(mode)}"
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            advice = f"others can write there and change what is loaded: chmod go-w {path}"
            return Found("warn", detail, advice)
    if free < _LEAST_FREE:
        return Found("warn", detail, "free some space: a converted model takes as much as its weights")
    return Found("ok", detail)
