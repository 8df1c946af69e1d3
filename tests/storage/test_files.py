import errno
import os
from pathlib import Path

import pytest

from tsjax.errors import OutputError
from tsjax.storage.atomic import replacing


def test_the_new_file_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "down" / "file"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_goes_wrong_the_old_file_stays(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(error), replacing(target, overwrite=True) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_is_replaced_whole(tmp_path):
    target = tmp_path / "directory"
    target.mkdir()
    (target / "old").write_text("old")
    with replacing(target, directory=True, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_in_the_very_exchange_keeps_the_old_directory(tmp_path, monkeypatch, failing, error):
    target = tmp_path / "directory"
    target.mkdir()
    (target / "old").write_text("old")
    rename, calls = Path.rename, []

    def fail(self, to):
        calls.append(self)
        if len(calls) == failing:
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises((OutputError, KeyboardInterrupt)),
        replacing(target, directory=True, overwrite=True) as temporary,
    ):
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


@pytest.mark.parametrize("links", [True, False])
def test_what_appeared_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda self, to: os.link("/nowhere/at/all", self))
    with pytest.raises(OutputError, match="exists already"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("ours")
        (tmp_path / "file").write_text("theirs")
    assert (tmp_path / "file").read_text() == "theirs"
    with replacing(tmp_path / "other") as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "other").read_text() == "ours"


def test_a_full_disk_is_called_that(tmp_path):
    with pytest.raises(OutputError, match="the disk is full"), replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "file" / "below"):
        pass
