"""Prefetching: results and errors in order, never further ahead than the depth."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import count

import pytest

from xmdpt_cli.utils.prefetch import prefetch


@pytest.mark.parametrize("threads", [1, 4])
def test_results_and_errors_come_in_order(threads: int) -> None:
    def work(step: int) -> int:
        time.sleep(0.002 * (step % 3))
        if step == 7:
            raise ValueError("no such image")
        return step

    found = []
    with pytest.raises(ValueError, match="no such image"):
        found.extend(prefetch(work, range(2, 99), threads=threads))
    assert found == [2, 3, 4, 5, 6]
    assert list(prefetch(work, range(3, 6), threads=threads)) == [3, 4, 5]
    assert list(prefetch(work, [], threads=threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_work_runs_ahead_by_the_depth(threads: int) -> None:
    begun: list[int] = []
    with closing(prefetch(begun.append, count(), depth=2, threads=threads)) as results:
        for taken, _ in zip(range(1, 20), results, strict=False):
            time.sleep(0.005)
            assert taken <= len(begun) <= taken + 2 + threads


def test_the_threads_end_with_the_generator() -> None:
    before = set(threading.enumerate())
    names: list[str] = []
    started = prefetch(lambda _: None, count(), threads=2, initializer=lambda: names.append("on"))
    next(started)
    mine = set(threading.enumerate()) - before
    assert mine
    started.close()
    assert not any(thread.is_alive() for thread in mine)
    assert names == ["on"] * len(mine)
