"""Sentences that describe each plot of a study, made of its numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tsjax.lab.analysis.corpora import CORPUS_TITLES
from tsjax.lab.analysis.plots import layer_corpus, shown_temperatures

if TYPE_CHECKING:
    from collections.abc import Callable

    from tsjax.lab.analysis.collapse import Collapse


# Explanations of the marks in a plot, shown next to it.
LEGENDS = {
    "cosine": "Bars are one standard error (jackknife).",
    "centroid": "Bars are one standard error.",
    "filter_rate": "Shaded: the range over heads at the shortest and the longest.",
    "energy": "Depth 0 is what enters the first layer.",
    "entropy": "Shaded: the range over heads at the shortest and the longest.",
}


def helped(found: Collapse) -> str:
    """Return a sentence on whether a temperature helped, that is, the mean cosine rises less with length than at τ = 1.

    Without τ = 1 the first temperature takes its place; empty where there is nothing to compare. The errors of two
    temperatures are added as if they were of different texts, which overstates those of the same texts.
    """
    corpus = next((name for name in CORPUS_TITLES if any(row.corpus == name for row in found.changes)), None)
    rows = {row.temperature: row for row in found.changes if row.corpus == corpus}
    base = rows.pop("1", None) or rows.pop(next(iter(rows), ""), None)
    if corpus is None or base is None or not rows:
        return ""
    best = min(rows.values(), key=lambda row: row.mean_cosine)
    span = f"from {base.length} to {base.other_length} tokens ({CORPUS_TITLES[corpus]}) the mean cosine"
    if base.mean_cosine <= 2 * base.mean_cosine_error:
        return (
            f"There is no collapse for a temperature to lessen on these texts: {span} does not rise beyond two "
            "standard "
            f"errors at τ = {base.temperature}."
        )
    less = base.mean_cosine - best.mean_cosine
    noise = 2 * math.hypot(base.mean_cosine_error, best.mean_cosine_error)
    verdict = "helped" if less > noise else "made it worse" if less < -noise else "made no difference beyond noise"
    return (
        f"A temperature {verdict} on these texts: {span} changes by "
        f"{best.mean_cosine:+.3f} at τ = {best.temperature}, and by {base.mean_cosine:+.3f} at τ = {base.temperature}."
    )


def sentences(found: Collapse) -> dict[str, str]:
    """Return the sentences by the name of each plot; plots without data have no sentence."""
    said = {name: say(found) for name, say in _SENTENCES.items()}
    return {name: text for name, text in said.items() if text}


def _change(first: float, last: float, error: float | None = None, digits: int = 2) -> str:
    """Return the change between two values in words, supported by the digits and by two standard errors."""
    a, b = f"{first:.{digits}f}", f"{last:.{digits}f}"
    if a == b:
        return f"stays at {a}"
    if error is None:
        return f"{a} and {b}"
    if abs(last - first) <= 2 * error:
        return f"{a} and {b} (within two standard errors)"
    return f"{'rises' if last > first else 'falls'} from {a} to {b}"


def _spread(found: Collapse, value: str, what: str, footnote: str = "", digits: int = 2) -> str:
    """Describe the change of a measure of vectors with length, for each corpus, at the first and the last τ."""
    names = [entry["name"] for entry in found.about["temperatures"]]
    said = [f"{what}."]
    for corpus in dict.fromkeys(row.corpus for row in found.vectors):
        told = []
        for name in dict.fromkeys((names[0], names[-1])):
            own = [row for row in found.vectors if (row.corpus, row.temperature) == (corpus, name)]
            first, last = own[0], own[-1]
            a, b = getattr(first, value), getattr(last, value)
            changes = [row for row in found.changes if (row.corpus, row.temperature) == (corpus, name)]
            error = getattr(changes[0], f"{value}_error", None) if changes else None
            change = f"{a:.{digits}f}" if len(own) == 1 else _change(a, b, error, digits)
            told.append(f"{change} at τ = {name}")
        where = f"up to {last.length}" if len(own) == 1 else f"{first.length} to {last.length}"
        title = CORPUS_TITLES[corpus].capitalize()
        said.append(f"{title}, {where} tokens ({first.texts} of each length): {'; '.join(told)}.")
    return " ".join([*said, footnote]).strip()


def _between(found: Collapse) -> str:
    parts = []
    name = found.about["temperatures"][0]["name"]
    for corpus in dict.fromkeys(row.corpus for row in found.between):
        own = {
            (row.length, row.other_length): row.mean_cosine
            for row in found.between
            if (row.corpus, row.temperature) == (corpus, name)
        }
        low, high = min(a for a, _ in own), max(b for _, b in own)
        if low < high:
            within, across = (own[low, low], own[high, high]), own[low, high]
            parts.append(
                f"{CORPUS_TITLES[corpus].capitalize()}: {within[0]:.2f} among those of {low} tokens, {within[1]:.2f} "
                f"among those of {high}, {across:.2f} between the two"
            )
    if not parts:
        return ""
    return f"Mean cosine of two different texts at τ = {name}. {'. '.join(parts)}."


def _layers(found: Collapse, value: str, what: str, footnote: str = "") -> str:
    corpus = layer_corpus(found)
    if corpus is None:
        return ""
    told = []
    lengths = sorted({row.length for row in found.heads if row.corpus == corpus})
    for name in shown_temperatures(found):
        means = []
        for length in (lengths[0], lengths[-1]):
            table = found.states if value == "high_energy" else found.heads
            own = [row for row in table if (row.corpus, row.temperature, row.length) == (corpus, name, length)]
            if value == "high_energy":
                own = own[-1:]
            means.append(sum(getattr(row, value) for row in own) / len(own))
        told.append(f"{_change(*means)} at τ = {name}")
    where = f"{CORPUS_TITLES[corpus]}, {lengths[0]} to {lengths[-1]} tokens"
    if len(lengths) == 1:
        where = f"{CORPUS_TITLES[corpus]}, up to {lengths[0]} tokens"
    said = f"{what}. In {where}: {'; '.join(told)}."
    return f"{said} {footnote}".strip()


_SENTENCES: dict[str, Callable[[Collapse], str]] = {
    "cosine": lambda found: _spread(
        found,
        "mean_cosine",
        "Mean cosine of two different texts of a length",
    ),
    "between": _between,
    "centroid": lambda found: _spread(
        found,
        "distance_to_centroid",
        "Mean distance of a length's normalised vectors to their centroid",
    ),
    "rank": lambda found: _spread(
        found,
        "effective_rank",
        "Effective rank of a length's normalised vectors, not centred",
        "It grows with the number of texts, so compare it only between equal numbers.",
        digits=1,
    ),
    "filter_rate": lambda found: _layers(
        found,
        "filter_rate",
        "Filter rate σₐ, the largest singular value of (I − 11ᵀ/n)A, measured, mean over layers and heads",
    ),
    "energy": lambda found: _layers(
        found,
        "high_energy",
        "Share of ‖X‖² that is not the tokens' mean (HC; the rest is DC), said here of the last hidden states",
    ),
    "entropy": lambda found: _layers(
        found,
        "entropy",
        "Entropy of attention over log n, mean over layers and heads",
        "1 is attention to all alike.",
    ),
}
