"""Inputs in stores: exceptions of their packages, and one file under several names."""

import contextlib
import io

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tsjax.errors import InputError
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.input.rows import open_rows
from tsjax.jobs.input.sources import find_sources


class _StoreError(Exception):
    """An exception as store packages raise it: not an OSError."""


class _BrokenStore(MemoryFileSystem):
    """A store that raises at one of its operations."""

    protocol = "broken"
    at = ""

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("broken://", "memory://"))

    def info(self, path, **options):
        if self.at == "info":
            raise _StoreError("no credentials")
        return super().info(path, **options)

    def glob(self, path, **options):
        if self.at == "glob":
            raise _StoreError("no credentials")
        return super().glob(path, **options)

    def cat_file(self, path, start=None, end=None, **options):
        if self.at == "cat_file":
            raise _StoreError("no credentials")
        return super().cat_file(path, start, end, **options)

    def open(self, path, mode="rb", **options):
        if self.at == "open":
            raise _StoreError("no credentials")
        file = super().open(path, mode, **options)
        return _BrokenFile(file) if self.at == "read" else file


class _BrokenFile(io.RawIOBase):
    """A file that gives its first bytes and then raises."""

    def __init__(self, file):
        self._data = file.read(9)

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self._data:
            raise _StoreError("no credentials")
        size = min(len(buffer), len(self._data))
        buffer[:size], self._data = self._data[:size], b""
        return size


@pytest.mark.parametrize(
    ("pattern", "at"),
    [
        *(("broken://corpus/a.txt", at) for at in ("info", "cat_file", "open", "read")),
        *(("broken://corpus/*.txt", at) for at in ("info", "glob", "cat_file", "open", "read")),
    ],
)
def test_exceptions_of_a_stores_own_name_the_file(pattern, at, monkeypatch):
    fsspec.register_implementation("broken", _BrokenStore, clobber=True)
    fsspec.filesystem("broken").pipe("/corpus/a.txt", b"one line\n" * 3)
    monkeypatch.setattr(_BrokenStore, "at", at)
    with pytest.raises(InputError, match="broken://.*corpus/.*no credentials"):
        for source in find_sources([pattern]):
            with contextlib.closing(open_rows(source, Columns())) as reader:
                list(reader.read())


def test_a_file_named_as_path_and_as_url_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    path = str(tmp_path / "a.txt")
    assert len(find_sources([path, f"file://{path}", f"local://{path}"])) == 1
