"""Strict readers of task files; an error names the file and the line, and is raised before any work is done.

Retrieval is a folder in BEIR's layout (arXiv:2104.08663). The other tasks are files of any format that
`tsjax.jobs.input` reads, such as JSON lines, with one item in each row.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tsjax.errors import InputError
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.rows import CellReader
from tsjax.jobs.input.texts import open_file
from tsjax.jobs.input.typed_rows import read_typed_rows
from tsjax.lab.evaluation.tasks import STS, Classification, Clustering, Retrieval

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

_Task = TypeVar("_Task", Classification, Clustering)


def read_retrieval(folder: str | os.PathLike[str], *, qrels: str = "test", measure: str = "MRR@10") -> Retrieval:
    """Read a retrieval task from a folder in BEIR's layout.

    Args:
        folder: it holds ``corpus.jsonl`` (``_id``, ``text``, and a ``title`` that is put before the text),
            ``queries.jsonl`` (``_id``, ``text``) and ``qrels/test.tsv`` (a header, then query's id, document's id and
            grade, tab-separated; a grade of 0 means not relevant).
        qrels: the name of the file under ``qrels``, without its suffix.
        measure: see `Retrieval`.

    Queries without a relevant document are left out, and a document with a query's id is not searched for that query,
    unless it is relevant to it. The task's notes give the numbers of both.

    Raises:
        InputError: a file is missing or damaged, an id is duplicated or unknown, or nothing is left.
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


def read_sts(file: str | os.PathLike[str], *, measure: str = "Spearman", reading: Reading | None = None) -> STS:
    """Read pairs of texts from a file with ``sentence1``, ``sentence2`` and ``score``; raises an InputError.

    Args:
        file: JSON lines, one JSON array, CSV, TSV, Parquet or Arrow.
        measure: see `STS`.
        reading: how to read the file; None infers it from the file's name and first bytes.
    """
    pairs, scores = [], []
    for row in read_typed_rows(file, reading):
        pairs.append((row.text("sentence1"), row.text("sentence2")))
        scores.append(row.number("score"))
    with _naming(file):
        return STS(tuple(pairs), tuple(scores), measure)


def read_classification(
    file: str | os.PathLike[str], *, measure: str = "accuracy", reading: Reading | None = None
) -> Classification:
    """Read labelled texts from a file with ``text`` and ``label``; raises an InputError. Arguments as in `read_sts`."""
    return _labelled(Classification, file, measure, reading)


def read_clustering(
    file: str | os.PathLike[str], *, measure: str = "V-measure", reading: Reading | None = None
) -> Clustering:
    """Read labelled texts from a file with ``text`` and ``label``; raises an InputError. Arguments as in `read_sts`."""
    return _labelled(Clustering, file, measure, reading)


@contextlib.contextmanager
def _naming(file: str | os.PathLike[str]) -> Iterator[None]:
    """Prefix errors about the complete file with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _by_id(file: Path, *, titles: bool) -> dict[str, str]:
    """Return the texts by ``_id``, in the file's order."""
    texts: dict[str, str] = {}
    for row in read_typed_rows(file):
        name, text = row.name("_id"), row.text("text")
        if name in texts:
            raise InputError(f"{row.place}: the id {name!r} is there already")
        if titles and row.cells.get("title"):
            text = f"{row.text('title')} {text}".strip()
        texts[name] = text
    return texts


def _labelled(kind: type[_Task], file: str | os.PathLike[str], measure: str, reading: Reading | None) -> _Task:
    rows = [(row.text("text"), row.name("label")) for row in read_typed_rows(file, reading)]
    with _naming(file):
        return kind(tuple(text for text, _ in rows), tuple(label for _, label in rows), measure)


def _qrels(file: Path, queries: set[str], documents: dict[str, int]) -> dict[str, dict[int, int]]:
    """Return the grade of each relevant document by its place, for each query that has one."""
    grades: dict[str, dict[int, int]] = {}
    seen = set()
    _check_header(file)
    for row in read_typed_rows(file, Reading("tsv")):
        place = row.place
        query, document, grade = row.cells.values()
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


def _check_header(file: Path) -> None:
    """Check that the first line names three columns.

    A grade in it means that the file has no header, and that its first line would be lost.
    """
    with contextlib.closing(open_file(str(file), None, Reading("tsv"))) as reader:
        assert isinstance(reader, CellReader)
        header = reader.header
    if header and (len(header) != 3 or header[-1].strip().lstrip("-").isdecimal()):
        raise InputError(
            f"{file}, line 1: the first line must name the columns: query-id, corpus-id, score, with tabs between"
        )


# The time and memory that the measures take grow with the greatest grade.
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
