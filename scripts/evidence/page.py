"""The page docs/evidence.md, from the reports of its studies: every figure and verdict is read from a report.

The page consists of sections, each with some studies. A section with missing studies is kept unchanged, so that one
section can be renewed without hours for the others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Reports = Mapping[str, dict[str, Any]]
    Pictures = dict[str, tuple[str, str]]

_MODELS = {"minilm": "all-MiniLM-L6-v2", "mpnet": "all-mpnet-base-v2"}

_INTRODUCTION = """\
# Evidence

What length collapse looks like, what a temperature does about it on texts that the choice never saw, what laws of
length and learning add, and where nothing helps. Written by `scripts/evidence/collect.py --write` from the reports of
the commands at the end; nothing here is typed by hand but the explanations.

How to read it: *points* are hundredths of the measure. A τ is chosen on one part of the questions (pairs, texts), its
gain over τ = 1 reported on another, with a 95 % interval by the paired bootstrap over those; an interval that holds 0
is no gain, and one that does not is **bold**, unless too few questions differ to tell. Each interval is at 95 %, so of
forty rows without any gain one may look like one. They speak of other questions on the same documents (of sentence
similarity: of other texts), not of other documents. A section has the date, the machine and the code that it was
measured with.

A study of before 28 November 2026 split pairs and labelled texts at random, also where they share a text, and its
intervals are of the plain percentile. Now equal texts are on one side of every split and drawn together, and intervals
are a little wider. Studies of retrieval have the same splits as before (their corpora share no answers). Those of
newsgroups and Lee50 have others, and the verdict on all-MiniLM-L6-v2 on Lee50 does not hold: with today's code τ = 0.7
gains +3.7 (−3.2 to +10.8) there, which is no gain beyond noise.

The FAQ on anarchism has 24 of its 457 questions twice, the second time above a chapter's table of contents, which
counts as that question's only answer; most of its answers below 256 tokens are such lists. The corpus is kept like this
to be comparable with earlier figures. Where it is named *once*, these 24 and their questions are left out.

