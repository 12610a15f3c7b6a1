"""Callbacks for progress and messages of long library functions.

Such functions accept ``progress`` and call it as ``progress(stage, done, total, **info)``. Commands
show bars or status lines, scripts may pass a function of their own, and the default does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """A progress callback; it is called often and must be cheap.

    ``info``: values to show, the most useful first: the last ones are left out if space is short.
    Training gives loss, val_loss, images_per_second, data_wait, gpu_memory, mfu and masked.
    """

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None: ...


#: a callback for one line of text
Say = Callable[[str], None]


def silently(text: str) -> None:
    """The default ``Say``: does nothing."""


def silent(stage: str, done: int, total: int, /, **info: Any) -> None:
    """The default ``Progress``: does nothing."""


def say_resuming(progress: Progress, say: Say, what: str) -> Progress:
    """Wrap ``progress``: before a stage that resumes, prints "resuming: 40 of 120 images are done".

    The first call of a stage must have the number of items that were done before.
    """
    seen: set[str] = set()

    def listen(stage: str, done: int, total: int, /, **info: Any) -> None:
        if stage not in seen and 0 < done < total:
            say(f"resuming: {done} of {total} {what} are done")
        seen.add(stage)
        progress(stage, done, total, **info)

    return listen
