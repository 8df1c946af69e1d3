"""Work on the next item while the caller is busy with the last."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(work, items)``, with the work on an item done in a thread while its predecessor's result is in use.

    Items are taken in the caller's thread, two ahead of the results. A single item is worked on at once, without a
    thread.
    """
    iterator = iter(items)
    first = list(itertools.islice(iterator, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="tsjax-ahead")
    try:
        waiting = [pool.submit(work, item) for item in first]
        for item in iterator:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(work, item))
        for future in waiting:
            yield future.result()
    finally:
        # Whoever stops early does not wait for what nobody wants any more.
        pool.shutdown(wait=False, cancel_futures=True)
