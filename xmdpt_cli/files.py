"""Writing so that what is there is whole, and one process a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.shown import masked


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 under a temporary name, flush to disk, rename. Passwords in URLs are masked."""
    write_bytes(path, masked(text).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush to disk, rename."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as err:
        with suppress(OSError):
            part.unlink()
        if err.filename is None:  # a full disk says nothing of where
            err.filename = str(path)
        raise


def sha256_of(path: Path, *, from_disk: bool = False) -> str:
    """Hex SHA-256 of a file. ``from_disk``: not from the memory that it may still be in."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(2**22))
    with open(path, "rb", buffering=0) as stream:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


@contextmanager
def writing(what: object) -> Iterator[None]:
    """An OSError while ``what`` is written becomes an error that a user can act on."""
    try:
        yield
    except OSError as err:
        raise XmdptError(
            f"cannot write {what}: {err.strerror or err}",
            "make room or fix the permissions; the same command then goes on from what is done",
        ) from err


@contextmanager
def only_process(folder: Path, lock: str = ".lock", *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; XmdptError if another one works in it, or ``wait`` for it.

    The lock goes with its process, however that ends. Where the system has no such locks
    (Windows, some network file systems) nothing is held.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover
        yield
        return
    path = folder / lock
    while True:
        with _opened(path) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise XmdptError(
                    f"another process is working in {folder}",
                    "wait for it, or choose another folder",
                ) from None
            except OSError:  # pragma: no cover - a file system without locks
                pass
            try:
                if os.fstat(handle.fileno()).st_ino != path.stat().st_ino:
                    continue  # its last holder has just removed it: the next lock is another file
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w")
    except OSError as err:
        raise XmdptError(
            f"cannot write into {path.parent}: {err.strerror}", "choose another --out"
        ) from None


def human_bytes(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
