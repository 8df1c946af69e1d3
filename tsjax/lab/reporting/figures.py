"""Matplotlib figures in one style, made without pyplot so that the user's settings and windows are not touched."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tsjax.errors import require_optional

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Okabe and Ito's colours are distinct for every type of colour vision. Markers differ too, for print in black.
BLACK, VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY = (
    "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
_MARKERS = "osD^vP*"

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


def marker(place: int) -> str:
    """Return the marker of the line at a position, counted from 0; the seven markers repeat."""
    return _MARKERS[place % len(_MARKERS)]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply this style to matplotlib within the context, whatever the user has set.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require_optional("matplotlib", extra="lab")
    settings = {**matplotlib.rcParamsDefault, **_STYLE}
    del settings["backend"]  # setting it would change the user's backend
    with matplotlib.rc_context(settings):
        yield


def blank(size: tuple[float, float]) -> Any:
    """Return an empty figure; size is in inches."""
    return require_optional("matplotlib.figure", extra="lab").Figure(figsize=size, layout="constrained")


def save(figure: Any, file: Path) -> None:
    """Write a figure as a PNG in this style, without metadata that differs between machines."""
    with style():
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
