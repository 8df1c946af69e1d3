"""Questions to a LanceDB table, with a real model and real texts: the right text is first, as in an exact search."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import batch_jobs
from tests.support.lazy import lazy
from tests.support.real_texts import addresses
from tsjax.jobs.inspect.search import search
from tsjax.jobs.output.directory import Output

lancedb = lazy("lancedb")

pytestmark = pytest.mark.slow

# Questions, and the titles of the texts that answer them.
QUESTIONS = {
    "a thirsty bird drops stones into a jug to reach the water": "The Crow and the Pitcher",
    "the animal that could not reach the grapes and called them sour": "The Fox and the Grapes",
    "a dog on a bridge loses its meat to a reflection": "The Dog and the Shadow",
    "comparing a beloved to a day in summer": "Sonnet 18",
    "is it nobler to suffer and live, or to die and sleep?": "To be, or not to be",
    "a sailor introduces himself and goes to sea": "Call me Ishmael",
    "freedom of speech, religion and the press": "First Amendment",
    "may the police search a house without a warrant?": "Fourth Amendment",
    "God as one who guides and protects his sheep": "The Lord is my shepherd",
    "creation of the heavens and the earth": "In the beginning",
    "a girl bored beside her sister sees a white rabbit": "Down the rabbit-hole",
    "rich bachelors are expected to look for a wife": "A truth universally acknowledged",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return famous texts among paragraphs of presidents, embedded and loaded by the command."""
    place = tmp_path_factory.mktemp("search")
    demo = Path(__file__).parents[2] / "scripts" / "demo.jsonl"
    famous = [json.loads(line) for line in demo.read_text(encoding="utf-8").splitlines()]
    paragraphs = [line for address in addresses()[::25] for line in address.split("\n") if 20 < len(line.split()) < 60]
    rows = [{"title": row["title"], "text": row["text"]} for row in famous]
    rows += [{"title": f"paragraph {number}", "text": text} for number, text in enumerate(paragraphs[:100])]
    with gzip.open(place / "texts.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    command = ["--input", place / "texts.jsonl.gz", "--output", place / "out", "--id-column", "title", "--keep", "text"]
    command += ["--rows-per-shard", "64", "--sink", f"lancedb://{place}/db/texts"]
    assert batch_jobs.run("batch", *command) == 0
    return place


def test_the_right_text_comes_first_and_all_agree_with_an_exact_search(place, minilm):
    table = lancedb.connect(place / "db").open_table("texts")
    assert table.count_rows() == 124
    queries = minilm.encode_query(list(QUESTIONS))
    exact = table.to_arrow()
    vectors = np.stack(exact["embedding"].to_numpy())
    for query, title in zip(queries, QUESTIONS.values(), strict=True):
        found = table.search(query).distance_type("cosine").limit(5).to_list()
        assert found[0]["id"] == title
        hits = search(Output(place / "out"), query, 5)
        assert [row["id"] for row in found] == [hit.id for hit in hits]
        np.testing.assert_allclose([1 - row["_distance"] for row in found], [hit.score for hit in hits], atol=1e-5)
        assert exact["id"][int(np.argmax(vectors @ query))].as_py() == title


def test_the_command_finds_it_too(place, capsys):
    question, title = next(iter(QUESTIONS.items()))
    assert batch_jobs.run("search", place / "out", question, "-n", "1") == 0
    assert title in capsys.readouterr().out
