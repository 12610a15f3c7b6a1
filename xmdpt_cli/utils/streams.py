"""Output streams, home directory and user name of the process, made usable for all commands.

Output that an encoding cannot show is escaped. A pipe that is closed early (``| head``) or a closed
stdout (``>&-``) changes neither the work nor the exit code. Without a home directory, libraries
keep their caches in a private temporary folder of the user.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmdpt_cli.errors import ConfigError, XmdptError


def is_utf8(stream: Any) -> bool:
    """Whether a text stream can show every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def prepare_streams() -> None:
    """Make stdout and stderr safe to write to; call once, before anything is written."""
    _open_closed()
    if os.name == "nt":  # consoles of Windows are not files
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.detach()
    file = io.BufferedWriter(_Leaving(1, "w", closefd=False))
    output = io.TextIOWrapper(
        file, encoding=encoding, errors="backslashreplace", line_buffering=os.isatty(1)
    )
    sys.stdout = sys.__stdout__ = output  # type: ignore[misc]


class _Leaving(io.FileIO):
    """A file that drops all output after its reader has closed the pipe, or after another error,
    such as a full disk, which is raised once."""

    gone = False

    def write(self, data: Any) -> int:
        try:
            return memoryview(data).nbytes if self.gone else super().write(data)
        except OSError as err:
            self.gone = True
            if isinstance(err, BrokenPipeError):
                return memoryview(data).nbytes
            raise


def _open_closed() -> None:
    """Open /dev/null for each closed standard stream: otherwise the next opened file would get its
    number, and what libraries print would be written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            if getattr(sys, name) is None:
                mode = "w" if number else "r"
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def check_surroundings(arguments: Sequence[str]) -> None:
    """Raise XmdptError if the working folder was deleted, and ConfigError for arguments and
    XMDPT_ variables that are not valid text."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("XMDPT_")}
    for name, value in [*(("the argument", one) for one in arguments), *ours.items()]:
        raw = os.fsencode(value)
        if raw.decode("utf-8", "surrogateescape") != value:
            raise ConfigError(
                f"{name} {raw!r} is UTF-8, which the locale's encoding "
                f"({sys.getfilesystemencoding()}) cannot hold",
                "set PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8",
            )
        if any("\udc80" <= letter <= "\udcff" for letter in value):
            raise ConfigError(f"{name} {raw!r} is not UTF-8", "rename that file or folder")
    try:
        os.getcwd()
    except OSError as err:
        gone = isinstance(err, FileNotFoundError)
        what = "was deleted" if gone else f"cannot be used ({err.strerror})"
        raise XmdptError(f"the working folder {what}", "cd to a folder that exists") from None


def prepare_home() -> str:
    """Set HOME and USER if they are missing, as in some containers; returns a message or "".

    Many libraries need ``~/.cache`` or the name of the user.
    """
    if os.name == "nt":
        return ""
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = _user()
    if os.path.expanduser("~") != "~" and os.environ.get("HOME") != "":
        return ""
    home = private_folder()
    os.environ["HOME"] = home
    return (
        f"no home directory (HOME is not set): libraries keep their files in {home}; to keep them "
        "elsewhere: set HOME"
    )


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def private_folder() -> str:
    """A private temporary folder: the same one each time, unless another user owns its name."""
    path = Path(tempfile.gettempdir()) / f"xmdpt-home-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if path.is_dir() and not path.is_symlink() and found.st_uid == os.getuid():
            return str(path)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="xmdpt-home-")
