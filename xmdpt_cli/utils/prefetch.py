"""Ordered prefetching on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    depth: int = 2,
    threads: int = 1,
    initializer: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """Yield ``work(item)`` for each item, in order, while threads work on later items.

    At most ``depth`` finished results wait, beside those that the ``threads`` threads work on.
    ``items`` may be endless; it is iterated in the caller's thread. An error of ``work`` is raised
    where its result would have been yielded. Close the generator (or drop it) to end the threads.
    ``initializer`` runs first in each thread.
    """
    pool = ThreadPoolExecutor(threads, "prefetch", initializer)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > depth + threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
