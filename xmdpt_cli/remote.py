"""Stores behind URLs, through fsspec."""

from __future__ import annotations

from pathlib import Path

from xmdpt_cli.errors import XmdptError


class RemoteStore:
    """A folder behind a URL."""

    folder = None

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        raise XmdptError(f"URLs are not read yet: {url}")

    def size(self, name: str) -> int | None:
        raise NotImplementedError

    def names(self) -> list[str]:
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def scratch(self, name: str) -> Path:
        raise NotImplementedError

    def put(self, file: Path, name: str) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError
