"""How the library says where it is, without knowing who listens.

Library functions that take long accept ``progress`` and call it as
``progress(stage, done, total, **info)``; a command turns the calls into a bar or into
status lines, a script may pass its own function, and the default does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Progress(Protocol):
    """Called often: must be cheap and must not raise.

    ``info`` is shown beside the progress, the most useful first: what does not fit is left out
    from the end. Training gives loss, images_per_second, data_wait, gpu_memory, mfu and masked.
    """

    def __call__(self, stage: str, done: int, total: int, /, **info: Any) -> None: ...


#: how the library gives its user a line of text
Say = Callable[[str], None]


def silently(text: str) -> None:
    """The default of a ``Say``: the line is dropped."""


def silent(stage: str, done: int, total: int, /, **info: Any) -> None:
    """The default: no progress is shown."""
