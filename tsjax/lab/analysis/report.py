"""Files of a length-collapse report: report.json, a CSV for each table, PNG plots, and index.html to show them."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.errors import is_installed
from tsjax.lab.analysis import plots
from tsjax.lab.analysis.corpora import CORPUS_TITLES
from tsjax.lab.analysis.sentences import LEGENDS, helped, sentences
from tsjax.lab.reporting import figures
from tsjax.lab.reporting.tables import to_csv
from tsjax.storage.atomic import explaining
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tsjax.lab.analysis.collapse import Collapse

TABLES = ("vectors", "between", "changes", "heads", "states")

_TITLES = {
    "cosine": "Do longer texts crowd together?",
    "between": "Do texts of different lengths share one region?",
    "centroid": "How far are texts from their middle?",
    "rank": "How many directions do texts use?",
    "filter_rate": "What attention lets through",
    "energy": "What is left of the tokens' differences",
    "entropy": "How sharp attention is",
}


def write_report(found: Collapse, directory: Path) -> bool:
    """Write the report into an existing directory; return whether it has plots, which need matplotlib.

    Raises:
        OutputError: a file cannot be written.
    """
    with explaining(directory):
        content = {"about": found.about, "notes": found.notes, **{name: rows(found, name) for name in TABLES}}
        json.dumps(content, allow_nan=False)  # raises for NaN before sentences are made
        content["sentences"] = sentences(found)
        content["summary"] = helped(found)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (directory / "report.json").write_text(text + "\n", encoding="utf-8")
        for name in TABLES:
            if table := rows(found, name):
                (directory / f"{name}.csv").write_text(to_csv(table), encoding="utf-8")
        made = plots.plot(found) if is_installed("matplotlib") else {}
        for name, figure in made.items():
            figures.save(figure, directory / f"{name}.png")
        (directory / "index.html").write_text(_page(found, list(made)), encoding="utf-8")
    return bool(made)


def is_report(path: Path) -> bool:
    """Return whether a path is a directory with a report and no other files, so that replacing it loses nothing."""
    own = {"index.html", "report.json", *(f"{name}.csv" for name in TABLES), *(f"{name}.png" for name in _TITLES)}
    if path.is_symlink() or not path.is_dir() or path.resolve() == Path.cwd():
        return False
    there = {entry.name for entry in path.iterdir()}
    return {"index.html", "report.json", "vectors.csv"} <= there <= own


def lines(found: Collapse) -> Iterator[str]:
    """Yield the mean cosine of two different texts by length and τ, its meaning, and whether a temperature helped."""
    names = [entry["name"] for entry in found.about["temperatures"]]
    widths = [max(len(f"τ = {name}"), len("0.0000")) for name in names]
    by_key = {(row.corpus, row.length, row.temperature): row for row in found.vectors}
    for corpus in dict.fromkeys(row.corpus for row in found.vectors):
        yield f"mean cosine, {CORPUS_TITLES[corpus]}"
        heads = (f"τ = {name}".rjust(width) for name, width in zip(names, widths, strict=True))
        yield "  ".join([f"{'tokens':>8}  {'texts':>5}", *heads])
        for length in dict.fromkeys(row.length for row in found.vectors if row.corpus == corpus):
            own = [by_key[corpus, length, name] for name in names]
            scores = (f"{row.mean_cosine:{width}.4f}" for row, width in zip(own, widths, strict=True))
            yield "  ".join([f"{length:8,}  {own[0].texts:5,}", *scores])
        yield ""
    yield sentences(found)["cosine"]
    if summary := helped(found):
        yield summary


def rows(found: Collapse, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts."""
    return [row._asdict() for row in getattr(found, table)]


_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Length collapse: {model}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin: 2rem 0 0; }}
img {{ max-width: 100%; height: auto; }}
dt {{ font-weight: 600; float: left; clear: left; width: 11rem; }} dd {{ margin-left: 11.5rem; }}
</style>
<h1>Length collapse: {model}</h1>
"""


def _page(found: Collapse, pictures: Sequence[str]) -> str:
    """Return the HTML page; the pictures are in the same directory."""
    said = sentences(found)
    about = found.about
    facts = {
        "model": f"{about['model']} ({about['family']}, {about['dtype']})",
        "temperatures": ", ".join(entry["name"] for entry in about["temperatures"]),
        "texts": f"{about['texts']:,}, of which up to {max(about['texts_per_bucket'].values())} a length",
        "attention": f"measured in {counted(about['layer_texts'], 'text')} a length" if found.heads else "not measured",
        "seed": str(about["seed"]),
        "encoding fingerprint": about["encoding_fingerprint"],
    }
    parts = [_HEAD.format(model=html.escape(about["model"]))]
    parts.append("<dl>\n" + "".join(f"<dt>{key}<dd>{html.escape(value)}\n" for key, value in facts.items()) + "</dl>\n")
    if found.notes:
        parts.append("<ul>\n" + "".join(f"<li>{html.escape(note)}\n" for note in found.notes) + "</ul>\n")
    if summary := helped(found):
        parts.append(f"<p>{html.escape(summary)}</p>\n")
    for name, sentence in said.items():
        legend = f" {LEGENDS[name]}" if name in pictures and name in LEGENDS else ""
        parts.append(f"<h2>{_TITLES[name]}</h2>\n<p>{html.escape(sentence + legend)}</p>\n")
        if name in pictures:
            parts.append(f'<img src="{name}.png" alt="{_TITLES[name]}">\n')
    links = [f'<a href="{name}.csv">{name}.csv</a>' for name in TABLES if rows(found, name)]
    parts.append(
        f'<h2>Tables</h2>\n<p>{", ".join(links)}; all in <a href="report.json">report.json</a>.</p>\n</html>\n'
    )
    return "".join(parts)
