"""Reports of a study: well-formed files, plots that keep the user's settings, and sentences made of figures."""

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tsjax.lab.analysis.collapse import ChangeRow, Collapse, HeadRow, PairRow, StateRow, VectorRow
from tsjax.lab.analysis.report import TABLES, lines, write_report
from tsjax.lab.analysis.sentences import helped, sentences

LENGTHS = (16, 64, 2048)


def study(corpora=("texts", "cut", "repeated"), names=("1", "0.9", "0.5"), lengths=LENGTHS, layers=2):
    """Return a study with figures that follow from their keys."""
    vectors, between, changes, heads, states = [], [], [], [], []
    for c, corpus in enumerate(corpora):
        for t, name in enumerate(names):
            if len(lengths) > 1:
                rise = 0.2 * (len(lengths) - 1)
                changes.append(ChangeRow(corpus, name, lengths[0], lengths[-1], rise, 0.01, -rise, 0.02))
            for i, length in enumerate(lengths):
                cosine = 0.1 + 0.2 * i + 0.05 * c - 0.01 * t
                vectors.append(
                    VectorRow(corpus, name, length, 9, length, cosine, 0.01, 0.9 - cosine, 0.02, 0.8, 0.02, 7.0 - i)
                )
                between += [PairRow(corpus, name, length, other, 0.3 + i / 10) for other in lengths[i:]]
                for layer in range(layers):
                    heads += [
                        HeadRow(corpus, name, length, 2, layer, head, 1 + layer + head + i, 0.5 - t / 10)
                        for head in range(3)
                    ]
                depths = range(layers + 1) if layers else ()
                states += [
                    StateRow(corpus, name, length, 2, depth, 0.6, 0.36 + i / 10, 0.64 - i / 10) for depth in depths
                ]
    about = {
        "model": "a <b> & 'c'",
        "family": "BERT",
        "encoding_fingerprint": "0" * 64,
        "dtype": "float32",
        "temperatures": [{"name": name} for name in names],
        "texts": 1234,
        "texts_per_bucket": dict.fromkeys(corpora, 9),
        "layer_texts": 2,
        "seed": 0,
    }
    return Collapse(about, ("1 text <script>: left out.",), *map(tuple, (vectors, between, changes, heads, states)))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    found = study()
    assert write_report(found, path)
    return found, path


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.pictures += [given["src"]] if tag == "img" else []
        self.links += [given["href"]] if tag == "a" else []
        assert tag != "script"
        if tag in ("h1", "h2", "p", "dl", "ul", "a", "style", "title", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_tables_are_whole_in_csv_and_json(report):
    found, path = report
    content = json.loads((path / "report.json").read_text(encoding="utf-8"))
    assert content["about"] == found.about
    for name in TABLES:
        rows = [row._asdict() for row in getattr(found, name)]
        assert content[name] == rows
        with (path / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            read = list(csv.DictReader(stream))
        assert read == [{key: str(value) for key, value in row.items()} for row in rows]
        assert "nan" not in (path / f"{name}.csv").read_text().lower()


def test_the_page_shows_every_plot_and_escapes_what_it_was_given(report):
    _, path = report
    text = (path / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert sorted(page.pictures) == sorted(file.name for file in path.glob("*.png"))
    assert len(page.pictures) == 7
    assert all((path / link).is_file() for link in page.links)
    assert len(page.links) == 6
    assert "a &lt;b&gt; &amp; &#x27;c&#x27;" in text
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", text.lower())
    for sentence in sentences(study()).values():
        assert len(sentence) > 30


def changed(cosine, error=0.01):
    """Return a study whose mean cosine changes with length by these numbers at τ = 1 and at other temperatures."""
    changes = [ChangeRow("texts", name, 16, 64, value, error, 0.0, 0.0) for name, value in cosine.items()]
    return dataclasses.replace(study(), changes=tuple(changes))


@pytest.mark.parametrize(
    ("cosine", "said"),
    [
        ({"1": 0.3, "0.9": 0.2, "0.8": 0.1}, r"helped on these texts: .* \+0\.100 at τ = 0\.8.*\+0\.300 at τ = 1\.$"),
        ({"0.8": 0.1, "1": 0.3}, r"temperature helped"),
        ({"1": 0.3, "0.8": 0.29}, "made no difference"),
        ({"1": 0.3, "0.8": 0.5}, "made it worse"),
        ({"1": 0.01, "0.8": -0.1}, "no collapse"),
    ],
)
def test_the_summary_says_whether_a_temperature_helped(cosine, said):
    found = changed(cosine)
    assert re.search(said, helped(found))
    assert list(lines(found))[-1] == helped(found)
    assert helped(changed({"1": 0.3})) == ""


def test_the_marks_of_plots_are_explained_beside_plots_alone(report, tmp_path, monkeypatch):
    found, path = report
    assert not any("Bars" in line or "Shaded" in line for line in lines(found))
    assert "Bars are one standard error" in (path / "index.html").read_text(encoding="utf-8")
    monkeypatch.setattr("tsjax.lab.analysis.report.is_installed", lambda name: False)
    assert not write_report(found, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert ("Bars" in page, "Shaded" in page) == (False, False)


def test_plots_are_pictures_of_a_size_for_print(report):
    _, path = report
    for file in path.glob("*.png"):
        head = file.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(head[at : at + 4]) for at in (16, 20))
        assert width > 1000
        assert 400 < height < width


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes(report, tmp_path):
    found, path = report
    write_report(found, tmp_path)
    for file in path.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_sentences_say_what_the_figures_say():
    said = sentences(study())
    assert "Texts as they are, 16 to 2048 tokens (9 of each length): rises from 0.10 to 0.50 at τ = 1" in said["cosine"]
    assert "rises from 0.08 to 0.48 at τ = 0.5" in said["cosine"]
    assert "7.0 and 5.0 at τ = 1" in said["rank"]
    assert "0.30 among those of 16 tokens, 0.50 among those of 2048, 0.30 between the two" in said["between"]
    assert "In the same texts, cut, 16 to 2048 tokens: 2.50 and 4.50 at τ = 1" in said["filter_rate"]
    assert "stays at 0.50 at τ = 1; stays at 0.40 at τ = 0.9" in said["entropy"]
    assert "0.36 and 0.56" in said["energy"]


def test_a_sentence_claims_no_more_than_its_error_allows():
    found = study(corpora=("texts",), names=("1",))
    changes = [row._replace(mean_cosine_error=0.2) for row in found.changes]
    said = sentences(dataclasses.replace(found, changes=tuple(changes)))
    assert "0.10 and 0.50 (within two standard errors) at τ = 1" in said["cosine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"corpora": ("texts",), "lengths": (16,), "names": ("1",)},
        {"layers": 0},
        {"names": tuple(str(1 - i / 10) for i in range(9))},
    ],
)
def test_a_small_and_a_large_study_give_what_they_can(options, tmp_path):
    found = study(**options)
    assert write_report(found, tmp_path)
    shown = {file.stem for file in tmp_path.glob("*.png")}
    assert shown == set(sentences(found))
    assert ("filter_rate" in shown) == bool(found.heads)
    assert ("between" in shown) == (len(options.get("lengths", LENGTHS)) > 1)
    assert "nan" not in (tmp_path / "report.json").read_text().lower()


def test_without_matplotlib_there_is_all_but_the_plots(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not write_report(study(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("between.csv", "changes.csv", "heads.csv", "index.html", "report.json", "states.csv", "vectors.csv"),
    ]
    assert "<img" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_figures_that_are_not_finite_are_never_written(tmp_path):
    found = study()
    broken = found.vectors[0]._replace(mean_cosine=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        write_report(dataclasses.replace(found, vectors=(broken,)), tmp_path)


@pytest.mark.slow
def test_nobodys_matplotlib_is_touched(tmp_path):
    import matplotlib as mpl

    write_report(study(), tmp_path)
    usual = {file.name: file.read_bytes() for file in tmp_path.glob("*.png")}
    with mpl.rc_context({"savefig.facecolor": "red", "savefig.bbox": "tight", "font.size": 20, "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        write_report(study(), tmp_path)
        assert dict(mpl.rcParams) == before
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.png")} == usual
    code = (
        "import sys, tsjax.lab.analysis\n"
        "dir(tsjax.lab.analysis)\n"
        "from tsjax.lab.analysis import mean_pairwise_cosine\n"
        "print([name for name in ('jax', 'matplotlib') if name in sys.modules])\n"
        "from tsjax.lab.reporting import figures\n"
        "figures.blank((1, 1))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\nFalse\n"


def test_missing_names_are_attribute_errors():
    import tsjax.lab.analysis

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tsjax.lab.analysis.nonsense  # noqa: B018
    assert all(getattr(tsjax.lab.analysis, name) is not None for name in tsjax.lab.analysis.__all__)
