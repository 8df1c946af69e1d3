"""What a check of the doctor is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Status: TypeAlias = Literal["ok", "warn", "fail"]

# What to do where a compiler gets a program wrong.
OTHER_COMPILER = (
    "for programs of your own, set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= (with nothing after the =) before "
    "JAX starts, or use another version of jaxlib"
)


# What to do where this package's own programs are wrong.
DISTRUST = (
    "do not trust this device's vectors: try another version of jax and jaxlib (and driver), compute in another dtype, "
    "and report it with the output of tsjax doctor --json"
)


class Found(NamedTuple):
    """The result of a check.

    Attributes:
        status: ``fail`` where this package would compute wrongly or cannot work; ``warn`` where only something beside
            it is affected.
        detail: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    status: Status
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """A check by name. It may crash or hang: the doctor runs it in a process of its own.

    Attributes:
        name: what is checked, and where.
        run: the check.
        ours: whether it is about this package's own programs; if not, it can only warn.
    """

    name: str
    run: Callable[[], Found]
    ours: bool = True
