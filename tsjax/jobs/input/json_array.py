"""Streaming reader of the elements of one JSON array, in memory that does not grow with their number."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from tsjax.jobs.input.columns import BadRowError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 18
_SPACE = re.compile(r"[ \t\n\r]*")
# Tokens that determine the end of an element: a complete string, a bracket or a comma.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)
_WIDTH = {"[": 1, "{": 1, "]": -1, "}": -1}


class JsonArray:
    """A reader of the elements of a JSON array.

    Args:
        stream: the array as UTF-8.

    Attributes:
        line: line on which the current element begins, from 1.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.line = 1
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._place, self._ended = "", 0, False
        self._breaks = 0  # within the current element
        self._parse = json.JSONDecoder().raw_decode

    def elements(self) -> Iterator[Any]:
        """Yield the elements, with a `BadRowError` in place of an element that is not JSON.

        Raises:
            ValueError: the array is not closed, its elements are not separated by commas, or something follows it.
        """
        if self._next_character() != "[":
            raise ValueError("it does not begin with [")
        self._place += 1
        first = True
        while (character := self._next_character()) != "]":
            if not first:
                if character != ",":
                    raise ValueError(f"{character or 'the end'!r} where a comma or ] should be")
                self._place += 1
                self._next_character()
            first = False
            yield self._element()
            self.line += self._breaks
        self._place += 1
        if after := self._next_character():
            raise ValueError(f"{after!r} after the end of the array")

    def _element(self) -> Any:
        while True:
            reason = ""
            try:
                value, end = self._parse(self._text, self._place)
            except RecursionError as error:
                reason = str(error)
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            else:
                # A number may continue in the part that is not read yet.
                if end < len(self._text) or self._ended:
                    self._advance(end)
                    return value
            if reason and (end_of_broken := self._end_of_broken()) is not None:
                self._advance(end_of_broken)
                return BadRowError(f"not JSON: {reason}")
            if not self._read_more():
                raise ValueError("the array is never closed; the file was cut")

    def _advance(self, end: int) -> None:
        self._breaks = self._text.count("\n", self._place, end)
        self._place = end

    def _end_of_broken(self) -> int | None:
        """Return the end of an element that is not JSON, by its brackets; None if the end is not read yet."""
        depth = 0
        for token in _TOKEN.finditer(self._text, self._place):
            if token[0] == '"':
                return None  # a string continues in the part that is not read yet
            if depth == 0 and token[0] in ",]":
                return token.start()
            depth += _WIDTH.get(token[0], 0)
        return None

    def _next_character(self) -> str:
        """Skip white space and return the next character, or an empty string at the end."""
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found is not None  # the pattern also matches an empty string
            self.line += self._text.count("\n", self._place, found.end())
            self._place = found.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Read as many bytes as there are unparsed characters, at least a block; return False at the end."""
        if self._ended:
            return False
        rest = self._text[self._place :]
        block = self._stream.read(max(_BLOCK, len(rest)))
        self._ended = not block
        self._text, self._place = rest + self._decoder.decode(block, final=self._ended), 0
        return True
