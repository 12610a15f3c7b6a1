"""Atomic writes, checksums, and the lock of a folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.utils.redact import masked

#: files and folders that an operating system or its file manager leaves behind, in lower case
_LEFT_BEHIND = {
    ".ds_store", ".appledouble", ".apdisk", ".directory", ".documentrevisions-v100", ".fseventsd",
    ".localized", ".spotlight-v100", ".temporaryitems", ".trashes", ".volumeicon.icns",
    "__macosx", "icon\r", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "thumbs.db",
    "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
_LEFT_BEHIND_PREFIXES = ("._", ".trash-", ".nfs", ".fuse_hidden")


def left_by_system(name: str) -> bool:
    """Whether operating systems leave files of this name behind (``.DS_Store``, ``Thumbs.db``)."""
    lower = name.lower()
    return lower in _LEFT_BEHIND or lower.startswith(_LEFT_BEHIND_PREFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file of this name is hidden or left by the system, thus not the user's data."""
    return name.startswith(".") or left_by_system(name)


def content(folder: Path) -> list[str]:
    """The sorted names in a folder, without those the system left; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if not left_by_system(name))


#: read at import, before there are threads: it can be read only by setting it
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def apply_umask(folder: Path) -> None:
    """Give the files in ``folder`` and below the permissions of any new file; safetensors writes
    its files for their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~_UMASK)


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~name`` expanded, or unchanged if there is no such home folder."""
    return Path(os.path.expanduser(path))


@contextmanager
def unfinished(part: Path) -> Iterator[Path]:
    """Yield ``part``, the path of an unfinished file or folder; removed if the block raises.

    What a killed process left there is removed first.
    """
    _remove(part)
    try:
        yield part
    except BaseException:
        with suppress(OSError):
            _remove(part)
        raise


@contextmanager
def atomic_write(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder, renamed to ``path`` at the end of the block.

    The temporary path is removed if the block raises; ``path`` is then as it was. ``part``: another
    name beside it than ``<name>.part``. A folder at ``path`` is replaced by the new one.
    """
    try:
        with unfinished(part or path.with_name(path.name + ".part")) as part:
            yield part
            folder = part.is_dir()
            if folder:
                apply_umask(part)
                _sync_folder(part)
                remove_folder(path)
            part.replace(path)
            if folder:
                _sync_folder(path.parent)
    except OSError as err:
        if err.errno and err.filename is None:  # the error of a full disk names no file
            err.filename = str(path)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it exists; renamed first, so that a kill never leaves half of it."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.old")
        _remove(hidden)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's file names to the disk (on systems where folders can be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # pragma: no cover - Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 under a temporary name, flush to disk, rename. Passwords in URLs are masked."""
    write_bytes(path, masked(text).encode())


def write_bytes(path: Path, data: bytes, part: Path | None = None) -> None:
    """Write under a temporary name (``part``), flush to disk, rename."""
    with atomic_write(path, part) as part, open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path, *, from_disk: bool = False) -> str:
    """Hex SHA-256 of a file. ``from_disk``: read from the disk, bypassing the page cache."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(2**22))
    with open(path, "rb", buffering=0) as stream:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def check_writable(path: Path) -> None:
    """Raise XmdptError unless the file ``path`` can be written; leaves nothing behind.

    To be called before minutes of work. Folders above ``path`` need not exist yet.
    """
    if path.is_dir():
        raise ConfigError(f"a folder, not a file: {path}", f"--out {path / 'NAME'}")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as err:
        raise XmdptError(
            f"cannot write {path}: {err.strerror or err}", "choose another --out"
        ) from None


@contextmanager
def writing(what: object) -> Iterator[None]:
    """Turn an OSError raised while writing ``what`` into an XmdptError with a hint."""
    try:
        yield
    except OSError as err:
        raise XmdptError(
            f"cannot write {what}: {err.strerror or err}",
            "make room or fix the permissions; the same command then resumes",
        ) from err


@contextmanager
def only_process(folder: Path, lock: str = ".lock", *, wait: bool = False) -> Iterator[None]:
    """Lock ``folder`` for this process. If another process holds it: XmdptError, or ``wait``.

    The lock ends with its process. On systems without such locks (Windows, some network file
    systems) nothing is locked.
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
                    continue  # its last holder has just removed it: open the new file
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
