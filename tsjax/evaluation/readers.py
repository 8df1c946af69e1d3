"""Tasks from files, strictly: whatever is wrong with them is said with the file and the line, before any work is done.

Retrieval is a folder as BEIR has it (arXiv:2104.08663); the others are JSONL, one item a line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tsjax.errors import InputError
from tsjax.evaluation.tasks import STS, Classification, Clustering, Retrieval
from tsjax.jobs.texts import decoded_lines, open_binary
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


def read_retrieval(folder: str | os.PathLike[str], *, qrels: str = "test", measure: str = "MRR@10") -> Retrieval:
    """A retrieval task from a folder as BEIR has it.

    Args:
        folder: it holds ``corpus.jsonl`` (``_id``, ``text``, and a ``title`` that is put before the text),
            ``queries.jsonl`` (``_id``, ``text``) and ``qrels/test.tsv`` (a header, then query's id, document's id and
            grade, tab-separated; a grade of 0 means not relevant).
        qrels: which file under ``qrels``, without its suffix.
        measure: see `Retrieval`.

    Queries without a relevant document are left out, and a document with a query's id is not searched for that query,
    unless it is relevant to it; the task's notes say how many.

    Raises:
        InputError: a file is missing or damaged, an id is there twice or unknown, or nothing is left.
    """
    base = Path(folder)
    if not base.is_dir():
        raise InputError(f"there is no folder {base}; a retrieval task has corpus.jsonl, queries.jsonl and qrels/")
    documents = _by_id(base / "corpus.jsonl", titles=True)
    if not documents:
        raise InputError(f"{base / 'corpus.jsonl'} is empty; there is nothing to find")
    queries = _by_id(base / "queries.jsonl", titles=False)
    if not queries:
        raise InputError(f"{base / 'queries.jsonl'} is empty; there is nothing to look for")
    grades = _qrels(base / "qrels" / f"{qrels}.tsv", set(queries), {name: i for i, name in enumerate(documents)})
    judged = [name for name in queries if grades.get(name)]
    if not judged:
        raise InputError(f"{base / 'qrels' / f'{qrels}.tsv'} names no relevant document for any query")
    for name in judged:
        if not queries[name].strip():
            raise InputError(f"{base / 'queries.jsonl'}: query {name!r} has no text")
    left_out = len(queries) - len(judged)
    place = {name: i for i, name in enumerate(documents)}
    itself = tuple(place[name] if name in place and place[name] not in grades[name] else -1 for name in judged)
    same = sum(own >= 0 for own in itself)
    notes = []
    if left_out:
        notes.append(f"{left_out:,} of {len(queries):,} queries have no relevant document and were left out")
    if same:
        notes.append(f"documents with the id of a query, {same:,} of them, were not searched for it, as BEIR does")
    return Retrieval(
        tuple(documents.values()),
        tuple(queries[name] for name in judged),
        tuple(grades[name] for name in judged),
        measure,
        tuple(notes),
        itself if max(itself) >= 0 else (),
    )


def read_sts(file: str | os.PathLike[str], *, measure: str = "Spearman") -> STS:
    """Pairs of texts from a JSONL file with ``sentence1``, ``sentence2`` and ``score``; raises an InputError."""
    pairs, scores = [], []
    for row in rows_of(Path(file)):
        pairs.append((row.text("sentence1"), row.text("sentence2")))
        scores.append(row.number("score"))
    with _naming(file):
        return STS(tuple(pairs), tuple(scores), measure)


def read_classification(file: str | os.PathLike[str], *, measure: str = "accuracy") -> Classification:
    """Texts with labels from a JSONL file with ``text`` and ``label``; raises an InputError."""
    texts, labels = _labelled(Path(file))
    with _naming(file):
        return Classification(texts, labels, measure)


def read_clustering(file: str | os.PathLike[str], *, measure: str = "V-measure") -> Clustering:
    """Texts with labels from a JSONL file with ``text`` and ``label``; raises an InputError."""
    texts, labels = _labelled(Path(file))
    with _naming(file):
        return Clustering(texts, labels, measure)


class _naming:  # noqa: N801  # used like a function
    """Put the file's name before what is wrong with all of it."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InputError):
            raise InputError(f"{self._file}: {error}") from error


