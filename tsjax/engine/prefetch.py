"""Work in threads, ahead of its consumer."""

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
    """Submit work to a pool; return None if it accepts no more, as in a thread that outlives the main thread."""
    try:
        return pool.submit(work)
    except RuntimeError:
        return None


def prefetch_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1
) -> Generator[Result, None, None]:
    """Map ``work`` over items; compute each result in a thread while the previous one is in use.

    Items are taken in the caller's thread, two ahead of the results. With two threads, two items are computed at once.
    A single item is computed at once, without a thread.
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
        # A consumer that stops early does not wait for results that are no longer needed.
        pool.shutdown(wait=False, cancel_futures=True)


def _result(work: Callable[[Item], Result], item: Item, future: Future[Result] | None) -> Result:
    return work(item) if future is None else future.result()
