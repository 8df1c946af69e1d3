"""Compiled programs that are kept: the place, their use, and refusals. Each test runs in a separate process."""

import json
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import tsjax
from tests.support.checkpoints import write_bert
from tsjax.cli.main import main
from tsjax.errors import InputError, OutputError

# Counts JAX's requests to its cache, its hits and its writes.
COUNT = """
import collections, json, sys
import jax.monitoring
count = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: count.update([event.rsplit("/", 1)[1]]))
"""
EMBED = f"""{COUNT}
import tsjax
directory = None if sys.argv[2] == "-" else sys.argv[2]
place = tsjax.enable_compile_cache(directory)
vectors = tsjax.load(sys.argv[1]).encode(["the", "of and a"])
print(json.dumps([place, count["cache_hits"], count["cache_misses"], vectors.tobytes().hex()]))
"""
COMMAND = f"""{COUNT}
from tsjax.cli.main import main
status = main(sys.argv[1:])
print(json.dumps([status, count["cache_hits"], count["cache_misses"]]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    source = write_bert(tmp_path_factory.mktemp("model") / "source")
    assert main(["convert", str(source), str(source.parent / "converted")]) == 0
    return source.parent / "converted"


@pytest.fixture(scope="module", autouse=True)
def _nothing_told():
    """Remove the directory that this test run shares, so that the settings are a user's."""
    names = [name for name in os.environ if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name)
        yield


@pytest.fixture
def settings():
    """Restore JAX's settings after tests that change them in this process."""
    names = [name for name in jax.config.values if "cache" in name]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def start(code, *arguments, **environment):
    # Warnings are errors there too, so that JAX cannot merely complain about a cache that does not work.
    return subprocess.Popen(
        [sys.executable, "-W", "error:Error:UserWarning", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """Return the folders in which two concurrent processes kept their programs, how many, and their vectors."""
    directory = tmp_path_factory.mktemp("kept") / "directory"
    both = [start(EMBED, model, directory) for _ in range(2)]
    (first, _), (second, _) = [finish(process) for process in both]
    place, hits, misses, vectors = first
    assert second[0] == place
    assert second[3] == vectors
    assert hits + misses == second[1] + second[2] >= 1
    return directory, Path(place), hits + misses, vectors


@pytest.mark.slow
def test_the_next_process_compiles_nothing_and_gives_the_same_bits(model, kept):
    directory, place, programs, vectors = kept
    assert place.parent == directory
    assert finish(start(EMBED, model, directory))[0] == [str(place), programs, 0, vectors]
    assert mode(directory) == mode(place) == 0o700
    # The time of last use, next to each program, limits the total size.
    assert len(list(place.glob("*-cache"))) == len(list(place.glob("*-atime"))) == programs
    assert tsjax.load(model).encode(["the", "of and a"]).tobytes().hex() == vectors


@pytest.mark.slow
def test_what_was_left_half_written_is_written_again(model, kept):
    directory, place, programs, vectors = kept
    for program in place.glob("*-cache"):
        program.write_bytes(program.read_bytes()[:100])
        program.with_name(program.name.replace("-cache", "-atime")).unlink()
    assert finish(start(EMBED, model, directory))[0] == [str(place), 0, programs, vectors]
    assert len(list(place.glob("*-cache"))) == len(list(place.glob("*-atime"))) == programs


@pytest.mark.slow
def test_a_place_that_jax_was_told_is_used_as_it_is(model, tmp_path):
    told = str(tmp_path / "told")
    (place, *_), _ = finish(start(EMBED, model, "-", TSJAX_CACHE=str(tmp_path), JAX_COMPILATION_CACHE_DIR=told))
    assert place == told
    assert not (tmp_path / "compiled").exists()


@pytest.mark.slow
def test_the_command_line_keeps_programs_unless_told_not_to(model, tmp_path):
    (tmp_path / "a.txt").write_text("the\n")
    arguments = ["embed", tmp_path / "a.txt", "-o", tmp_path / "v.npy", "--overwrite", "--model", model]
    cache, told = tmp_path / "cache", tmp_path / "told"
    environment = {"TSJAX_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": str(told)}
    assert finish(start(COMMAND, *arguments, "--no-compile-cache", **environment))[0] == [0, 0, 0]
    assert not cache.exists()
    assert not told.exists()
    (status, hits, programs), _ = finish(start(COMMAND, *arguments, TSJAX_CACHE=str(cache)))
    assert (status, hits) == (0, 0)
    assert len(list((cache / "compiled").glob("*/*-cache"))) == programs >= 1


@pytest.mark.slow
def test_a_place_that_cannot_be_used_stops_no_command(model, tmp_path):
    (tmp_path / "a.txt").write_text("the\n")
    (tmp_path / "file").write_text("no directory")
    (status, *counted), err = finish(
        start(
            COMMAND,
            *("embed", tmp_path / "a.txt", "-o", tmp_path / "v.npy", "--model", model),
            TSJAX_CACHE=str(tmp_path / "file"),
        )
    )
    assert [status, *counted] == [0, 0, 0]
    assert err.startswith(f"tsjax: compiled programs are not kept: cannot write {tmp_path}/file/compiled: ")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), tsjax.load(model).encode(["the"]))


