"""Errors in a task's files: each is a sentence that names the file and the line."""

import json

import pytest

from tests.support.fakes import write_lines, write_retrieval
from tsjax.errors import InputError
from tsjax.lab.evaluation import read_classification, read_clustering, read_retrieval, read_sts

DOCUMENTS = [{"_id": "a", "title": "About", "text": "one"}, {"_id": "b", "text": "two"}, {"_id": 3, "text": ""}]
QUERIES = [{"_id": "q", "text": "which?"}, {"_id": "r", "text": "what?"}, {"_id": "s", "text": "unjudged"}]
QRELS = [("q", "b", 1), ("r", "a", 2), ("r", "3", 1), ("r", "b", 0)]


def test_a_folder_as_beir_has_it(tmp_path):
    task = read_retrieval(write_retrieval(tmp_path, DOCUMENTS, QUERIES, QRELS), measure="ndcg@5")
    assert task.documents == ("About one", "two", "")
    assert task.queries == ("which?", "what?")
    assert task.relevant == ({1: 1}, {0: 2, 2: 1})
    assert task.measure == "nDCG@5"
    assert task.notes == ("1 of 3 queries have no relevant document and were left out",)


def test_another_file_of_judgements(tmp_path):
    folder = write_retrieval(tmp_path, DOCUMENTS, QUERIES, QRELS)
    (folder / "qrels" / "dev.tsv").write_bytes(b"query-id\tcorpus-id\tscore\r\ns\ta\t1\r\n\r\n")
    assert read_retrieval(folder, qrels="dev").queries == ("unjudged",)
    with pytest.raises(InputError, match=r"there is no file .*train\.tsv"):
        read_retrieval(folder, qrels="train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": []}, r"corpus\.jsonl is empty"),
        ({"documents": DOCUMENTS[1:2], "qrels": QRELS[:1]}, "a corpus of one document cannot be ranked"),
        ({"queries": []}, r"queries\.jsonl is empty"),
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, r"corpus\.jsonl, line 4: the id 'a' is there already"),
        ({"documents": [*DOCUMENTS, {"_id": "3", "text": "x"}]}, r"line 4: the id '3' is there already"),
        ({"documents": [{"text": "x"}]}, r"corpus\.jsonl, line 1: no '_id', only 'text'"),
        ({"documents": [{"_id": "a", "text": None}]}, r"line 1: 'text' is null"),
        ({"documents": [{"_id": "a", "title": 7, "text": "x"}]}, r"line 1: 'title' is 7, not text"),
        ({"documents": [{"_id": None, "text": "x"}]}, r"line 1: '_id' is None, neither text nor a whole number"),
        ({"documents": [{"_id": "a", "text": "\ud800"}]}, "line 1: 'text' has a lone surrogate"),
        ({"queries": ["which?"]}, r"queries\.jsonl, line 1: 'which\?' is not a JSON object"),
        ({"queries": [{"_id": "q", "text": " "}], "qrels": QRELS[:1]}, "query 'q' has no text"),
        ({"qrels": [("q", "zebra", 1)]}, r"test\.tsv, line 2: there is no document 'zebra' in corpus"),
        ({"qrels": [("zebra", "a", 1)]}, r"test\.tsv, line 2: there is no query 'zebra' in queries"),
        ({"qrels": [("q", "a", 1), ("q", "a", 1)]}, "line 3: query 'q' and document 'a' are there already"),
        ({"qrels": [("q", "a", 2**31)]}, r"line 2: the grade 2147483648 is more than 1,000"),
        ({"qrels": [("q", "a", 0.5)]}, r"line 2: the grade '0\.5' is not a whole number"),
        ({"qrels": [("q", "a")]}, "line 2: the row has 2 cells and the header 3"),
        ({"qrels": [("q", "a", 0)]}, r"test\.tsv names no relevant document for any query"),
        ({"qrels": []}, "names no relevant document for any query"),
    ],
)
def test_a_folder_with_a_fault(tmp_path, changes, message):
    everything = {"documents": DOCUMENTS, "queries": QUERIES, "qrels": QRELS, **changes}
    with pytest.raises(InputError, match=message):
        read_retrieval(write_retrieval(tmp_path, **everything))


