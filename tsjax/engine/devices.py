"""Devices of this process, and the selection of those that a user asks for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import jax
import numpy as np

from tsjax.engine.forks import mark_used
from tsjax.errors import InputError
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence


def local_devices() -> list[jax.Device]:
    """Return the JAX devices of this process; the first call starts JAX's backend.

    Raises:
        InputError: the requested platform does not exist or cannot be started.
    """
    try:
        return jax.local_devices()
    except Exception as error:  # RuntimeError, AssertionError, and errors of plugins
        reason = (str(error).strip() or f"{type(error).__name__} in JAX").splitlines()[0]
        asked = os.environ.get("JAX_PLATFORMS")
        cause = f"JAX_PLATFORMS={asked}" if asked else "JAX"
        raise InputError(
            f"{cause} gives no device to compute on ({reason:.200}); name a platform that this machine has, such as "
            "JAX_PLATFORMS=cpu, or unset it"
        ) from error


def device_names(devices: Sequence[jax.Device]) -> list[tuple[str, int]]:
    """Return the platform and the id of each device, by which `find_devices` finds it in another process."""
    return [(device.platform, device.id) for device in devices]


def find_devices(names: Sequence[tuple[str, int]]) -> list[jax.Device]:
    """Return the devices of this process that have these platforms and ids.

    Raises:
        InputError: this process has no such device.
    """
    mark_used()
    found = []
    for platform, number in names:
        try:
            local = jax.local_devices(backend=platform)
        except RuntimeError:  # the platform does not exist
            local = []
        device = next((device for device in local if device.id == number), None)
        if device is None:
            raise InputError(
                f"the model was pickled with the device {platform}:{number}, which this process does not have; "
                "load it with a number as devices, or with None, to pickle it for other machines"
            )
        found.append(device)
    return found


def check_devices(devices: int | jax.Device | Sequence[jax.Device] | None) -> list[jax.Device]:
    """Return the devices that a user asks for.

    Args:
        devices: JAX devices, all of one kind; a number for the first devices of this process; None for all of them.

    Raises:
        InputError: this process has fewer devices, or the value cannot be used.
    """
    local = local_devices()
    if devices is None:
        return local
    if isinstance(devices, int | np.integer):
        if whole_number("devices", devices) > len(local):
            raise InputError(f"devices is {devices}, but this process has {len(local)}")
        return local[: int(devices)]
    if isinstance(devices, jax.Device):
        return [devices]
    if not isinstance(devices, Iterable):
        raise InputError(f"devices must be a number or JAX's devices, not {devices!r}")
    chosen = list(devices)
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise InputError(f"devices must be a number or JAX's devices, not {devices!r}")
    if len(set(chosen)) < len(chosen) or len({device.platform for device in chosen}) > 1:
        raise InputError(f"devices must differ, and be of one kind: {devices!r}")
    return chosen
