"""The server ends when it is told to, whatever its threads are busy with."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

PATIENCE = 4.0  # seconds from a signal to the end of the process


@contextmanager
def stopping() -> Iterator[set[threading.Thread]]:
    """SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does, so that everything is
    cleaned up. Yields the threads there are before."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)  # which uvicorn handles while it runs, this one not

    before = set(threading.enumerate())
    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield before
        return
    old = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if hasattr(signal, "SIGHUP"):
        old[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield before
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def leave_stuck(before: set[threading.Thread], folder: Path) -> None:
    """End the process if threads that came since ``before`` do not end: Python would wait for
    them for ever."""
    end = time.monotonic() + PATIENCE
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(timeout=max(0.0, end - time.monotonic()))
            if thread.is_alive():
                end_now(folder)


def end_now(folder: Path) -> None:
    """End the process here, with nothing of the page left behind."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(Exception):
        print("stopped, with work left undone", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
