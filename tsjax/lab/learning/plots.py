"""Plots of a run: the losses by step, and the temperature of every layer and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tsjax.lab.reporting import figures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def draw_curve(curve: Sequence[dict[str, float | None]], best_step: int, file: Path) -> None:
    """Write a PNG of the training and validation loss after each step, with a line at the best validation step.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with figures.style():
        figure = figures.blank((5.2, 3.4))
        axes = figure.add_subplot()
        for name, label, line, colour in (
            ("validation_loss", "validation", "o-", figures.BLUE),
            ("loss", "training, with its penalty", "s--", figures.VERMILION),
        ):
            if points := [(look["step"], look[name]) for look in curve if look[name] is not None]:
                axes.plot(*zip(*points, strict=True), line, color=colour, label=label)
        if curve[0]["validation_loss"] is not None:
            axes.axvline(best_step, color="0.4", linewidth=0.8, linestyle=":", label=f"best: step {best_step}")
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("contrastive loss")
        axes.legend(fontsize=8)
        figures.save(figure, file)


def draw_temperatures(tau: NDArray[np.float32], file: Path) -> None:
    """Write a PNG of τ of every layer and head as a heat map, blue where attention is sharpened, red where softened.

    Args:
        tau: float32 (layers, heads).
        file: the file to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    layers, heads = tau.shape
    logs = np.log2(tau)
    reach = max(float(np.abs(logs).max()), 0.01)
    with figures.style():
        figure = figures.blank((1.6 + 0.42 * heads, 1.3 + 0.36 * layers))
        axes = figure.add_subplot()
        image = axes.imshow(logs, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        for (layer, head), log in np.ndenumerate(logs):
            colour = "white" if abs(log) > 0.6 * reach else "black"
            axes.text(head, layer, f"{tau[layer, head]:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_xlabel("head, from 0")
        axes.set_ylabel("layer, from 0")
        axes.set_xticks(range(heads))
        axes.set_yticks(range(layers))
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        ticks = np.linspace(-reach, reach, 5)
        bar.set_ticks(ticks.tolist(), labels=[f"{2**tick:.2f}" for tick in ticks])
        bar.set_label("temperature τ")
        figures.save(figure, file)
