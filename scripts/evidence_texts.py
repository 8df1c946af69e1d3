"""Texts for the evidence that are cut out of others: a sample with labels, and passages to find the rest by."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PASSAGE = 32  # words
_LEAST_REST = 150


def labelled_sample(rows: Sequence[dict[str, Any]], *, texts: int, seed: int) -> list[dict[str, Any]]:
    """So many rows, as many of each label as may be, in a seeded order."""
    by_label = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append({"text": row["text"], "label": row["label"]})
    rng = np.random.default_rng(seed)
    each = texts // len(by_label)
    chosen = [own[place] for _, own in sorted(by_label.items()) for place in rng.permutation(len(own))[:each].tolist()]
    return [chosen[place] for place in rng.permutation(len(chosen)).tolist()]


def excerpts(texts: Sequence[str], folder: Path, *, texts_wanted: int, seed: int) -> None:
    """A retrieval task in BEIR's layout: the first words of a long text are the query, the rest is to be found."""
    long = [text.split() for text in dict.fromkeys(texts)]
    long = [words for words in long if len(words) >= _PASSAGE + _LEAST_REST]
    order = np.random.default_rng(seed).permutation(len(long))[:texts_wanted].tolist()
    (folder / "qrels").mkdir()
    corpus = ({"_id": f"d{i}", "text": " ".join(long[place][_PASSAGE:])} for i, place in enumerate(order))
    queries = ({"_id": f"q{i}", "text": " ".join(long[place][:_PASSAGE])} for i, place in enumerate(order))
    for name, rows in (("corpus", corpus), ("queries", queries)):
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(order)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
