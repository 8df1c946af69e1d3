"""A run as pictures: the losses step by step, and the temperature of every layer and head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.evaluation.lab import lab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Okabe and Ito's, which people of every colour vision tell apart.
_BLUE, _ORANGE = "#0072B2", "#D55E00"


def draw_curve(curve: Sequence[dict[str, float | None]], best_step: int, file: Path) -> None:
    """Write a PNG: the loss of training and of validation after each step, and after which validation was best.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure((5.2, 3.4))
    for name, label, style, color in (
        ("validation_loss", "validation", "o-", _BLUE),
        ("loss", "training, with its penalty", "s--", _ORANGE),
    ):
        if points := [(look["step"], look[name]) for look in curve if look[name] is not None]:
            axes.plot(*zip(*points, strict=True), style, color=color, label=label, markersize=4)
    if curve[0]["validation_loss"] is not None:
        axes.axvline(best_step, color="0.4", linewidth=0.8, linestyle=":", label=f"best: step {best_step}")
    axes.set_xlabel("step")
    axes.set_ylabel("contrastive loss")
    axes.grid(visible=True, linewidth=0.3, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, format="png")


def draw_temperatures(tau: NDArray[np.float32], file: Path) -> None:
    """Write a PNG: τ of every layer and head as a heat map, blue where attention is sharpened, red where softened.

    Args:
        tau: float32 (layers, heads).
        file: to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    layers, heads = tau.shape
    figure, axes = _figure((1.6 + 0.42 * heads, 1.3 + 0.36 * layers))
    logs = np.log2(tau)
    reach = max(float(np.abs(logs).max()), 0.01)
    image = axes.imshow(logs, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    for (layer, head), log in np.ndenumerate(logs):
        dark = abs(log) > 0.6 * reach
        text = f"{tau[layer, head]:.2f}"
        axes.text(head, layer, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(heads))
    axes.set_yticks(range(layers))
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    ticks = np.linspace(-reach, reach, 5)
    bar.set_ticks(ticks.tolist(), labels=[f"{2**tick:.2f}" for tick in ticks])
    bar.set_label("temperature τ")
    figure.savefig(file, format="png")


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    figure = lab("matplotlib.figure").Figure(figsize=size, dpi=200, layout="constrained")
    lab("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
