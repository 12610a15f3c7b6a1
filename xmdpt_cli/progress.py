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
    Training gives loss, images_per_second, data_wait, gpu_memory, mfu and masked.
    """

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None: ...


#: a callback for one line of text
Say = Callable[[str], None]


def silently(text: str) -> None:
    """The default ``Say``: does nothing."""


def silent(stage: str, done: int, total: int, /, **info: Any) -> None:
    """The default ``Progress``: does nothing."""
