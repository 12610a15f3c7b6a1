"""Stop the server on a signal, even while its threads are busy."""

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

from xmdpt_cli.utils import interrupts

PATIENCE = 4.0  # seconds from a signal to the end of the process


@contextmanager
def stopping() -> Iterator[set[threading.Thread]]:
    """Let SIGHUP (a closed terminal) raise KeyboardInterrupt as Ctrl-C and SIGTERM do
    (``interrupts``), so that everything is cleaned up. Yields the threads that are alive before."""

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)  # uvicorn handles SIGTERM while it runs, but not SIGHUP

    before = set(threading.enumerate())
    main = threading.current_thread() is threading.main_thread()  # handlers can only be set there
    with interrupts.listening():
        if not (main and hasattr(signal, "SIGHUP")):
            yield before
            return
        handler = signal.signal(signal.SIGHUP, hang_up)
        try:
            yield before
        finally:
            signal.signal(signal.SIGHUP, handler)


def leave_stuck(before: set[threading.Thread], folder: Path) -> None:
    """Exit the process if threads started since ``before`` do not end: Python would wait for them
    forever."""
    end = time.monotonic() + PATIENCE
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(timeout=max(0.0, end - time.monotonic()))
            if thread.is_alive():
                end_now(folder)


def end_now(folder: Path) -> None:
    """Exit the process at once, after removing the folder of the page."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(Exception):
        print("stopped before all work was finished", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