The data come by `python -m scripts.lab.data`, all-mpnet-base-v2 by `make verify`; what is cut out of them, and every
command, is run by `python -m scripts.evidence.collect`.
"""

_COLLAPSE = """\
Posts to newsgroups, and state-of-the-union addresses: as they are (where some are of several lengths), cut to each
length (length varies, the text does not), and as one passage repeated (length varies, what is said does not). Cuts and
passages begin anywhere in a text, since addresses open with salutations, which are all alike whatever follows. A mean
cosine that rises with length is collapse; where it rises for whole texts only, it is what they say, not how long they
are. The paper explains collapse by attention that lets ever less but the mean through as texts get longer: σₐ and HC
would fall with length. What was measured is below.
"""

_SWEEP = """\
*Best* is what did best on the validation part, of all that was tried. That part is as large as the held-out one; of a
classification a third part trains the classifier.
"""

_LEARN = """\
One temperature for each layer and head, the weights frozen, learned from the half of the questions that is not held
out. Those are too few for a part of them to say when to stop, so nothing validates. Instead the size of a batch, the
learning rate, the length at which texts are cut and the number of steps were chosen by what they gave on the held-out
halves of two other splits (seeds 3 and 4) and on perlfaq. So no temperature was learned from a question that it is
scored on, but these few settings were chosen by scores on halves that hold three quarters of them. *Best scalar* and
*best law* are chosen on the half that is not held out. Corpora marked as unseen are scored with all their questions;
*anarchism-held-out* is the held-out half by itself, its questions and the texts that answer them, the others left out;
*anarchism-once-held-out* is its questions among all texts, without tables of contents (see above).
"""

_MIX = """\
The same with the same settings, learned from two of three corpora, so that the third can say whether such temperatures
serve texts that they were not learned from: rows marked as unseen. Temperatures that did better there than the best
scalar would be shipped by name, for texts of any kind.
"""

_FULL = """\
Scores over all questions at each τ, to compare with other implementations: no choice was made, so no interval is given.
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: its heading.
        text: its introduction.
        studies: prefixes of the names of its studies.
        body: function that writes it, and records the pictures that it shows.
    """

    title: str
    text: str
    studies: tuple[str, ...]
    body: Callable[[Reports, Pictures], Iterator[str]]

    def of(self, studies: Sequence[str]) -> list[str]:
        """Return the studies that belong to the section."""
        return [study for study in studies if study.startswith(self.studies)]


def page(
    studies: Sequence[str], found: Reports, records: Mapping[str, Mapping[str, str]], before: str = ""
) -> tuple[str, Pictures]:
    """Return the page, and the new pictures: the study and the file of each, by their names on the page.

    Args:
        studies: the names of all studies.
        found: the report of each study that was run.
        records: details of each run: ``command``, ``date``, ``machine``, ``versions``.
        before: the previous page, for the sections that are not renewed.
    """
    pictures: Pictures = {}
    parts = [_INTRODUCTION]
    for section in _SECTIONS:
        own = section.of(studies)
        if own and all(study in found for study in own):
            parts.append(_rendered(section, {study: found[study] for study in own}, records, pictures))
        elif (old := _section(before, section.title)) is not None:
            parts.append(old)
    return "\n".join(parts), pictures


def _rendered(section: Section, found: Reports, records: Mapping[str, Mapping[str, str]], pictures: Pictures) -> str:
    where = sorted(
        {f"{records[study]['date']}, {records[study]['machine']}, {records[study]['versions']}" for study in found}
    )
    body = "\n".join(section.body(found, pictures))
    commands = "\n".join(records[study]["command"] for study in found)
    measured = f"Measured: {'; '.join(where)}; with\n"
    return f"## {section.title}\n\n{section.text}\n{body}\n{measured}\n```sh\n{commands}\n```\n"


def _section(text: str, title: str) -> str | None:
    """Return a section of a page, with its heading; None if the page has no such section."""
    match = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return None if match is None else match[0].rstrip("\n") + "\n"


def _named(study: str) -> tuple[str, str]:
    """Return the model and the corpus of a study."""
    _, model, corpus = study.split("-", 2)
    return _MODELS[model], corpus


def _collapse(found: Reports, pictures: Pictures) -> Iterator[str]:
    for study, report in found.items():
        model, corpus = _named(study)
        yield f"### {model}, {corpus}\n"
        for plot, sentence in report["sentences"].items():
            yield f"{sentence}\n"
            yield _picture(pictures, study, f"{plot}.png", f"{plot} by length, {model}")


def _sweeps(found: Reports, pictures: Pictures) -> Iterator[str]:
    rows = []
    for study, report in found.items():
        model, corpus = _named(study)
        candidates = report["candidates"]
        best = next(one for one in candidates if one["name"] == report["best_on_validation"])
        scores = (f"{one['held_out']:.4f}" for one in (candidates[0], best))
        kind = f"{report['task']}, {report['measure']}"
        rows.append([model, corpus, kind, str(report["held_out_items"]), *scores, best["name"], _gain(best["gain"])])
    yield _table(
        ["model", "corpus", "task", "held out", "τ = 1", "best", "which", "gain in points (95 % interval)"], rows
    )
    for study, report in found.items():
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
        best = report["best_on_validation"]
        compared = best != report["candidates"][0]["name"]
        if len(lengths := report["by_length"]) > 1:
            yield f"By tokens of the text that matters, τ = 1{f' and {best}' if compared else ''}:\n"
            header = ["tokens", report["unit"], "τ = 1", "best", "gain in points (95 % interval)"]
            rows = [
                [f"{x['start']}–{x['end'] - 1}", str(x["items"]), _score(x["baseline"]), _score(x["best"]),
                 _gain(x["gain"])]
                for x in lengths
            ]  # fmt: skip
            columns = len(header) if compared else header.index("best")
            yield _table(header[:columns], [row[:columns] for row in rows])
        yield _picture(pictures, study, "sweep.png", f"score against τ, {model} on {corpus}")


def _learned(found: Reports, pictures: Pictures) -> Iterator[str]:
    rows = []
    for study, report in found.items():
        by_corpus: defaultdict[str, dict[str, Any]] = defaultdict(dict)
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
    gains = defaultdict(list)
    for report in found.values():
        for row in report["comparison"]:
            if row["name"] == "learned":
                corpus = re.sub(r"-\d+$", "", row["corpus"])  # the held-out halves of several seeds
                gains[corpus if row["seen"] else f"{corpus} (unseen)"].append(100 * row["gain"])
    means = [f"{corpus} {fmean(own):+.1f}, of {len(own)} runs" for corpus, own in gains.items() if len(own) > 1]
    if means:
        yield f"Mean gain of what was learned, in points: {'; '.join(means)}.\n"
    yield f"How: {'; '.join(sorted({_how(report) for report in found.values()}))}.\n"
    for study, report in found.items():
        yield _picture(pictures, study, "temperatures.png", f"temperature of every layer and head, {study}")
        validated = report["curve"][0]["validation_loss"] is not None
        yield (
            f"Temperatures of `{study}`: after {report['best_step']} steps"
            + (", which validation found best" if validated else "")
            + ("; learned anew from all pairs that are not held out.\n" if report["refitted"] else ".\n")
        )
    yield _picture(pictures, next(iter(found)), "curve.png", "loss by step")


def _mixed(found: Reports, pictures: Pictures) -> Iterator[str]:
    yield from _learned(found, pictures)
    unseen = [
        row for report in found.values() for row in report["comparison"] if row["name"] == "learned" and not row["seen"]
    ]
    better = [row["corpus"] for row in unseen if row["over_scalar_telling"] and row["over_scalar_low"] > 0]
    follows = "some may be worth shipping" if better else "none is shipped: learn them from your own texts"
    yield (
        f"What follows: on {len(better)} of the {len(unseen)} corpora left out, what was learned beats the best scalar "
        f"beyond noise, so {follows}.\n"
    )


def _how(report: Mapping[str, Any]) -> str:
    recipe = report["recipe"]
    length = "the length that is scored" if recipe["train_length"] is None else f"{recipe['train_length']} tokens"
    return (
        f"up to {recipe['steps']} steps of {recipe['batch_size']} pairs, learning rate {recipe['learning_rate']:g}, "
        f"penalty {recipe['penalty']:g}, texts cut at {length}"
    )


def _full(found: Reports, pictures: Pictures) -> Iterator[str]:
    del pictures
    rows = []
    for study, report in found.items():
        # Only a mean over questions equals the mean of its halves; other measures do not.
        if report["task"] != "retrieval":
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
    if row[f"{name}_low"] is None:  # one question has no interval
        return ""
    return _points(row[name], row[f"{name}_low"], row[f"{name}_high"], telling=row[f"{name}_telling"])


def _gain(gain: dict[str, float | None] | None) -> str:
    if gain is None or None in gain.values():
        return ""
    return _points(gain["difference"], gain["low"], gain["high"], telling=bool(gain["telling"]))


def _points(difference: float | None, low: float | None, high: float | None, *, telling: bool) -> str:
    assert difference is not None
    assert low is not None
    assert high is not None
    text = f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"**{text}**" if telling and (low > 0 or high < 0) else text


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _picture(pictures: Pictures, study: str, file: str, said: str) -> str:
    name = f"{study}-{file}"
    pictures[name] = (study, file)
    return f"![{said}](evidence/{name})\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


_SECTIONS = (
    *(
        Section(f"What collapses: {model}", _COLLAPSE, (f"collapse-{short}",), _collapse)
        for short, model in _MODELS.items()
    ),
    *(
        Section(
            f"One τ, or a law of length: {model}",
            _SWEEP,
            (f"sweep-{short}", f"sides-{short}", f"clusters-{short}"),
            _sweeps,
        )
        for short, model in _MODELS.items()
    ),
    Section("Learned temperatures", _LEARN, ("learn-minilm-anarchism",), _learned),
    Section("Learned from a mix, scored on what was left out", _MIX, ("learn-minilm-without",), _mixed),
    Section("All questions, nothing chosen", _FULL, ("sweep-minilm", "ndcg-minilm"), _full),
)
