"""Pictures are written on threads of their own, while the next ones are drawn."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from xmdpt_cli import __version__
from xmdpt_cli.files import writing
from xmdpt_cli.images import Picture, fast_png_bytes, save_bytes

KEYWORD = "xmdpt"  # of the PNG's text that says how the picture was made
WAITING = 64  # pictures in memory that are not yet on the disk


def metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a PNG says of itself: standard keywords, and ``facts`` as JSON."""
    toy = " (toy model: says nothing of real results)" if facts.get("toy") else ""
    return {
        "Software": f"xmdpt {__version__}",
        "Source": f"drawn by a diffusion model, not a photograph{toy}",
        KEYWORD: json.dumps(dict(facts), ensure_ascii=True),
    }


class Writer:
    """``put`` returns at once; leaving the block waits. An error of the disk is raised from
    ``put`` or at the end, as an XmdptError."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="png")
        self._running: deque[Future[None]] = deque()

    def put(self, path: Path, picture: Picture, facts: Mapping[str, Any]) -> None:
        """A PNG with its facts; whole, or not there."""
        while len(self._running) >= WAITING:
            self._running.popleft().result()
        self._running.append(self._pool.submit(_write, path, picture, facts))

    def wait(self) -> None:
        while self._running:
            self._running.popleft().result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _write(path: Path, picture: Picture, facts: Mapping[str, Any]) -> None:
    with writing(path):
        save_bytes(path, fast_png_bytes(picture, metadata(facts)))
