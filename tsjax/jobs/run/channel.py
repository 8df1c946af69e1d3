"""A bounded queue between two threads, either of which may fail: the other then learns of it and stops too."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Item = TypeVar("Item")


class StoppedError(Exception):
    """Nobody takes any more."""


class Channel(Generic[Item]):
    """A queue with an end.

    Args:
        most: items that wait in it at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: collections.deque[Item] = collections.deque()
        self._changed = threading.Condition()
        self._closed = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Add an item, as soon as there is room.

        Raises:
            StoppedError: nobody takes any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._most)
            if self._stopped:
                raise StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; an error is raised where the items are taken, after the last of them."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def stop(self) -> None:
        """Say that nothing more is taken."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """The items, as they come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed or self._stopped)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
