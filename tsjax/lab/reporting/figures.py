"""Figures of one look, made without pyplot, so that nobody's settings or windows are touched."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tsjax.errors import require_optional

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Okabe and Ito's colours, which people of every colour vision tell apart; markers differ as well, for print in black.
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
    """That of the line in this place, from 0; after seven they come again."""
    return _MARKERS[place % len(_MARKERS)]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Within it matplotlib has this look, whatever its user has set.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require_optional("matplotlib", extra="lab")
    settings = {**matplotlib.rcParamsDefault, **_STYLE}
    del settings["backend"]  # setting it would change the user's
    with matplotlib.rc_context(settings):
        yield


def blank(size: tuple[float, float]) -> Any:
    """An empty figure; size in inches."""
    return require_optional("matplotlib.figure", extra="lab").Figure(figsize=size, layout="constrained")


def save(figure: Any, file: Path) -> None:
    """Write a PNG of this look, with nothing in it that tells one machine's from another's."""
    with style():
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
