"""The commands and examples of docs/batch.md, run as they are printed there."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import warnings
from pathlib import Path

import pytest

from tsjax.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (.+?) -->\n```python\n(.+?)```\n", GUIDE, re.DOTALL))
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```sh\n(.+?)```", GUIDE, re.DOTALL) for line in block.splitlines()
]

# The tests' extras do not install these packages; their examples run only if the package is installed.
NEEDS = {"Spark": "pyspark", "Qdrant": "qdrant_client", "pgvector": "psycopg", "Apache Beam": "apache_beam"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder in which the guide's commands have been run."""
    place = tmp_path_factory.mktemp("guide")
    (place / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "demo.jsonl", place / "scripts")
    with contextlib.chdir(place):
        for command in COMMANDS:
            assert command[0] == "tsjax"
            assert main(command[1:]) == 0
    return place


def test_the_guide_has_a_command_a_check_and_a_sink():
    assert [command[1] for command in COMMANDS] == ["batch", "batch", "search", "batch"]
    assert "--sink" in COMMANDS[-1]


def test_every_python_example_is_one_that_is_run():
    assert len(EXAMPLES) == GUIDE.count("```python")
    assert set(EXAMPLES) == {"DuckDB", "pandas", "Polars", "LanceDB", *NEEDS}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_as_it_is_printed(name, place, monkeypatch, capsys):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    if name == "pgvector" and "PGHOST" not in os.environ:
        pytest.skip("PGHOST names no server with pgvector")
    monkeypatch.chdir(place)
    for _ in range(2):  # The examples that load a database can be repeated.
        capsys.readouterr()
        with warnings.catch_warnings():
            if name in NEEDS:
                warnings.simplefilter("ignore")  # warnings of the package
            exec(compile(EXAMPLES[name], f"docs/batch.md, {name}", "exec"), {"__name__": "__main__"})
        if name == "Apache Beam":
            lines = [line for file in place.glob("build/beam/*.jsonl") for line in file.read_text().splitlines()]
            assert {len(json.loads(line)["embedding"]) for line in lines} == {384}
            assert len(lines) == 24
        else:
            answer = capsys.readouterr().out
            assert answer.lstrip(" [(").removeprefix("Row(id=").lstrip("'\"").startswith("The Crow and the Pitcher")
            assert answer.count("The Crow and the Pitcher") == 1
