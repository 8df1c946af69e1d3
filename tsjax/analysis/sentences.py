"""What each plot of a study shows, in a sentence or two that are made of its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsjax.analysis.plots import CORPUS_TITLES, layer_corpus, shown_temperatures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tsjax.analysis.collapse import Collapse, VectorRow


def sentences(found: Collapse) -> dict[str, str]:
    """By the name of each plot; none for a plot that has no data."""
    said = {name: say(found) for name, say in _SENTENCES.items()}
    return {name: text for name, text in said.items() if text}


def _change(first: float, last: float) -> str:
    """From one figure to another, in words that do not claim more than two decimals tell."""
    a, b = f"{first:.2f}", f"{last:.2f}"
    if a == b:
        return f"stays at {a}"
    return f"{'rises' if last > first else 'falls'} from {a} to {b}"


def _spread(found: Collapse, value: str, what: str, footnote: str) -> str:
    """How a measure of vectors goes with length, for each corpus, at the first and the last τ."""
    names = [entry["name"] for entry in found.about["temperatures"]]
    parts = []
    for corpus in dict.fromkeys(row.corpus for row in found.vectors):
        ends = []
        for name in dict.fromkeys((names[0], names[-1])):
            own = [row for row in found.vectors if (row.corpus, row.temperature) == (corpus, name)]
            ends.append((name, own[0], own[-1]))
        parts.append(_one_corpus(corpus, ends, value))
    return f"{what}: {'; '.join(parts)}. {footnote}".strip()


def _one_corpus(corpus: str, ends: Sequence[tuple[str, VectorRow, VectorRow]], value: str) -> str:
    _, first, last = ends[0]
    where = f"{CORPUS_TITLES[corpus]} ({first.length} to {last.length} tokens"
    if first.length == last.length:
        where = f"{CORPUS_TITLES[corpus]} (up to {first.length} tokens"
        told = [f"{getattr(row, value):.2f} at τ = {name}" for name, row, _ in ends]
    else:
        told = [f"it {_change(getattr(a, value), getattr(b, value))} at τ = {name}" for name, a, b in ends]
    return f"{where}, {first.texts} texts each) {' and '.join(told)}"


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
            parts.append(
                f"{CORPUS_TITLES[corpus]}: {own[low, low]:.2f} among those of {low} tokens, {own[high, high]:.2f} "
                f"among those of {high}, {own[low, high]:.2f} between the two"
            )
    if not parts:
        return ""
    return f"Mean cosine of two different texts at τ = {name}. " + "; ".join(parts) + "."


def _layers(found: Collapse, value: str, what: str, footnote: str) -> str:
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
    said = f"{what}, in {CORPUS_TITLES[corpus]}, from {lengths[0]} to {lengths[-1]} tokens: it {', it '.join(told)}."
    return f"{said} {footnote}".strip()


_SENTENCES: dict[str, Callable[[Collapse], str]] = {
    "cosine": lambda found: _spread(
        found,
        "mean_cosine",
        "Mean cosine of two different texts of a length",
        "Bars are one standard error (jackknife).",
    ),
    "between": _between,
    "centroid": lambda found: _spread(
        found,
        "distance_to_centroid",
        "Mean distance of a length's normalised vectors to their centroid",
        "Bars are one standard error.",
    ),
    "rank": lambda found: _spread(
        found,
        "effective_rank",
        "Effective rank of a length's normalised vectors, not centred",
        "It grows with the number of texts, so compare it only between equal numbers.",
    ),
    "filter_rate": lambda found: _layers(
        found,
        "filter_rate",
        "Filter rate σₐ, the largest singular value of (I − 11ᵀ/n)A, measured, mean over layers and heads",
        "Shaded: the range over heads at the shortest and the longest.",
    ),
    "energy": lambda found: _layers(
        found,
        "high_energy",
        "Share of ‖X‖² that is not the tokens' mean (HC; the rest is DC), in the last layer's hidden states",
        "",
    ),
    "entropy": lambda found: _layers(
        found,
        "entropy",
        "Entropy of attention over log n, mean over layers and heads",
        "1 is attention to all alike. Shaded: the range over heads at the shortest and the longest.",
    ),
}
