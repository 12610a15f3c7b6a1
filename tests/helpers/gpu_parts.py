"""Parts of a GPU check, one for each way in which a part can end; run in separate processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

from xmdpt_cli.bench.gpu_check.rows import Ready, Row, Setting, at_most


def fine(setting: Setting) -> Iterator[Row]:
    yield at_most("small enough", 1.0, 2.0)


def hangs(setting: Setting) -> Iterator[Row]:
    """Hangs, with a child process like a compiler's."""
    sleeper = subprocess.Popen(["sleep", "600"])
    (setting.work / "pids").write_text(f"{os.getpid()} {sleeper.pid}")
    yield at_most("before it hangs", 1.0, 2.0)
    time.sleep(600)


def hangs_measuring(setting: Setting) -> Iterator[Row | Ready]:
    yield Ready()
    time.sleep(600)


def raises(setting: Setting) -> Iterator[Row]:
    yield at_most("before it fails", 1.0, 2.0)
    raise ValueError("no such kernel\nand more")


def dies(setting: Setting) -> Iterator[Row]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield at_most("never", 1.0, 2.0)


def timed(setting: Setting, name: str) -> Iterator[Row | Ready]:
    """The times at which it was prepared, and started and ended to be measured."""
    time.sleep(0.2)
    prepared = time.time()
    yield Ready()
    began = time.time()
    time.sleep(0.3)
    for moment, value in (("prepared", prepared), ("began", began), ("ended", time.time())):
        yield Row(f"{name} {moment}", value)
