"""Pictures are written on threads of their own, while the next ones are drawn."""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from isal import isal_zlib

from xmdpt_cli import __version__
from xmdpt_cli.files import writing
from xmdpt_cli.images import GENERATED, Picture, fast_png_bytes, save_bytes

KEYWORD = GENERATED[-1]  # of the PNG's text that says how the picture was made
WAITING = 64  # pictures in memory that are not yet on the disk
_BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a generated image says of itself: standard keywords, and ``facts`` as JSON. Other
    formats than PNG carry it by ``embedded.py``, PIL images in their ``info``."""
    toy = " (toy model: says nothing of real results)" if facts.get("toy") else ""
    software, source, own = GENERATED
    return {
        software: f"xmdpt {__version__}",
        source: f"drawn by a diffusion model, not a photograph{toy}",
        own: json.dumps(dict(facts), ensure_ascii=True),
    }


def is_whole(path: Path, size: int | None = None) -> bool:
    """Whether a PNG (of ``size`` x ``size``) is there to its last byte.

    By the checksums of its parts, which is ten times faster than to decode it; and Pillow decodes
    a file whose last bytes are missing without a word.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return False
    if data[:16] != _BEGINNING:
        return False
    if size is not None and data[16:24] != struct.pack(">II", size, size):
        return False
    at = 8
    while at + 12 <= len(data):  # length, kind, content, checksum over both
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if isal_zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        if kind == b"IEND":
            return end == len(data)
        at = end
    return False


class Writer:
    """``put`` returns at once; leaving the block waits, also where it is left by an error: what
    was drawn is not drawn again. An error of the disk is raised from ``put`` or at the end, as an
    XmdptError."""

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
            self._pool.shutdown(wait=True)


def _write(path: Path, picture: Picture, facts: Mapping[str, Any]) -> None:
    with writing(path):
        try:
            save_bytes(path, fast_png_bytes(picture, metadata(facts)))
        except OSError:  # a full disk: what is not whole need not stay there
            path.with_name(path.name + ".part").unlink(missing_ok=True)
            raise
