"""Plots of a study of length collapse, one idea each: viridis for ordered values, other colours for categories."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tsjax.errors import require_optional
from tsjax.lab.analysis.corpora import CORPUS_TITLES
from tsjax.lab.reporting import figures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tsjax.lab.analysis.collapse import Collapse

_COLOURS = (
    figures.BLACK,
    figures.VERMILION,
    figures.BLUE,
    figures.GREEN,
    figures.PURPLE,
    figures.ORANGE,
    figures.SKY,
)

# Maximum number of panels in a plot of layers. Temperatures beyond these are in the tables only.
_MOST_PANELS = 3


def plot(found: Collapse) -> dict[str, Any]:
    """Return the figures by file name without suffix, in display order; figures without data are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with figures.style():
        made = {name: make(found) for name, make in _PLOTS.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def layer_corpus(found: Collapse) -> str | None:
    """Return the corpus that plots of layers show: cut texts if there are any, because they differ in length only."""
    there = {row.corpus for row in found.heads}
    return next((corpus for corpus in ("cut", "texts", "repeated") if corpus in there), None)


def shown_temperatures(found: Collapse) -> list[str]:
    """Return the temperatures with a panel in plots of layers: all, or the first, a middle one and the last."""
    names = [entry["name"] for entry in found.about["temperatures"]]
    if len(names) <= _MOST_PANELS:
        return names
    return [names[0], names[len(names) // 2], names[-1]]


def _panels(count: int, *, height: float = 2.7) -> tuple[Any, list[Any]]:
    figure = figures.blank((0.9 + 2.45 * count + (0.6 if count == 1 else 0), height))
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return figure, list(axes)


def _by_length(found: Collapse, value: str, error: str | None, label: str) -> Any:
    """Plot a measure of vectors against length: one panel for each corpus, one line for each temperature."""
    corpora = list(dict.fromkeys(row.corpus for row in found.vectors))
    names = [entry["name"] for entry in found.about["temperatures"]]
    figure, axes = _panels(len(corpora))
    for axis, corpus in zip(axes, corpora, strict=True):
        for index, name in enumerate(names):
            rows = [row for row in found.vectors if row.corpus == corpus and row.temperature == name]
            axis.errorbar(
                [row.length for row in rows],
                [getattr(row, value) for row in rows],
                yerr=None if error is None else [getattr(row, error) for row in rows],
                color=_COLOURS[index % len(_COLOURS)],
                marker=figures.marker(index),
                capsize=2,
                label=f"τ = {name}",
            )
        _length_axis(axis, sorted({row.length for row in found.vectors if row.corpus == corpus}))
        axis.set_title(CORPUS_TITLES[corpus])
    axes[0].set_ylabel(label)
    axes[-1].legend(loc="best")
    return figure


def _length_axis(axis: Any, lengths: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [_short(length) for length in lengths])
    axis.xaxis.set_minor_locator(require_optional("matplotlib.ticker", extra="lab").NullLocator())
    axis.set_xlabel("tokens")


def _short(length: int) -> str:
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)


def _between(found: Collapse) -> Any:
    """Plot the cosine within and across lengths at the first temperature: one panel for each corpus."""
    corpora = [
        corpus
        for corpus in dict.fromkeys(row.corpus for row in found.between)
        if len({row.length for row in found.between if row.corpus == corpus}) > 1
    ]
    if not corpora:
        return None
    name = found.about["temperatures"][0]["name"]
    rows = [row for row in found.between if row.temperature == name]
    low, high = (choose(row.mean_cosine for row in rows) for choose in (min, max))
    figure, axes = _panels(len(corpora), height=2.9)
    for axis, corpus in zip(axes, corpora, strict=True):
        own = [row for row in rows if row.corpus == corpus]
        lengths = sorted({row.length for row in own})
        grid = [[math.nan] * len(lengths) for _ in lengths]
        for row in own:
            i, j = lengths.index(row.length), lengths.index(row.other_length)
            grid[i][j] = grid[j][i] = row.mean_cosine
        image = axis.imshow(grid, cmap="viridis", vmin=low, vmax=high, origin="lower", aspect="auto")
        for i, line in enumerate(grid):
            for j, cosine in enumerate(line):
                light = (cosine - low) / ((high - low) or 1) < 0.6
                text = f"{cosine:.2f}".replace("0.", ".", 1)
                axis.text(j, i, text, ha="center", va="center", color="w" if light else "k", fontsize=7)
        ticks = [_short(length) for length in lengths]
        axis.set_xticks(range(len(lengths)), ticks)
        axis.set_yticks(range(len(lengths)), ticks)
        axis.tick_params(labelleft=True)
        axis.grid(visible=False)
        axis.set_xlabel("tokens")
        axis.set_title(CORPUS_TITLES[corpus])
    axes[0].set_ylabel("tokens")
    figure.colorbar(image, ax=axes, label=f"mean cosine, τ = {name}")
    return figure


def _by_layer(
    found: Collapse,
    series: Callable[[str, str, int], tuple[list[int], list[float], list[float] | None, list[float] | None]],
    label: str,
    across: str,
) -> Any:
    """Plot a measure against depth: one panel for each temperature, one line for each length."""
    corpus = layer_corpus(found)
    if corpus is None:
        return None
    names = shown_temperatures(found)
    lengths = sorted({row.length for row in found.heads if row.corpus == corpus})
    colours = require_optional("matplotlib", extra="lab").colormaps["viridis"].resampled(256)
    locator = require_optional("matplotlib.ticker", extra="lab").MaxNLocator
    figure, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for index, length in enumerate(lengths):
            depths, values, low, high = series(corpus, name, length)
            colour = colours(0.92 * index / max(1, len(lengths) - 1))
            axis.plot(
                depths,
                values,
                color=colour,
                marker=figures.marker(index),
                label=f"{_short(length)} tokens",
            )
            if low is not None and high is not None and length in (lengths[0], lengths[-1]):
                axis.fill_between(depths, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(f"τ = {name}")
        axis.set_xlabel(across)
        axis.xaxis.set_major_locator(locator(nbins=13, integer=True, steps=[1, 2, 4, 5, 10]))
    axes[0].set_ylabel(label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _heads_by_layer(found: Collapse, value: str, label: str) -> Any:
    def series(corpus: str, name: str, length: int) -> tuple[list[int], list[float], list[float], list[float]]:
        by_layer: dict[int, list[float]] = {}
        for row in found.heads:
            if (row.corpus, row.temperature, row.length) == (corpus, name, length):
                by_layer.setdefault(row.layer, []).append(getattr(row, value))
        heads = by_layer.values()
        return list(by_layer), [sum(own) / len(own) for own in heads], [*map(min, heads)], [*map(max, heads)]

    return _by_layer(found, series, label, "layer, from 0")


def _states_by_depth(found: Collapse) -> Any:
    def series(corpus: str, name: str, length: int) -> tuple[list[int], list[float], None, None]:
        rows = [row for row in found.states if (row.corpus, row.temperature, row.length) == (corpus, name, length)]
        return [row.depth for row in rows], [row.high_energy for row in rows], None, None

    return _by_layer(found, series, r"$\Vert HC[X] \Vert^2 \, / \, \Vert X \Vert^2$", "layers passed")


_PLOTS: dict[str, Callable[[Collapse], Any]] = {
    "cosine": lambda found: _by_length(found, "mean_cosine", "mean_cosine_error", "mean pairwise cosine"),
    "between": _between,
    "centroid": lambda found: _by_length(
        found, "distance_to_centroid", "distance_to_centroid_error", "distance to the centroid"
    ),
    "rank": lambda found: _by_length(found, "effective_rank", None, "effective rank"),
    "filter_rate": lambda found: _heads_by_layer(found, "filter_rate", r"filter rate $\sigma_a$"),
    "energy": _states_by_depth,
    "entropy": lambda found: _heads_by_layer(found, "entropy", "attention entropy / log n"),
}
