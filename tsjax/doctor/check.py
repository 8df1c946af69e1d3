"""Checks of the doctor and their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Status: TypeAlias = Literal["ok", "warn", "fail"]

# Advice if a compiler makes a wrong program.
OTHER_COMPILER = (
    "for programs of your own, set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= (with nothing after the =) before "
    "JAX starts, or use another version of jaxlib"
)


# Advice if this package's own programs are wrong.
DISTRUST = (
    "do not trust this device's vectors: try another version of jax and jaxlib (and driver), compute in another dtype, "
    "and report it with the output of tsjax doctor --json"
)


class Found(NamedTuple):
    """The result of a check.

    status: ``fail`` if this package would compute wrongly or cannot work; ``warn`` if only something outside it is
    affected.
        detail: description of the finding.
        advice: recommended action; empty if none is needed.
    """

    status: Status
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """Named check. It may crash or hang: the doctor runs it in a separate process.

    Attributes:
        name: what is checked, and on which device.
        run: the check.
        ours: whether it checks this package's own programs; otherwise, it can only warn.
    """

    name: str
    run: Callable[[], Found]
    ours: bool = True
