"""SHA-256 of files, which time stamps do not deceive."""

import hashlib
import os
import time
from types import SimpleNamespace

import pytest

from tsjax.errors import ConversionError
from tsjax.storage import digests as module
from tsjax.storage.digests import digests

LARGE = 3 << 20


@pytest.fixture
def large(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(range(256)) * (LARGE // 256))
    return file


@pytest.fixture
def later(monkeypatch):
    """Move the clock on, so that files written now seem to have been there for a while."""
    monkeypatch.setattr(module.time, "time_ns", lambda now=time.time_ns: now() + 60 * 10**9)


@pytest.fixture
def reads(monkeypatch):
    """Return a list to which each complete read of a file adds its name."""
    found = []

    def counted(stream, name):
        found.append(stream.name)
        return hashlib.new(name, stream.read())

    monkeypatch.setattr(module.hashlib, "file_digest", counted)
    return found


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def change_byte(file, place):
    """Change one byte and restore the modification time; return when the clock of the file system has moved."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_large_file_is_read_once(tmp_path, large, later, reads):
    for _ in range(3):
        assert digests([large], tmp_path / "memory") == [sha256(large)]
    assert len(reads) == 1


@pytest.mark.parametrize("place", [0, LARGE // 2 + 7, LARGE // 3 + 5000, LARGE - 1])
def test_one_byte_under_the_same_size_and_time(tmp_path, large, later, reads, place):
    before = digests([large], tmp_path / "memory")
    change_byte(large, place)
    after = digests([large], tmp_path / "memory")
    assert after == [sha256(large)] != before
    change_byte(large, place)
    assert digests([large], tmp_path / "memory") == before


def test_another_file_under_the_same_name(tmp_path, large, later):
    other = tmp_path / "other.bin"
    other.write_bytes(large.read_bytes()[:-1] + b"x")
    found = large.stat()
    before = digests([large], tmp_path / "memory")
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(large)
    assert digests([large], tmp_path / "memory") == [sha256(large)] != before


def test_what_was_just_written_is_not_remembered(tmp_path, large, reads):
    """Another change could have the same time."""
    for _ in range(2):
        digests([large], tmp_path / "memory")
    assert len(reads) == 2


def test_a_ctime_of_whole_seconds_is_not_believed(tmp_path, large, later, reads, monkeypatch):
    """In file system images, it is one constant for all files."""
    found = large.stat()
    facts = {name: getattr(found, name) for name in ("st_size", "st_mtime_ns", "st_ino")}
    monkeypatch.setattr(module.os, "fstat", lambda _: SimpleNamespace(**facts, st_ctime_ns=315532800 * 10**9))
    for _ in range(2):
        digests([large], tmp_path / "memory")
    assert len(reads) == 2


def test_memory_that_cannot_be_used(tmp_path, large, later, reads):
    (tmp_path / "file").write_text("")
    assert digests([large], tmp_path / "file") == [sha256(large)]
    digests([large], tmp_path / "memory")
    (note,) = (tmp_path / "memory").iterdir()
    for damage in ("", "{", "[]", "3", '{"facts": 3}'):
        note.write_text(damage)
        assert digests([large], tmp_path / "memory") == [sha256(large)]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConversionError, match="cannot be read"):
        digests([tmp_path / "nothing"], tmp_path / "memory")
