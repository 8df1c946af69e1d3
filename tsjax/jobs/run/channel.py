"""A bounded queue between two threads. If one of the threads fails, the other is notified and stops too."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Item = TypeVar("Item")


class StoppedError(Exception):
    """An error that `Channel.put` raises after the consumer has stopped."""


class Channel(Generic[Item]):
    """A bounded queue that can be closed.

    Args:
        most: the maximum number of items that wait in the queue.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: collections.deque[Item] = collections.deque()
        self._changed = threading.Condition()
        self._closed = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Add an item; wait until there is room.

        Raises:
            StoppedError: the consumer has stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._most)
            if self._stopped:
                raise StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Close the queue: no more items follow. ``error`` is raised in the consumer after the last item."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop consuming: discard the waiting items and refuse new ones."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items as they arrive."""
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
