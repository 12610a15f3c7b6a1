"""The folder of the page, which holds uploads and results until the server stops.

No file outside of this folder is ever read for a client. The folder is private (mode 0700) and
removed when the server stops; the folder of a killed process is removed at the next start.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from xmdpt_cli.errors import XmdptError

PREFIX = "xmdpt-ui-"
LOCK = ".lock"
GRADIO_FOLDER = "GRADIO_TEMP_DIR"  # environment variable of Gradio
AGAIN = "drop the file on the page again"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A new private folder, which Gradio uses for its uploads; removed at the end.

    Create the Gradio blocks inside this context: they store the folder.
    """
    parent = Path(tempfile.gettempdir())
    remove_stale(parent)
    # locked before it has the name that another start looks for
    created = Path(tempfile.mkdtemp(prefix="xmdpt-new-", dir=parent))
    lock = _locked(created / LOCK)
    name = PREFIX + created.name.removeprefix("xmdpt-new-")
    folder = created.rename(created.with_name(name)).resolve()
    before = os.environ.get(GRADIO_FOLDER)
    os.environ[GRADIO_FOLDER] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            os.environ.pop(GRADIO_FOLDER, None)
        else:
            os.environ[GRADIO_FOLDER] = before
        if lock is not None:
            lock.close()
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(parent: Path) -> None:
    """Remove the folders of pages whose process is gone, if they belong to the current user."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or not hasattr(os, "getuid"):
                continue
            if found.st_uid != os.getuid() or not (folder / LOCK).is_file():
                continue
            lock = _locked(folder / LOCK)
            if lock is not None:  # no process holds the lock
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()


def _locked(path: Path) -> IO[str] | None:
    """Open and lock a file until it is closed or the process ends. None if another process holds
    the lock, or the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        return None
    file = open(path, "a")  # noqa: SIM115 - held as long as the folder
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def new_folder() -> Path:
    """A new folder inside the folder of the page, from which Gradio serves files without a copy."""
    return Path(tempfile.mkdtemp(prefix="result-", dir=os.environ.get(GRADIO_FOLDER)))


def uploaded(path: str, folder: Path, most: int) -> Path:
    """Resolve a path that a client sent to a regular file below ``folder``.

    XmdptError otherwise, with the same message whether or not such a file exists.
    """
    refused = XmdptError("this file was not uploaded to this page, or it is gone", AGAIN)
    try:
        real = Path(path).resolve(strict=True)
        found = real.stat()
    # missing, a NUL, a loop of links, not a string
    except (OSError, ValueError, RuntimeError, TypeError):
        raise refused from None
    if not real.is_relative_to(folder.resolve()) or not stat.S_ISREG(found.st_mode):
        raise refused
    if found.st_size > most:
        raise XmdptError("this file is too large for the page", "use a smaller one")
    return real


def remove_parts(folder: Path, before: float | None) -> None:
    """Remove the partial files of interrupted uploads. Gradio writes an upload to ``tmp*`` and
    renames it when it is complete. ``before``: start time of the oldest request in progress, whose
    files are newer; None without one."""
    for path in folder.glob("tmp*"):
        with suppress(OSError):
            found = path.lstat()
            # clocks of file systems are coarse
            if stat.S_ISREG(found.st_mode) and (before is None or found.st_mtime < before - 1):
                path.unlink()


def make_room(folder: Path, most: int) -> None:
    """Remove the oldest files until at most ``most`` bytes are left."""
    files = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and path.name != LOCK:
                files.append((found.st_mtime, found.st_size, path))
    used = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if used <= most:
            return
        with suppress(OSError):
            path.unlink()
            used -= size
