"""Tasks made from the files of packages: questions with answers, pairs that people judged, texts with labels.

The functions are pure functions of a file's content. `lab_data.py` fetches the files and writes the results.
"""

from __future__ import annotations

import csv
import html
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_HEADING = re.compile(r"<h([12])\b[^>]*>(.*?)</h\1>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile("<[^>]+>")
_NUMBER = re.compile(r"^[A-J](\.\d+)*\.?\s+")
_POD_HEADING = re.compile(r"^=head([12]) (.*)$", re.MULTILINE)

# A shorter answer, in words, only introduces the questions below it, or is part of a table of contents.
_LEAST_WORDS = 50


class Answer(NamedTuple):
    """A question and the text that answers it."""

    question: str
    text: str


def html_answers(page: str) -> Iterator[Answer]:
    """Yield the questions in a page's ``<h1>`` and ``<h2>``, without their number, and the text up to the next one.

    Tags become spaces, entities characters, and white space single spaces.
    """
    headings = list(_HEADING.finditer(page))
    for heading, end in zip(headings, [*(h.start() for h in headings[1:]), len(page)], strict=True):
        question, text = _plain(heading[2]), _plain(page[heading.end() : end])
        if "?" in question and len(text.split()) >= _LEAST_WORDS:
            yield Answer(_NUMBER.sub("", question), text)


def _plain(markup: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def pod_answers(source: str) -> Iterator[Answer]:
    """Yield each ``=head2`` of a POD file and the text up to the next ``=head1`` or ``=head2``.

    Formatting codes are kept.
    """
    headings = list(_POD_HEADING.finditer(source))
    for heading, end in zip(headings, [*(h.start() for h in headings[1:]), len(source)], strict=True):
        if heading[1] == "2":
            yield Answer(heading[2].strip(), source[heading.end() : end].strip())


def beir(answers: Iterable[Answer]) -> dict[str, list[dict[str, Any]] | str]:
    """Return a retrieval task in BEIR's layout as rows or text by file; only a question's answer is relevant."""
    found = list(answers)
    rows = "".join(f"q{i}\td{i}\t1\n" for i in range(len(found)))
    return {
        "corpus.jsonl": [{"_id": f"d{i}", "text": answer.text} for i, answer in enumerate(found)],
        "queries.jsonl": [{"_id": f"q{i}", "text": answer.question} for i, answer in enumerate(found)],
        "qrels/test.tsv": f"query-id\tcorpus-id\tscore\n{rows}",
    }


def lee_pairs(corpus: str, similarities: str) -> Iterator[dict[str, Any]]:
    """Yield every pair of Lee's 50 news texts, with the mean of the similarities that people assigned, 0 to 1."""
    texts = corpus.splitlines()
    scores = [[float(x) for x in line.split()] for line in similarities.splitlines()]
    for i, first in enumerate(texts):
        for j in range(i + 1, len(texts)):
            yield {"sentence1": first, "sentence2": texts[j], "score": scores[i][j]}


def newsgroup_texts(table: str, split: str) -> Iterator[dict[str, str]]:
    """Yield articles of 20 newsgroups, in lower case and without punctuation, each after its subject.

    The subject is the only header, so no line ``Newsgroups:`` reveals the label. Source: a tab-separated file with
    three header lines.
    """
    for line in table.split("\n")[3:]:
        label, tab, text = line.partition("\t")
        if tab:
            yield {"text": text, "label": label, "split": split}


def address_texts(metadata: str, speeches: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield State of the Union addresses in order of their dates; ``speeches`` are texts by the metadata's id."""
    for row in csv.DictReader(io.StringIO(metadata)):
        facts = {"president": row["president_full"], "party": row["party"], "year": int(row["year"])}
        yield {"text": speeches[row["fileid"]], **facts}
