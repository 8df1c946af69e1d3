"""Output of a learning run: files for programs, plots, a checkpoint, and lines for people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.checkpoints import format as checkpoint
from tsjax.lab.learning.plots import draw_curve, draw_temperatures
from tsjax.lab.reporting.tables import to_csv
from tsjax.model.forward import weight_shapes
from tsjax.model.params import flatten
from tsjax.storage.atomic import replacing
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tsjax.encoders.embedder import Embedder
    from tsjax.lab.learning.comparison import ComparisonRow
    from tsjax.lab.learning.recipe import Recipe
    from tsjax.lab.learning.training import Learning

MODEL = "model"
REPORT = "report.json"


def save_model(learned: Learning, embedder: Embedder, directory: Path) -> None:
    """Save the checkpoint ``model`` in a run's directory: the embedder's checkpoint with the learned parameters."""
    header = embedder.header
    model = embedder.metadata.model
    weights = checkpoint.read_weights(header, weight_shapes(model))
    if learned.weights is not None:
        tuned = flatten(model, learned.weights)
        weights |= {name: np.asarray(tensor, np.float32) for name, tensor in tuned.items()}
    source = embedder.metadata.source
    metadata = dataclasses.replace(
        embedder.metadata,
        temperature=learned.temperature,
        max_seq_length=embedder.max_seq_length,
        source=source if learned.weights is None else f"{source}, fine-tuned",
    )
    checkpoint.save(directory / MODEL, metadata, weights, checkpoint.read_tokenizer(header), overwrite=True)


def write(
    learned: Learning, recipe: Recipe, rows: Sequence[ComparisonRow], embedder: Embedder, directory: Path
) -> None:
    """Write temperature.json, curve.csv, curve.png, temperatures.png, comparison.csv and report.json."""

    def put(name: str, content: str) -> None:
        with replacing(directory / name, overwrite=True) as file:
            file.write_text(content, encoding="utf-8")

    def draw(name: str, drawn: Callable[[Path], None]) -> None:
        with replacing(directory / name, overwrite=True) as file:
            drawn(file)

    encoder = embedder.metadata.model.encoder
    tau = learned.temperature.query or learned.temperature if recipe.side == "queries" else learned.temperature
    put("temperature.json", json.dumps(learned.temperature.to_json()) + "\n")
    put("curve.csv", to_csv(learned.curve))
    draw("curve.png", lambda file: draw_curve(learned.curve, learned.best_step, file))
    if recipe.form != "none":
        per_head = tau.per_head(encoder.num_layers, encoder.num_heads)
        draw("temperatures.png", lambda file: draw_temperatures(per_head, file))
    flat = [_flat(row) for row in rows]
    if flat:
        put("comparison.csv", to_csv(flat))
    content = {
        "model": embedder.metadata.source,
        "recipe": recipe.to_json(),
        "temperature": learned.temperature.to_json(),
        "steps": learned.steps,
        "best_step": learned.best_step,
        "refitted": learned.refitted,
        "curve": list(learned.curve),
        "comparison": flat,
    }
    put(REPORT, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def lines(learned: Learning, rows: Sequence[ComparisonRow], measure: str) -> Iterator[str]:
    """Yield the results as a table, with a verdict as the last line of each corpus."""
    yield _steps(learned)
    yield f"temperatures: {learned.temperature}"
    for corpus in dict.fromkeys(row.corpus for row in rows):
        own = [row for row in rows if row.corpus == corpus]
        noun = "query" if own[0].queries == 1 else "queries"
        which = f"held-out {noun}" if own[0].seen else f"{noun}, none of it learned from"
        yield ""
        yield f"{corpus}: {measure} on {own[0].queries:,} {which}"
        yield f"{'':12}  score    gain (points)   95 % interval"
        for row in own:
            gain = "" if row.name == "none" else f"{100 * row.gain.difference:+13.1f}   {row.gain.ends}"
            yield f"{row.name:12}  {row.score:.4f} {gain}   {row.temperature if row.name != 'learned' else ''}".rstrip()
        yield _verdict(own, measure)


def _steps(learned: Learning) -> str:
    first, best = (next(x for x in learned.curve if x["step"] == step) for step in (0, learned.best_step))
    if first["validation_loss"] is None:
        return f"{counted(learned.steps, 'step')}; nothing validated"
    if not learned.best_step:
        return (
            f"{counted(learned.steps, 'step')}; the validation loss was never below the "
            f"{first['validation_loss']:.4f} of the "
            "beginning, so nothing was learned"
        )
    said = (
        f"{counted(learned.steps, 'step')}; validation loss {first['validation_loss']:.4f} at the beginning, "
        f"{best['validation_loss']:.4f} after step {learned.best_step}, which was best"
    )
    again = f"{said}; then learned again from all pairs, {counted(learned.best_step, 'step')}"
    return again if learned.refitted else said


def _verdict(rows: Sequence[ComparisonRow], measure: str) -> str:
    learned = next(row for row in rows if row.name == "learned")
    gain = learned.gain.points(f"{measure} points")
    word = {1: "a gain beyond noise", 0: "no difference beyond noise", -1: "a loss beyond noise"}[learned.gain.verdict]
    said = f"learned against none: {gain}: {word}"
    if learned.over_scalar is None:
        return said
    over = learned.over_scalar
    beyond = {1: "better", 0: "no different beyond noise", -1: "worse"}[over.verdict]
    return f"{said}; against the best scalar {100 * over.difference:+.1f} ({over.ends}): {beyond}"


def _flat(row: ComparisonRow) -> dict[str, Any]:
    content: dict[str, Any] = {
        name: getattr(row, name) for name in ("corpus", "seen", "queries", "name", "temperature", "score")
    }
    for name, interval in {"gain": row.gain, "over_scalar": row.over_scalar}.items():
        found = {} if interval is None else interval.to_json()
        keys = {name: "difference", f"{name}_low": "low", f"{name}_high": "high", f"{name}_telling": "telling"}
        content |= {key: found.get(own) for key, own in keys.items()}
    return content
