"""The table of scripts/benchmark/run.py: the ratios of speed first, then the speed of each engine."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Above this share of the cores used by other processes, the figures mean little, above all those of PyTorch.
TOO_BUSY = 0.1

LABELS = {
    "10": "texts of about 10 tokens",
    "139": "texts of about 139 tokens",
    "304": "texts of about 304 tokens",
    "mixed": "texts of 10 to 512 tokens",
    "corpus": "real texts",
    "query": "one short query",
    "start": "fresh process to first vector",
    "start, cold": "fresh process to first vector, nothing compiled before",
    "start, warm": "fresh process to first vector, compiled before",
}


def ratios(seconds: Mapping[str, list[float]], of: str = "tsjax") -> dict[str, dict[str, float]]:
    """Return the ratio of each other engine's time to that of ``of``: median, minimum and maximum over the rounds."""
    found = {}
    for name, theirs in seconds.items():
        if name != of and of in seconds:
            each = [their / our for their, our in zip(theirs, seconds[of], strict=True)]
            found[name] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found


def table(results: dict[str, Any], engines: Sequence[str]) -> Iterator[str]:
    """Yield lines of Markdown: the setup, the table of each model, and the differences between the vectors."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield (
        f"Measured on {results['date'][:10]} with {versions}, Python {machine['python']}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']} GB; {_devices(results)}."
    )
    others = [name for name in engines if name != "tsjax"]
    head = ["model", "work", *(f"× {name}" for name in others), *engines, "padding", "shapes", "of the limit"]
    rows = [
        [model, LABELS.get(name, name.replace("x", " × ")), *_cells(figures, content, engines, others)]
        for model, content in results["models"].items()
        for name, figures in content["workloads"].items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    yield ""
    yield _row(head, widths)
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    for row in rows:
        yield _row(row, widths)
    yield ""
    yield from _apart(results)
    shares = [f["others"] for c in results["models"].values() for f in c["workloads"].values() if f.get("others")]
    if shares:
        busy = " Such a machine is too busy: measure again on an idle one." if max(shares) > TOO_BUSY else ""
        yield f"Other processes took {statistics.median(shares):.0%} of the cores, {max(shares):.0%} at most.{busy}"


def _devices(results: dict[str, Any]) -> str:
    """Return each engine's device and dtype."""
    abouts = next(iter(results["models"].values()))["engines"]
    return ", ".join(f"{name} in {about['dtype']} on {about['device']}" for name, about in abouts.items())


def _cells(
    figures: dict[str, Any], content: dict[str, Any], engines: Sequence[str], others: Sequence[str]
) -> Iterator[str]:
    for name in others:
        ratio = figures["ratios"].get(name)
        yield "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
    for name in engines:
        yield _speed(figures["engines"].get(name), figures)
    ours = figures["engines"].get("tsjax", {})
    yield f"{ours['padding_share']:.1%}" if "padding_share" in ours else ""
    yield f"{ours['compiled_shapes']}" if "compiled_shapes" in ours else ""
    limit = content["matrix_operations_per_second"]
    yield f"{ours['operations_per_second'] / limit:.0%}" if "operations_per_second" in ours else ""


def _speed(engine: dict[str, Any] | None, figures: dict[str, Any]) -> str:
    """Return the tokens per second, or the time of a single text."""
    if engine is None:
        return ""
    seconds = statistics.median(engine["seconds"])
    if figures["texts"] > 1:
        return f"{engine['tokens_per_second']:,.0f} tokens/s"
    return f"{seconds:.1f} s" if seconds > 1 else f"{seconds * 1000:.1f} ms"


def _apart(results: dict[str, Any]) -> Iterator[str]:
    for model, content in results["models"].items():
        found = {name: value for name, value in content["difference_from_reference"].items() if value}
        if found:
            each = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
            yield f"Greatest difference from sentence-transformers' normalised vectors, {model}: {each}."


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
