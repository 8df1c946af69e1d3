"""The devices of this process, or one sentence about why there are none."""

from __future__ import annotations

import os

import jax

from tsjax.errors import InputError


def local_devices() -> list[jax.Device]:
    """Return what JAX can compute on in this process; the first call starts JAX's backend.

    Raises:
        InputError: the platform that was asked for is not there, or cannot be started.
    """
    try:
        return jax.local_devices()
    except Exception as error:  # RuntimeError, AssertionError, and what plugins raise
        reason = (str(error).strip() or f"{type(error).__name__} in JAX").splitlines()[0]
        asked = os.environ.get("JAX_PLATFORMS")
        cause = f"JAX_PLATFORMS={asked}" if asked else "JAX"
        raise InputError(
            f"{cause} gives no device to compute on ({reason:.200}); name a platform that this machine has, such as "
            "JAX_PLATFORMS=cpu, or unset it"
        ) from error
