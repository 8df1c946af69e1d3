"""Fields of a foreign JSON file, read so that none is overlooked.

Each field must be used, be known to be harmless, or have the one value under which it changes nothing. Any other field
is unknown to tsjax and an error, because the worst conversion bugs are fields that are skipped silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_REQUIRED = object()
_MOST = 2**31 - 1


class Fields:
    """The fields of one file, marked as they are read.

    Args:
        data: the file's JSON object.
        file: its path, for messages.
        ignore: names of unknown fields that the user chose to ignore.
    """

    def __init__(self, data: Mapping[str, Any], file: str, ignore: Collection[str] = ()) -> None:
        self.file = file
        self._data = dict(data)
        self._ignore = ignore
        # null means absent, in Hugging Face's files and here.
        self._left = {name for name, value in data.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    @property
    def left(self) -> set[str]:
        """Return the names of the fields that have not been read yet."""
        return set(self._left)

    def take(self, name: str, default: Any = _REQUIRED, kind: type | tuple[type, ...] | None = None) -> Any:
        """Return the value of a field; ``default`` if it is absent or null.

        Raises:
            ConversionError: the field is absent and has no default, or it is not of the requested type.
        """
        self._left.discard(name)
        value = self._data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ConversionError(f"{self.file}: field {name!r} is missing")
            return default
        if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ConversionError(f"{self.file}: field {name!r} is {value!r:.60}, which is not what belongs there")
        return value

    def take_count(self, name: str, default: Any = _REQUIRED, most: int = _MOST, least: int = 1) -> Any:
        """Return a field that counts something: an integer, usually at least 1, and at most an array's size."""
        value = self.take(name, default, int)
        if value is not default and not least <= value <= most:
            raise ConversionError(f"{self.file}: field {name!r} is {value!r}, not a number of at least {least}")
        return value

    def rename(self, alias: str, name: str) -> None:
        """Read a field under another name too, which wins if both are given because transformers sets it last."""
        if alias in self:
            self._data[name] = self._data.pop(alias)
            self._left = self._left - {alias} | {name}

    def forbid_null(self, *names: str) -> None:
        """Check that fields are absent or have a value, where null does not mean absent.

        Raises:
            ConversionError: a field is null.
        """
        for name in names:
            if name in self._data and self._data[name] is None:
                raise ConversionError(f"{self.file}: field {name!r} is null; give it a value or leave it out")

    def require(self, name: str, *allowed: object) -> None:
        """Check that a field is absent, null, or has one of the values under which it changes nothing.

        Raises:
            ConversionError: the field has another value, and the user did not choose to ignore it.
        """
        self._left.discard(name)
        value = self._data.get(name)
        if value is not None and name not in self._ignore and not any(_same(value, one) for one in allowed):
            known = " or ".join(repr(one) for one in allowed) or "absent"
            raise ConversionError(f"{self.file}: {name} = {value!r:.100} is not supported; it must be {known:.200}")

    def harmless(self, names: Iterable[str]) -> None:
        """Mark fields that cannot change a vector as read."""
        self._left.difference_update(names)

    def done(self) -> None:
        """Check that every field has been read.

        Raises:
            ConversionError: names the first unread field, and how to ignore it.
        """
        unknown = sorted(self._left.difference(self._ignore))
        if unknown:
            value = self._data[unknown[0]]
            raise ConversionError(
                f"{self.file}: unknown field {unknown[0]!r} = {value!r:.60}; if it cannot change the vectors, "
                f"pass --ignore-config-field {unknown[0]}"
            )


def _same(value: object, allowed: object) -> bool:
    """Return whether two values are equal, without treating 0 as False."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
