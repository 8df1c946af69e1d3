"""Outputs below the pattern of an input, which are not read as input: the job's own, and other jobs' by accident."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.support import batch_jobs
from tsjax.errors import InputError, OutputError
from tsjax.jobs.input import output_filter
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.output_filter import OutputFilter
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import Worker


@pytest.fixture
def corpus(tmp_path):
    """Write files of three kinds, one of them in a folder."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    table = pa.table({"text": [f"the cat {row}" for row in range(40)], "id": [str(row) for row in range(40)]})
    pa.parquet.write_table(table, folder / "a.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": f"of the {row}"}) + "\n" for row in range(20)))
    (folder / "sub" / "c.parquet").write_bytes((folder / "a.parquet").read_bytes())
    return folder


def command(model, pattern, output, *more):
    return batch_jobs.arguments(model, [pattern], output, *more)


def names(output):
    manifest = json.loads((output / "manifest.json").read_text())
    return [facts["name"] for facts in manifest["job"]["inputs"]]


def half_done(output):
    """Remove the last shard, as if the job had been killed there."""
    last = Output(output).record_keys()[-1]
    (output / "records" / f"shard-{last}.json").unlink()
    (output / "manifest.json").unlink()


PATTERNS = {
    "**/*.parquet": ["a.parquet", "sub/c.parquet"],
    "**/*.jsonl": ["b.jsonl"],
    "**/*": ["a.parquet", "b.jsonl", "sub/c.parquet"],
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("where", ["out", "sub/deep/out", "."])
def test_a_job_goes_on_below_its_own_pattern(model, corpus, pattern, where, capsys):
    """Inputs and output may also lie in one folder. The list of rejected rows is not an input either."""
    output = corpus / where
    with (corpus / "b.jsonl").open("a") as file:
        file.write("{\n")
    job = command(model, corpus / pattern, output, "--text-column", "text")
    assert batch_jobs.run(*job) == 0
    expected = [Path(name).name for name in PATTERNS[pattern]]
    assert [Path(name).name for name in names(output)] == expected
    first = batch_jobs.contents(output)
    half_done(output)
    capsys.readouterr()
    assert batch_jobs.run(*job) == 0
    assert "which a job wrote: left out" in capsys.readouterr().err
    assert batch_jobs.contents(output) == first
    assert batch_jobs.run("batch", "verify", output) == 0
    assert batch_jobs.run("batch", "verify", output, "--input", corpus / pattern) == 0
    assert batch_jobs.run("batch", "status", output) == 0


@pytest.mark.parametrize("way", ["a link to it", "a link in it", "a link to its vectors", "relative", "dotted"])
def test_the_output_is_known_by_whatever_path(model, corpus, tmp_path, monkeypatch, way):
    output, pattern = corpus / "out", str(corpus / "**" / "*.parquet")
    if way == "a link to it":
        (tmp_path / "elsewhere").mkdir()
        output.symlink_to(tmp_path / "elsewhere")
    elif way == "a link in it":
        (tmp_path / "large").mkdir()
        output.mkdir()
        (output / "vectors").symlink_to(tmp_path / "large")
    elif way == "a link to its vectors":
        output = tmp_path / "elsewhere"
        (corpus / "link").symlink_to(output / "vectors")
    elif way == "relative":
        monkeypatch.chdir(corpus)
        output, pattern = Path("out"), "**/*.parquet"
    else:
        output = corpus / "sub" / ".." / "out"
    job = command(model, pattern, output)
    assert batch_jobs.run(*job) == 0
    half_done(output)
    assert batch_jobs.run(*job) == 0
    assert names(output) == ["a.parquet", "sub/c.parquet"]
    if way == "a link to it":  # named by the folder itself, and found through the link
        assert batch_jobs.run(*command(model, pattern, tmp_path / "elsewhere")) == 0


def test_a_file_url_is_a_path(model, corpus):
    job = command(model, f"file://{corpus}/**/*.parquet", corpus / "out")
    assert batch_jobs.run(*job) == 0
    half_done(corpus / "out")
    assert batch_jobs.run(*job) == 0


def test_another_job_below_the_pattern_changes_nothing(model, corpus, capsys):
    """The other job kept its texts, so its vectors could be read as input. It starts after this job has begun."""
    job = command(model, corpus / "**" / "*.parquet", corpus / "out")
    assert batch_jobs.run(*job) == 0
    half_done(corpus / "out")
    assert batch_jobs.run(*command(model, corpus / "a.parquet", corpus / "sub" / "other", "--keep", "text")) == 0
    capsys.readouterr()
    assert batch_jobs.run(*job) == 0
    assert f"files of {corpus / 'sub' / 'other'}, which a job wrote" in capsys.readouterr().err
    assert names(corpus / "out") == ["a.parquet", "sub/c.parquet"]
    # The file that identifies its job is missing, as in a partial copy.
    shutil.rmtree(corpus / "sub" / "other" / ".tsjax")
    assert batch_jobs.run(*job) == 0


def test_another_output_is_an_input_where_it_is_named(model, corpus, tmp_path):
    other = corpus / "other"
    assert batch_jobs.run(*command(model, corpus / "a.parquet", other, "--keep", "text")) == 0
    for number, pattern in enumerate(
        [other / "vectors" / "*.parquet", other / "vectors" / "shard-00000-00000.parquet"]
    ):
        assert batch_jobs.run(*command(model, pattern, corpus / f"out{number}", "--id-column", "id")) == 0
        assert all(name.startswith("shard-") for name in names(corpus / f"out{number}"))
    with pytest.raises(InputError, match=r"matches no file but 3 of .*other, which a job of tsjax wrote"):
        find_sources([f"{other}/**/*.parquet"], leave_out=OutputFilter(Output(tmp_path / "out")))


def test_the_own_output_is_no_input_even_where_it_is_named(model, corpus, capsys):
    assert batch_jobs.run(*command(model, corpus / "a.parquet", corpus / "out", "--keep", "text")) == 0
    for pattern in ("out/vectors/*.parquet", "out/vectors/shard-00000-00000.parquet"):
        assert batch_jobs.run(*command(model, corpus / pattern, corpus / "out", "--keep", "text")) == 2
        assert "which a job of tsjax wrote" in capsys.readouterr().err


def test_what_only_looks_like_an_output_is_an_input(tmp_path):
    for name in ("vectors/a.txt", "records/b.txt", "manifest.json", "deep/vectors/c.txt", "own/manifest-of-mine.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n")
    leave_out = OutputFilter(Output(tmp_path / "own"))
    found = find_sources([f"{tmp_path}/d*/**/*.txt", f"{tmp_path}/own/*.json"], Reading("txt"), leave_out=leave_out)
    assert [source.name for source in found] == ["deep/vectors/c.txt", "own/manifest-of-mine.json"]


def test_a_table_of_lancedb_below_the_pattern(model, corpus):
    pytest.importorskip("lancedb")
    job = command(model, corpus / "**" / "*", corpus / "out", "--sink", f"lancedb://{corpus}/db/texts")
    assert batch_jobs.run(*job) == 0
    assert any(path.is_file() for path in (corpus / "db" / "texts.lance").rglob("*"))
    half_done(corpus / "out")
    assert batch_jobs.run(*job) == 0
    assert names(corpus / "out") == ["a.parquet", "b.jsonl", "sub/c.parquet"]
    assert batch_jobs.run("batch", "verify", corpus / "out", "--input", corpus / "**" / "*") == 0


def test_embed_refuses_its_own_output_among_the_inputs(model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "the cat"}\n')
    out = tmp_path / "vectors.jsonl"
    assert batch_jobs.run("embed", tmp_path / "a.jsonl", "--output", out, "--model", model) == 0
    (tmp_path / "link.jsonl").symlink_to(out)
    before = out.read_bytes()
    for name in ("vectors.jsonl", "link.jsonl"):
        again = ("embed", tmp_path / "a.jsonl", tmp_path / name, "--output", out, "--overwrite", "--model", model)
        assert batch_jobs.run(*again) == 2
        assert "is the output and one of the inputs" in capsys.readouterr().err
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "before"),
    [
        ("/*.jsonl", "/"),
        ("/a/b*/c", "/a"),
        ("*.jsonl", "."),
        ("a/*.jsonl", "a"),
        ("~/x[1].jsonl", "~/x[1].jsonl"),
        ("~/y[1].jsonl", "~"),
        ("file://{home}/x[1].jsonl", "file://{home}/x[1].jsonl"),
        ("file:///*.jsonl", "/"),
        ("memory://a/*.jsonl", "memory://a"),
    ],
)
def test_the_folders_before_a_wildcard(tmp_path, monkeypatch, pattern, before):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x[1].jsonl").write_text("{}\n")
    found = output_filter._before_wildcards(pattern.format(home=tmp_path))
    assert output_filter._spellings(found) == output_filter._spellings(before.format(home=tmp_path))


def test_an_output_whose_name_is_not_utf8_is_refused_before_anything_is_written(tmp_path):
    place = tmp_path / os.fsdecode(b"out\xff")
    with pytest.raises(OutputError, match="not UTF-8"), Output(place).working(Worker()):
        pass
    assert not place.exists()
