"""Stores that are no folder, as those behind URLs are: for tests only."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmdpt_cli.storage.stores import open_store


def memory_url(folder: Path, name: str) -> str:
    """A copy of a folder's files in fsspec's memory file system, whose URL is returned."""
    pytest.importorskip("fsspec")
    store = open_store(f"memory://{name}/set")
    for path in folder.iterdir():
        if path.is_file():
            store.write(path.name, path.read_bytes())
    return store.url


class MemoryStore:
    """Files in a dictionary; ``scratch`` is a folder beside."""

    folder = None
    read_only = False

    def __init__(self, scratch: Path, files: dict[str, bytes]) -> None:
        self.url = "memory://dataset"
        self.files = files
        self._scratch = scratch

    @classmethod
    def of(cls, folder: Path, scratch: Path) -> MemoryStore:
        """A copy of a folder's files."""
        return cls(scratch, {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})

    def size(self, name: str) -> int | None:
        return len(self.files[name]) if name in self.files else None

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        return self.read(name)[offset : offset + length]

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def scratch(self, name: str) -> Path:
        return self._scratch / name

    def put(self, file: Path, name: str) -> None:
        self.files[name] = file.read_bytes()
        file.unlink()

    def remove(self, name: str) -> None:
        self.files.pop(name, None)
