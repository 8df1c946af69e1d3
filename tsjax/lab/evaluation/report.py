"""Reports of a sweep: lines for people and files for programs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from tsjax.lab.evaluation.bootstrap import CONFIDENCE
from tsjax.lab.evaluation.plots import draw
from tsjax.lab.evaluation.verdict import verdict
from tsjax.lab.reporting.tables import to_csv
from tsjax.storage.atomic import replacing
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tsjax.lab.evaluation.bootstrap import Interval
    from tsjax.lab.evaluation.sweeping import SweepResult

_FEW = 30  # held-out items, below which an interval is not reliable


def lines(result: SweepResult) -> Iterator[str]:
    """Yield two tables, the notes and, as the last line, the verdict."""
    percent = f"{100 * CONFIDENCE:g} % interval"
    yield (
        f"{result.kind}, {result.measure}: τ chosen on {result.validation_items:,} {result.unit}, reported on "
        f"{counted(result.held_out_items, 'other')} (seed {result.seed})"
    )
    yield ""
    names = [str(one.candidate) for one in result.scored]
    width = max(map(len, names))
    yield f"{'':{width}}  validation  held-out   gain (points)   {percent}"
    for name, one in zip(names, result.scored, strict=True):
        gain = "" if one is result.baseline else f"{100 * one.gain.difference:+15.1f}   {one.gain.ends}"
        mark = "  best on validation" if one is result.best else ""
        yield f"{name:{width}}  {one.validation:10.4f}  {one.held_out:8.4f} {gain}{mark}".rstrip()
    yield ""
    yield from _by_length(result, percent)
    yield ""
    yield from notes(result)
    yield verdict(result)


def _by_length(result: SweepResult, percent: str) -> Iterator[str]:
    """Yield the table of scores by length; without a comparison if nothing does better than τ = 1."""
    compared = result.best is not result.baseline
    both = f" and {result.best.candidate}" if compared else ""
    yield f"held-out {result.unit} by tokens of the text that matters, τ = 1{both}"
    yield f"{'tokens':>12}  {result.unit:>9}    τ = 1" + (f"     best   gain (points)   {percent}" if compared else "")
    for row in result.by_length:
        gain = f"{100 * row.gain.difference:+15.1f}   {row.gain.ends}" if row.gain else ""
        other = f"  {_score(row.best)} {gain}" if compared else ""
        yield f"{row.start}-{row.end - 1}".rjust(12) + f"  {row.items:9,}  {_score(row.baseline)}{other}".rstrip()


def notes(result: SweepResult) -> Iterator[str]:
    """Yield sentences that a reader of the scores should know."""
    cut = result.truncated
    for count, what in (
        (cut.documents, "documents" if result.kind == "retrieval" else "texts"),
        (cut.queries, "queries"),
    ):
        if count:
            subject = f"1 of the {what} was" if count == 1 else f"{count:,} {what} were"
            yield f"{subject} longer than {result.max_seq_length} tokens and lost the rest"
    yield from result.notes
    if result.held_out_independent < _FEW:
        fewer = "independent " if result.held_out_independent < result.held_out_items else ""
        yield f"only {result.held_out_independent} {fewer}held-out {result.unit}: do not rely on the interval"


def content(result: SweepResult) -> dict[str, Any]:
    """Return the result as JSON values; a missing value is null."""
    return {
        "task": result.kind,
        "measure": result.measure,
        "unit": result.unit,
        "seed": result.seed,
        "validation_items": result.validation_items,
        "held_out_items": result.held_out_items,
        "held_out_independent": result.held_out_independent,
        "confidence": CONFIDENCE,
        "candidates": [
            {
                "name": str(one.candidate),
                "tau": one.candidate.tau,
                "law": one.candidate.law,
                "side": one.candidate.side,
                "temperature": one.candidate.temperature.to_json(),
                "validation": _number(one.validation),
                "held_out": _number(one.held_out),
                "gain": _gain(one.gain),
            }
            for one in result.scored
        ],
        "best_on_validation": str(result.best.candidate),
        "chosen": {"name": str(result.chosen), "temperature": result.chosen.temperature.to_json()},
        "by_length": [
            {
                "start": row.start,
                "end": row.end,
                "items": row.items,
                "baseline": _number(row.baseline),
                "best": _number(row.best),
                "gain": _gain(row.gain),
            }
            for row in result.by_length
        ],
        "truncated": {"documents": result.truncated.documents, "queries": result.truncated.queries},
        "max_seq_length": result.max_seq_length,
        "notes": list(notes(result)),
        "verdict": verdict(result),
    }


def write(result: SweepResult, destination: Path) -> None:
    """Write a directory with ``report.json``, ``scores.csv``, ``by_length.csv`` and ``sweep.png``, all or nothing.

    Raises:
        OutputError: the directory exists, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    everything = content(result)
    with replacing(destination, directory=True) as folder:
        text = json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        for name, keys, rows in (
            ("scores.csv", ("name", "tau", "law", "side", "validation", "held_out"), everything["candidates"]),
            ("by_length.csv", ("start", "end", "items", "baseline", "best"), everything["by_length"]),
        ):
            (folder / name).write_text(to_csv([_flat(row, keys) for row in rows]), encoding="utf-8")
        draw(result, folder / "sweep.png")


def _flat(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values of some keys of a row, and the difference and the ends of its gain."""
    gain = row["gain"] or {}
    ends = {"gain": "difference", "gain_low": "low", "gain_high": "high"}
    return {**{key: row[key] for key in keys}, **{name: gain.get(key) for name, key in ends.items()}}


def _gain(gain: Interval | None) -> dict[str, float | bool | None] | None:
    return None if gain is None else gain.to_json()


def _score(value: float) -> str:
    return f"{value:7.4f}" if math.isfinite(value) else f"{'none':>7}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
