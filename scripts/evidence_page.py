"""docs/evidence.md from the reports of its studies: every figure and verdict is read, none is written here."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Reports = Mapping[str, dict[str, Any]]

_MODELS = {"minilm": "all-MiniLM-L6-v2", "mpnet": "all-mpnet-base-v2"}

_INTRODUCTION = """\
# Evidence

What length collapse looks like, what a temperature does about it on texts that the choice never saw, what laws of
length and learning add, and where nothing helps. Written by `scripts/evidence.py --write` from the reports of the
commands at the end; nothing here is typed by hand but the explanations.

How to read it: *points* are hundredths of the measure. A τ is chosen on one half of the questions (pairs, texts), its
gain over τ = 1 reported on the other half, with a 95 % interval by the paired bootstrap over those; an interval that
holds 0 is no gain. Each interval is at 95 %, so of forty rows without any gain one may look like one. They speak of
other questions on the same documents, not of other documents.
"""

_COLLAPSE = """\
## What collapses

Posts to newsgroups, and state-of-the-union addresses: as they are (where some are of several lengths), cut to each
length (length varies, the text does not), and as one passage repeated (length varies, what is said does not). A mean
cosine that rises with length is collapse; where it rises for whole texts only, it is what they say, not how long they
are. The paper explains collapse by attention that lets ever less but the mean through as texts get longer: σₐ and HC
would fall with length. What was measured is below.
"""

_SWEEP = """\
## One τ, or a law of length

*Best* is what did best on the validation half, of all that was tried.
"""

_LEARN = """\
## Learned temperatures

One temperature for each layer and head, the weights frozen. Learned from the half of the questions that is not held
out: a fifth of it decides after how many steps to stop, then all of it is learned from anew for so many. *Best scalar*
and *best law* are chosen on that same half. Corpora marked as unseen were not learned from, and all their questions
count.
"""

_FULL = """\
## All questions, nothing chosen

