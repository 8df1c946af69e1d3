"""Texts for the evidence that are derived from other texts: a sample with labels, passages, one half of a task."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.lab.evaluation.copies import same_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tsjax.lab.evaluation.tasks.retrieval import Retrieval

_PASSAGE = 32  # words
_LEAST_REST = 150


def labelled_sample(rows: Sequence[Mapping[str, Any]], *, texts: int, seed: int) -> list[dict[str, Any]]:
    """Return ``texts`` rows in a seeded order, with labels as balanced as possible."""
    by_label = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append({"text": row["text"], "label": row["label"]})
    rng = np.random.default_rng(seed)
    each = texts // len(by_label)
    chosen = [own[place] for _, own in sorted(by_label.items()) for place in rng.permutation(len(own))[:each].tolist()]
    return [chosen[place] for place in rng.permutation(len(chosen)).tolist()]


def excerpts(texts: Sequence[str], folder: Path, *, texts_wanted: int, seed: int) -> None:
    """Write a retrieval task in BEIR's layout: the first words of a long text are the query, the rest the document."""
    long = [text.split() for text in dict.fromkeys(texts)]
    long = [words for words in long if len(words) >= _PASSAGE + _LEAST_REST]
    order = np.random.default_rng(seed).permutation(len(long))[:texts_wanted].tolist()
    documents = [" ".join(long[place][_PASSAGE:]) for place in order]
    queries = [" ".join(long[place][:_PASSAGE]) for place in order]
    _write_retrieval(folder, documents, queries, [[place] for place in range(len(order))])


def held_out_half(task: Retrieval, folder: Path, *, seed: int) -> None:
    """Write a retrieval task of the questions held out with this seed, and of only the texts that answer them."""
    questions = task.split(seed).held_out.tolist()
    documents = sorted({document for question in questions for document in task.relevant[question]})
    _write_part(task, folder, documents, questions)


def answered_once(task: Retrieval, folder: Path, questions: Sequence[int]) -> None:
    """Write a retrieval task of some questions, with only one question per text: the one with the longest answer.

    The answers of the omitted duplicates are left out. The other texts stay, including those of questions that are not
    selected.
    """
    words = [sum(len(task.documents[place].split()) for place in own) for own in task.relevant]
    longest: dict[str, int] = {}
    for question, text in enumerate(map(same_text, task.queries)):
        if text not in longest or words[question] > words[longest[text]]:
            longest[text] = question
    kept = set(longest.values())
    out = {place for question, own in enumerate(task.relevant) if question not in kept for place in own}
    out -= {place for question in kept for place in task.relevant[question]}
    documents = [place for place in range(len(task.documents)) if place not in out]
    _write_part(task, folder, documents, [question for question in questions if question in kept])


def _write_part(task: Retrieval, folder: Path, documents: Sequence[int], questions: Sequence[int]) -> None:
    place = {document: i for i, document in enumerate(documents)}
    _write_retrieval(
        folder,
        [task.documents[document] for document in documents],
        [task.queries[question] for question in questions],
        [[place[document] for document in task.relevant[question]] for question in questions],
    )


def _write_retrieval(
    folder: Path, documents: Sequence[str], queries: Sequence[str], relevant: Sequence[Sequence[int]]
) -> None:
    """Write BEIR's layout; ``relevant`` holds the indices of the documents that answer each query."""
    (folder / "qrels").mkdir()
    for name, letter, texts in (("corpus", "d", documents), ("queries", "q", queries)):
        content = "".join(json.dumps({"_id": f"{letter}{i}", "text": text}) + "\n" for i, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    judged = "".join(f"q{i}\td{place}\t1\n" for i, own in enumerate(relevant) for place in own)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
