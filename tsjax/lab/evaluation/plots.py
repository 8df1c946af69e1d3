"""Plot of a sweep: score against τ, with the interval of the gain over τ = 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsjax.lab.evaluation.candidates import BASELINE
from tsjax.lab.reporting import figures

if TYPE_CHECKING:
    from pathlib import Path

    from tsjax.lab.evaluation.candidates import Candidate
    from tsjax.lab.evaluation.sweeping import Scored, SweepResult

_COLOURS = (
    figures.BLUE,
    figures.VERMILION,
    figures.GREEN,
    figures.PURPLE,
    figures.SKY,
    figures.ORANGE,
    figures.BLACK,
)


def draw(result: SweepResult, file: Path) -> None:
    """Write a PNG of the held-out score against τ, one line for each law and side; the validation score is pale.

    The band is the 95 % interval of the paired difference, drawn around the score at τ = 1. Where it does not touch
    the dashed line, the difference is more than noise.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with figures.style():
        figure = figures.blank((6.0, 3.8))
        _fill(figure, result)
        figures.save(figure, file)


def _fill(figure: Any, result: SweepResult) -> None:
    axes = figure.add_subplot()
    baseline = 100 * result.baseline.held_out
    axes.axhline(baseline, color="0.35", linestyle="--", linewidth=1, label="τ = 1")
    for place, (name, line) in enumerate(_lines(result.scored).items()):
        _draw_line(axes, line, baseline, name, _COLOURS[place % len(_COLOURS)], figures.marker(place))
    best = result.best
    if best is not result.baseline:
        taus = [one.candidate.tau for one in result.scored]
        # At an edge, centred text would overlap the axis or leave the picture.
        side = {min(taus): "left", max(taus): "right"}.get(best.candidate.tau, "center")
        axes.annotate(
            "best on validation",
            (best.candidate.tau, 100 * best.held_out),
            xytext=(0, 14),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )
    axes.set_xlabel("temperature τ")
    axes.set_ylabel(f"{result.measure} × 100")
    axes.set_title(
        f"{result.kind}: {result.held_out_items:,} held-out {result.unit}; "
        "band: 95 % interval of the gain, dotted: validation",
        fontsize=9,
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)


def _draw_line(axes: Any, line: list[Scored], baseline: float, name: str, colour: str, marker: str) -> None:
    taus = [one.candidate.tau for one in line]
    axes.fill_between(
        taus,
        [baseline + 100 * one.gain.low for one in line],
        [baseline + 100 * one.gain.high for one in line],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    style = {"color": colour, "marker": marker, "markersize": 4}
    axes.plot(taus, [100 * one.held_out for one in line], **style, linewidth=1.5, label=name)
    axes.plot(
        taus, [100 * one.validation for one in line], **style, linewidth=0.8, alpha=0.4, linestyle=":",
        label="_",
    )  # fmt: skip


def _lines(scored: tuple[Scored, ...]) -> dict[str, list[Scored]]:
    """Return the candidates of each law and side, sorted by τ; τ = 1 is on every line but a log law's."""
    lines: dict[str, list[Scored]] = {}
    for one in scored:
        if one.candidate is not BASELINE:
            lines.setdefault(_name(one.candidate), []).append(one)
    for line in lines.values():
        if not line[0].candidate.law.startswith("log"):
            line.append(scored[0])
        line.sort(key=lambda one: one.candidate.tau)
    return lines


def _name(candidate: Candidate) -> str:
    side = "" if candidate.side == "both" else f"{candidate.side}, "
    return side + ("one τ" if candidate.law == "none" else candidate.law)
