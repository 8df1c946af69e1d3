"""Processes without a home directory, which make no folder named ``~`` and say what to set."""

import pwd

import pytest

import tsjax
from tests.support.checkpoints import write_bert
from tsjax import hub
from tsjax.cli.main import main
from tsjax.errors import InputError, OutputError
from tsjax.jobs.output.directory import Output
from tsjax.storage.atomic import expanded
from tsjax.storage.cache_directory import cache_directory


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """Simulate a container whose user is not in /etc/passwd."""

    def unknown(_):
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "TSJAX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    assert not [path for path in work.iterdir() if path.name.startswith("~")]


@pytest.fixture
def source(tmp_path):
    return write_bert(tmp_path / "source")


@pytest.mark.parametrize("variable", [None, "TSJAX_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_the_cache(no_home, source, monkeypatch, variable):
    if variable is not None:
        monkeypatch.setenv(variable, "~/somewhere")
    with pytest.raises(InputError, match="TSJAX_CACHE"):
        tsjax.load(source)
    with pytest.raises(InputError, match="TSJAX_CACHE"):
        cache_directory()


def test_a_cache_that_is_named_or_not_needed(no_home, source, tmp_path, monkeypatch):
    converted = hub.convert_to(source, tmp_path / "converted").path
    tsjax.load(converted)
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    tsjax.load(source)


def test_the_cache_of_the_hub(no_home, tmp_path, monkeypatch):
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match="HF_HOME"):
        tsjax.load("some/model")


@pytest.mark.parametrize("home", ["~", "~nobody-of-this-name"])
def test_outputs_of_commands(no_home, source, tmp_path, monkeypatch, capsys, home):
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    (no_home / "a.txt").write_text("the cat\n")
    model = str(hub.resolve(source))
    for arguments in (
        ["embed", "a.txt", f"--output={home}/v.npy", "--model", model],
        ["batch", "--input", "a.txt", f"--output={home}/out", "--model", model],
        ["convert", str(source), f"{home}/converted"],
        ["export", model, f"{home}/exported"],
        ["bench", "--model", model, f"--json={home}/bench.json"],
        ["learn", "pairs", f"--output={home}/run", "--model", model],
    ):
        assert main(arguments) == 2
        assert f"no home directory {home}" in capsys.readouterr().err


def test_outputs_of_the_library(no_home, source):
    with pytest.raises(InputError, match="no home directory"):
        hub.convert_to(source, "~/converted")
    with pytest.raises(InputError, match="no home directory"):
        Output("~/out")
    with pytest.raises(InputError, match="no home directory"):
        tsjax.enable_compile_cache("~/compiled")


def test_a_home_is_put_in_place_of_its_sign(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the cat\n")
    assert main(["embed", "a.txt", "--output=~/v.npy", "--model", str(source)]) == 0
    assert main(["convert", str(source), "~/converted"]) == 0
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["converted", "v.npy"]
    tsjax.load("~/converted")
    assert expanded("~backup.npy").name == "~backup.npy"  # a file of that name


def test_a_cache_that_is_a_file(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for cache in ("file", "file/below"):
        monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / cache))
        with pytest.raises(OutputError, match="set TSJAX_CACHE"):
            tsjax.load(source)


def test_a_cache_that_cannot_be_written(source, tmp_path, monkeypatch):
    """Only a new model needs to be written."""
    monkeypatch.setenv("TSJAX_CACHE", str(tmp_path / "cache"))
    tsjax.load(source)
    monkeypatch.setattr(hub.os, "access", lambda path, mode: path != tmp_path / "cache")
    tsjax.load(source)
    with pytest.raises(OutputError, match=r"cannot be written to; set TSJAX_CACHE"):
        tsjax.load(write_bert(tmp_path / "other", seed=1))