@pytest.mark.slow
def test_a_full_disk_stops_no_command(model, tmp_path):
    """A limit on the size of files stands in for it: high enough for the vectors and too low for a program."""
    (tmp_path / "a.txt").write_text("the\n")
    narrow = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    narrow += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n" + COMMAND
    arguments = ["embed", tmp_path / "a.txt", "-o", tmp_path / "v.npy", "--model", model]
    (status, *_), err = finish(start(narrow, *arguments, TSJAX_CACHE=str(tmp_path / "cache")))
    assert status == 0
    assert all(line.startswith("tsjax: ") for line in err.splitlines()), err


@pytest.mark.slow
def test_nothing_is_kept_unasked(model, tmp_path):
    code = f"{COUNT}\nimport tsjax; tsjax.load(sys.argv[1]).encode(['the']); print(json.dumps(count['cache_misses']))"
    assert finish(start(code, model, TSJAX_CACHE=str(tmp_path)))[0] == 0
    assert list(tmp_path.iterdir()) == []


def linked(path):
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


def writable(path, bits):
    path.mkdir()
    path.chmod(0o700 | bits)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (linked, "kept is a symbolic link"),
        (lambda path: writable(path, 0o020), "others can write in .*kept"),
        (lambda path: writable(path, 0o002), "others can write in .*kept"),
        (lambda path: path.parent.chmod(0o777), "anyone can write in .*, and so replace .*kept"),
        (lambda path: path.write_text("a file"), "cannot write .*kept: File exists"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_a_place_that_is_not_private_is_refused(tmp_path, prepare, message):
    place = tmp_path / "above" / "kept"
    place.parent.mkdir()
    prepare(place)
    before = jax.config.jax_compilation_cache_dir
    with pytest.raises(OutputError, match=message):
        tsjax.enable_compile_cache(place)
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.usefixtures("settings")
def test_a_place_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(OutputError, match="belongs to another user"):
        tsjax.enable_compile_cache(tmp_path / "kept")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.usefixtures("settings")
def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    place = Path(tsjax.enable_compile_cache(tmp_path / "kept"))
    (place / ".lockfile").unlink()
    place.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write .*: Permission denied"):
        tsjax.enable_compile_cache(tmp_path / "kept")


@pytest.mark.parametrize("place", ["gs://bucket/x", "a\0b", 3, b"x"])
def test_what_is_no_directory_here_is_refused(place):
    with pytest.raises(InputError, match="a directory on a local file system"):
        tsjax.enable_compile_cache(place)


@pytest.mark.usefixtures("settings")
def test_settings_from_the_environment_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1")
    before = jax.config.jax_compilation_cache_max_size
    tsjax.enable_compile_cache(tmp_path)
    assert jax.config.jax_compilation_cache_max_size == before
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


@pytest.mark.usefixtures("settings")
def test_the_place_can_be_changed(tmp_path):
    first, second = (Path(tsjax.enable_compile_cache(tmp_path / name)) for name in "ab")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.block_until_ready(jax.jit(lambda x: x + 41)(np.arange(7)))
    assert not list(first.glob("*-cache"))
    assert list(second.glob("*-cache"))
    assert tsjax.enable_compile_cache() == str(second)
