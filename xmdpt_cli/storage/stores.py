"""A folder whose files are complete or absent: on this machine, or behind a URL.

A prepared dataset is such a folder, without subfolders. ``open_store`` accepts what a user types:
a path, ``sftp://user@host/folder``, ``s3://bucket/folder``, ``https://host/folder``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Protocol

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.files import write_bytes
from xmdpt_cli.utils.safe_names import plain


class Store(Protocol):
    """The operations on a folder that reading and writing a dataset need.

    Names are plain file names; others raise XmdptError. Reading a missing file raises
    FileNotFoundError; other failures are an OSError that names the file, or an XmdptError.
    """

    url: str  # as shown in messages

    @property
    def folder(self) -> Path | None:
        """Its path, if it is a folder of this machine."""
        ...

    @property
    def read_only(self) -> bool:
        """Web servers: they are not written to, and do not list their folders."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None if it does not exist."""
        ...

    def names(self) -> list[str]:
        """The files and folders directly in it, sorted; none if it does not exist."""
        ...

    def read(self, name: str) -> bytes: ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer at the file's end."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        ...

    def scratch(self, name: str) -> Path:
        """The path on this machine at which to write a large file before ``put``."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Move a finished local file into the folder, atomically."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        ...


class LocalStore:
    """A folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self.url = str(folder)

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def read_only(self) -> bool:
        return False

    def _path(self, name: str) -> Path:
        return self._folder / plain(name, self.url)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder)) if self.folder.is_dir() else []

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        with open(self._path(name), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def write(self, name: str, data: bytes) -> None:
        write_bytes(self._path(name), data, self.scratch(name))

    def scratch(self, name: str) -> Path:
        path = self._path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        # two processes that should not be here together must not write into one file at least
        return path.with_name(f"{name}.{os.getpid()}.part")

    def put(self, file: Path, name: str) -> None:
        file.replace(self._path(name))

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)


def is_url(place: str | Path) -> bool:
    """Whether ``place`` is a URL for fsspec rather than a path of this machine."""
    text = str(place)
    return isinstance(place, str) and "://" in text and not text.startswith("file://")


def refuse_url(option: str, value: str | Path, *, hub: bool = False) -> None:
    """ConfigError for a URL given to an option that takes a path, or with ``hub`` a hub id too.

    A URL that went through ``Path`` is seen as well, by its scheme before one slash.
    """
    text = value.as_posix() if isinstance(value, PurePath) else value
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", text)
    if url is None:
        return
    on_hub = re.fullmatch(r"(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)/?", url[2])
    takes = "a folder or a hub id" if hub else "a path of this machine"
    raise ConfigError(
        f"{option} takes {takes}, not a URL: {url[1]}://{url[2]}",
        f"{option} {on_hub[1]}" if hub and on_hub else "download it, then name where it lies",
    )


def open_store(place: str | Path | Store) -> Store:
    """The store at a path or URL, not opened yet; a store is returned unchanged."""
    if not isinstance(place, (str, Path)):
        return place
    if is_url(place):
        from xmdpt_cli.storage.remote import RemoteStore

        return RemoteStore(str(place))
    text = str(place)
    return LocalStore(text.removeprefix("file://") if text.startswith("file://") else place)
