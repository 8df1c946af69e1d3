import dataclasses
from collections.abc import Mapping

import pytest

from tsjax.errors import CheckpointError, InputError
from tsjax.storage.digests import json_sha256
from tsjax.storage.json_values import decode, differences, read_object


@dataclasses.dataclass(frozen=True)
class Part:
    size: int

    @classmethod
    def from_json(cls, data):
        return decode(data, cls, "a part", InputError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    first: Part
    others: tuple[Part, ...] = ()
    scale: float | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def test_parts_are_decoded_and_defaults_filled_in():
    assert decode({"first": {"size": 3}}, Whole, "it") == Whole(first=Part(3))
    full = decode({"first": {"size": 3}, "others": [{"size": 4}], "scale": 2, "names": {"a": "b"}}, Whole, "it")
    assert full == Whole(first=Part(3), others=(Part(4),), scale=2, names={"a": "b"})
    assert type(full.scale) is int  # kept as written, so that its digest does not change


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"first": {"size": 3}, "more": 1}, CheckpointError, "^it: unknown field more$"),
        ({}, CheckpointError, "^it: missing field first$"),
        ({"first": {"size": 3}, "scale": "x"}, CheckpointError, "^it: scale: expected .*, got str$"),
        ({"first": {"size": 3}, "names": {"a": 1}}, CheckpointError, "^it: names.*: expected str, got int$"),
        ({"first": {"size": 3}, "others": 5}, CheckpointError, "^it: others: expected array, got int$"),
        ({"first": {"size": True}}, CheckpointError, "^it: a part: size: expected int, got bool$"),
        ({"first": {"size": 3}, "others": [{"sizes": 4}]}, CheckpointError, "^it: a part: (unknown|missing) field"),
        ([], CheckpointError, "^it: expected object, got array$"),
        ({1: 2}, CheckpointError, "^it: expected str"),
    ],
)
def test_anything_else_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        decode(data, Whole, "it")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_file_without_an_object(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="file is damaged"):
        read_object(tmp_path / "file")
    with pytest.raises(CheckpointError, match="none cannot be read: No such file"):
        read_object(tmp_path / "none")


def test_differences_are_named_by_their_place():
    old = {"a": {"b": 1, "c": [1, 2], "same": 0}, "gone": 3, "null": None}
    new = {"a": {"b": 2, "c": [1], "same": 0}, "new": 4}
    expected = [("a.b", 1, 2), ("a.c", [1, 2], [1]), ("gone", 3, None), ("new", None, 4)]
    assert list(differences(old, new)) == expected
    assert list(differences(old, old)) == []


def test_digests_that_are_on_disk_stay():
    value = {"b": [1, "ü"], "a": 1.5}
    assert json_sha256(value)[:16] == "4ef22c1e87d073c0"
    assert json_sha256(value, sort_keys=False)[:16] == "597a887b3e9dfeb8"
    assert json_sha256(value, compact=True)[:16] == "a9d37131145bf4e2"