def test_files_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; a retrieval task has corpus\.jsonl"):
        read_retrieval(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there is no file .*corpus\.jsonl"):
        read_retrieval(tmp_path)
    folder = write_retrieval(tmp_path, DOCUMENTS, QUERIES, QRELS)
    (folder / "qrels" / "test.tsv").write_text("q\tb\t1\n")
    with pytest.raises(InputError, match="line 1: the first line must name the columns"):
        read_retrieval(folder)
    (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": \n')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 2: not JSON"):
        read_retrieval(folder)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "a", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 1: not UTF-8"):
        read_retrieval(folder)


def pair(score, **changes):
    return {"sentence1": "a", "sentence2": "b", "score": score, **changes}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"pairs\.jsonl: there are no pairs"),
        ([pair(1)], r"pairs\.jsonl: every pair has the score 1; a correlation needs scores that differ"),
        ([pair(2.5)] * 30, r"every pair has the score 2\.5"),
        ([pair(1), pair(10**400)], "line 2: 'score' is 1000.*, not a finite number"),
        ([pair(1), pair("high")], r"pairs\.jsonl, line 2: 'score' is 'high', not a finite number"),
        ([pair(1), pair(float("nan"))], "line 2: 'score' is nan, not a finite number"),
        ([pair(1), pair(True)], "line 2: 'score' is True"),
        ([pair(1, sentence2=3)], "line 1: 'sentence2' is 3, not text"),
        ([{"sentence1": "a", "score": 1}], "line 1: no 'sentence2', only 'sentence1', 'score'"),
    ],
)
def test_pairs_with_a_fault(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_sts(write_lines(tmp_path / "pairs.jsonl", rows))


def test_pairs(tmp_path):
    task = read_sts(write_lines(tmp_path / "pairs.jsonl", [pair(1), pair(2, sentence1="c")]), measure="pearson")
    assert (task.pairs, task.scores, task.measure) == ((("a", "b"), ("c", "b")), (1.0, 2.0), "Pearson")
    assert task.documents == ("a", "b", "c")
    with pytest.raises(InputError, match="2 pairs cannot be split"):
        task.split(0)
    # All pairs but one have the same score, so some part has no order to compare with.
    others = [pair(1 + (i == 20), sentence1=f"a {i}", sentence2=f"b {i}") for i in range(21)]
    lonely = read_sts(write_lines(tmp_path / "pairs.jsonl", others))
    with pytest.raises(InputError, match="every pair of one part has the same score; choose another seed"):
        lonely.split(0)


@pytest.mark.parametrize("read", [read_classification, read_clustering])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"texts\.jsonl: there are no texts"),
        ([{"text": "a", "label": "x"}], r"texts\.jsonl: every text has the label 'x'; there is nothing to tell apart"),
        ([{"text": "a", "label": "x"}] * 50, "every text has the label 'x'"),
        ([{"text": "a", "label": 1.5}], "line 1: 'label' is 1.5, neither text nor a whole number"),
        ([{"text": "a"}], "line 1: no 'label', only 'text'"),
        ([{"label": "x"}], "line 1: no 'text', only 'label'"),
    ],
)
def test_labels_with_a_fault(tmp_path, read, rows, message):
    with pytest.raises(InputError, match=message):
        read(write_lines(tmp_path / "texts.jsonl", rows))


def test_labels(tmp_path):
    file = write_lines(tmp_path / "texts.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": "x"}])
    task = read_classification(file, measure="Macro F1")
    assert (task.documents, task.labels, task.measure) == (("a", "b"), ("0", "x"), "macro-F1")
    assert read_clustering(file).codes.tolist() == [0, 1]
    file.write_text(json.dumps({"text": "a", "label": 0}) + "\n\n" + json.dumps({"text": "b", "label": 1}) + "\n")
    with pytest.raises(InputError, match="label '0' has 1 text; each needs at least 2"):
        read_clustering(file).split(0)
    with pytest.raises(InputError, match=r"clustering has no measure 'accuracy'; it has V-measure"):
        read_clustering(file, measure="accuracy")