class Row(NamedTuple):
    """A line of a JSONL file."""

    place: str
    values: dict[str, Any]

    def get(self, key: str) -> Any:
        if key not in self.values:
            known = ", ".join(map(repr, itertools.islice(self.values, 8))) or "nothing"
            raise InputError(f"{self.place}: there is no {key!r}, only {known}")
        return self.values[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise InputError(f"{self.place}: {key!r} is {value!r:.40}, not text")
        if lone_surrogate(value) is not None:
            raise InputError(f"{self.place}: {key!r} has a lone surrogate, which is not valid Unicode")
        return value

    def name(self, key: str) -> str:
        """Text or a whole number, as text: an id or a label."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise InputError(f"{self.place}: {key!r} is {value!r:.40}, neither text nor a whole number")
        return str(value)

    def number(self, key: str) -> float:
        value = self.get(key)
        with contextlib.suppress(OverflowError):  # a whole number that no float can hold
            if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
                return float(value)
        raise InputError(f"{self.place}: {key!r} is {value!r:.40}, not a finite number")


def rows_of(file: Path) -> Iterator[Row]:
    """The lines of a JSONL file that are not blank; raises an InputError."""
    with open_binary(str(file)) as stream:
        for number, line in enumerate(decoded_lines(stream, str(file)), start=1):
            if not line.strip():
                continue  # a blank line is no row in JSONL
            place = f"{file}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not JSON: {error}") from error
            if not isinstance(values, dict):
                raise InputError(f"{place}: {values!r:.40} is no object with names")
            yield Row(place, values)


def _by_id(file: Path, *, titles: bool) -> dict[str, str]:
    """Texts by ``_id``, in the file's order."""
    texts: dict[str, str] = {}
    for row in rows_of(file):
        name, text = row.name("_id"), row.text("text")
        if name in texts:
            raise InputError(f"{row.place}: the id {name!r} is there already")
        if titles and row.values.get("title"):
            text = f"{row.text('title')} {text}".strip()
        texts[name] = text
    return texts


def _labelled(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    rows = [(row.text("text"), row.name("label")) for row in rows_of(file)]
    return tuple(text for text, _ in rows), tuple(label for _, label in rows)


def _qrels(file: Path, queries: set[str], documents: dict[str, int]) -> dict[str, dict[int, int]]:
    """The grade of each relevant document by its place, for each query that has one."""
    grades: dict[str, dict[int, int]] = {}
    seen = set()
    with open_binary(str(file)) as stream:
        for number, line in enumerate(decoded_lines(stream, str(file)), start=1):
            cells = line.split("\t")
            place = f"{file}, line {number}"
            if number == 1:
                _check_header(place, cells)
                continue
            if not line.strip():
                continue
            if len(cells) != 3:
                raise InputError(f"{place}: {len(cells)} cells between tabs; there must be query, document and grade")
            query, document, grade = cells
            if query not in queries:
                raise InputError(f"{place}: there is no query {query!r} in queries.jsonl")
            if document not in documents:
                raise InputError(f"{place}: there is no document {document!r} in corpus.jsonl")
            if (query, document) in seen:
                raise InputError(f"{place}: query {query!r} and document {document!r} are there already")
            seen.add((query, document))
            if (value := _grade(place, grade)) > 0:
                grades.setdefault(query, {})[documents[document]] = value
    return grades


def _check_header(place: str, cells: list[str]) -> None:
    """The first line names the columns; a grade in it is a file without a header, whose first line would be lost."""
    try:
        int(cells[-1])
    except ValueError:
        return
    raise InputError(f"{place}: the first line must name the columns: query-id, corpus-id, score, with tabs between")


# The measures take time and memory by the greatest grade.
_MOST_GRADE = 1000


def _grade(place: str, grade: str) -> int:
    try:
        value = int(grade)
    except ValueError:
        raise InputError(f"{place}: the grade {grade!r:.40} is not a whole number") from None
    if value > _MOST_GRADE:
        raise InputError(
            f"{place}: the grade {grade:.40} is more than {_MOST_GRADE:,}; grades are few, such as 0, 1 and 2"
        )
    return value
