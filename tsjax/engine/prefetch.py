"""Work in threads, ahead of who needs it."""

from __future__ import annotations

import collections
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


def submit(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Future[Result] | None:
    """``pool.submit(work)``; None where the pool takes no more, as in a thread that outlives the main thread."""
    try:
        return pool.submit(work)
    except RuntimeError:
        return None


def prefetch_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1
) -> Generator[Result, None, None]:
    """``map(work, items)``, with the work on an item done in a thread while its predecessor's result is in use.

    Items are taken in the caller's thread, two ahead of the results. With two threads the two are worked on at once. A
    single item is worked on at once, without a thread.
    """
    iterator = iter(items)
    first = list(itertools.islice(iterator, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tsjax-ahead")
    try:
        waiting = collections.deque([(first[0], submit(pool, functools.partial(work, first[0])))])
        for item in itertools.chain(first[1:], iterator):
            waiting.append((item, submit(pool, functools.partial(work, item))))
            yield _result(work, *waiting.popleft())
        yield _result(work, *waiting.popleft())
    finally:
        # Whoever stops early does not wait for what nobody wants any more.
        pool.shutdown(wait=False, cancel_futures=True)


def _result(work: Callable[[Item], Result], item: Item, future: Future[Result] | None) -> Result:
    return work(item) if future is None else future.result()