Scores over all questions at each τ, to compare with other implementations: no choice was made, so no interval is given.
"""


def page(found: Reports, records: Mapping[str, Mapping[str, str]]) -> tuple[str, dict[str, tuple[str, str]]]:
    """The page, and its pictures: by their names on the page, the study and the file that each is from.

    Args:
        found: the report of each study.
        records: how each was run: ``command``, ``date``, ``machine``, ``versions``.
    """
    pictures: dict[str, tuple[str, str]] = {}
    where = sorted({f"{one['date']}, {one['machine']}, {one['versions']}" for one in records.values()})
    parts = [_INTRODUCTION, f"Measured: {'; '.join(where)}.\n"]
    for text, section in ((_COLLAPSE, _collapse), (_SWEEP, _sweeps), (_LEARN, _learned), (_FULL, _full)):
        if body := "\n".join(section(found, pictures)):
            parts.append(f"{text}\n{body}")
    parts.append("## Commands\n\nThe data come by `python scripts/lab_data.py`, the model by `make verify`. Then:\n")
    parts.append("```sh\n" + "\n".join(records[name]["command"] for name in found) + "\n```\n")
    return "\n".join(parts), pictures


def _named(study: str) -> tuple[str, str]:
    """The model and the corpus of a study."""
    _, model, corpus = study.split("-", 2)
    return _MODELS[model], corpus


def _collapse(found: Reports, pictures: dict[str, tuple[str, str]]) -> Iterator[str]:
    for study, report in found.items():
        if not study.startswith("collapse"):
            continue
        model, corpus = _named(study)
        yield f"### {model}, {corpus}\n"
        for plot, sentence in report["sentences"].items():
            yield f"{sentence}\n"
            yield _picture(pictures, study, f"{plot}.png", f"{plot} by length, {model}")


def _sweeps(found: Reports, pictures: dict[str, tuple[str, str]]) -> Iterator[str]:
    rows = []
    shown = [study for study in found if study.startswith(("sweep", "sides", "clusters"))]
    for study in shown:
        report = found[study]
        model, corpus = _named(study)
        candidates = report["candidates"]
        best = next(one for one in candidates if one["name"] == report["best_on_validation"])
        scores = (f"{one['held_out']:.4f}" for one in (candidates[0], best))
        kind = f"{report['task']}, {report['measure']}"
        rows.append([model, corpus, kind, str(report["held_out_items"]), *scores, best["name"], _gain(best["gain"])])
    yield _table(
        ["model", "corpus", "task", "held out", "τ = 1", "best", "which", "gain in points (95 % interval)"], rows
    )
    for study in shown:
        report = found[study]
        model, corpus = _named(study)
        yield f"### {model}, {corpus}: {report['task']}\n"
        yield f"In words: {report['verdict']}.\n"
        yield from (f"{note[0].upper()}{note[1:]}.\n" for note in report["notes"])
        yield _table(
            ["temperature", "validation", "held out", "gain in points (95 % interval)"],
            [
                [one["name"], f"{one['validation']:.4f}", f"{one['held_out']:.4f}", _gain(one["gain"]) if place else ""]
                for place, one in enumerate(report["candidates"])
            ],
        )
        if len(lengths := report["by_length"]) > 1:
            yield f"By tokens of the text that matters, τ = 1 and {report['best_on_validation']}:\n"
            yield _table(
                ["tokens", report["unit"], "τ = 1", "best", "gain in points (95 % interval)"],
                [
                    [f"{x['start']}–{x['end'] - 1}", str(x["items"]), _score(x["baseline"]), _score(x["best"]),
                     _gain(x["gain"])]
                    for x in lengths
                ],
            )  # fmt: skip
        yield _picture(pictures, study, "sweep.png", f"score against τ, {model} on {corpus}")


def _learned(found: Reports, pictures: dict[str, tuple[str, str]]) -> Iterator[str]:
    rows = []
    shown = [study for study in found if study.startswith("learn")]
    if not shown:
        return
    for study in shown:
        report = found[study]
        by_corpus = defaultdict(dict)
        for row in report["comparison"]:
            by_corpus[row["corpus"]][row["name"]] = row
        for corpus, ways in by_corpus.items():
            learned = ways["learned"]
            rows.append(
                [
                    study.split("-", 2)[2].replace("-", " "),
                    corpus if learned["seen"] else f"{corpus} (unseen)",
                    str(learned["queries"]),
                    f"{ways['none']['score']:.4f}",
                    *(_way(ways.get(name)) for name in ("best scalar", "best law")),
                    f"{learned['score']:.4f}, {_flat_gain(learned, 'gain')}",
                    _flat_gain(learned, "over_scalar"),
                ]
            )
    header = ["learned from (seed)", "scored on", "questions", "none", "best scalar", "best law", "learned",
              "learned over best scalar"]  # fmt: skip
    yield _table(header, rows)
    for study in shown:
        yield _picture(pictures, study, "temperatures.png", f"temperature of every layer and head, {study}")
        yield (
            f"Temperatures of `{study}`: after {found[study]['best_step']} steps, which validation found best"
            + ("; learned anew from all pairs that are not held out.\n" if found[study]["refitted"] else ".\n")
        )
    yield _picture(pictures, shown[0], "curve.png", "loss by step")


def _full(found: Reports, pictures: dict[str, tuple[str, str]]) -> Iterator[str]:
    del pictures
    rows = []
    for study, report in found.items():
        # A mean over questions is the mean of its halves; other measures are not.
        if not study.startswith(("sweep", "ndcg")) or report["task"] != "retrieval":
            continue
        model, corpus = _named(study)
        halves = report["validation_items"], report["held_out_items"]
        for one in report["candidates"]:
            if one["law"] == "none" and one["side"] == "both":
                score = (halves[0] * one["validation"] + halves[1] * one["held_out"]) / sum(halves)
                rows.append([model, corpus, report["measure"], f"{one['tau']:g}", str(sum(halves)), f"{score:.4f}"])
    if rows:
        yield _table(["model", "corpus", "measure", "τ", "questions", "score"], sorted(rows))


def _way(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['score']:.4f}, {_flat_gain(row, 'gain')}, τ = {row['temperature']}"


def _flat_gain(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    return _points(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _gain(gain: dict[str, float | None] | None) -> str:
    if gain is None or None in gain.values():
        return ""
    return _points(gain["difference"], gain["low"], gain["high"])


def _points(difference: float | None, low: float | None, high: float | None) -> str:
    assert difference is not None
    assert low is not None
    assert high is not None
    text = f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _picture(pictures: dict[str, tuple[str, str]], study: str, file: str, said: str) -> str:
    name = f"{study}-{file}"
    pictures[name] = (study, file)
    return f"![{said}](evidence/{name})\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
