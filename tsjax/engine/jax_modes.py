"""JAX modes in which tsjax's own computations run, independent of the user's modes.

JAX can be told to refuse implicit broadcasting, implicit conversions and implicit copies to a device
(``JAX_NUMPY_RANK_PROMOTION``, ``JAX_NUMPY_DTYPE_PROMOTION``, ``JAX_TRANSFER_GUARD``). These modes help to find mistakes
in code that is written for them; flax, optax and the network of tsjax are not. The vectors are the same in every mode.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def usual_modes() -> Iterator[None]:
    """Leave the strict modes for the block, in this thread only; also a decorator, as ``@usual_modes()``."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
        yield
