"""What this process is given by its surroundings, made usable: output streams, home, a user's name.

Output that an encoding cannot show is escaped, a reader that leaves (``| head``) or a closed stdout
(``>&-``) changes neither the work nor the exit code, and without a home directory libraries keep
their caches in a folder of this user's among the temporary ones.
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
    """To be called once, before anything is written."""
    _open_closed()
    if os.name == "nt":  # its consoles are no files
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
    """A file whose reader may leave: what is written after that is dropped. So is what is written
    after another error, as of a full disk, which is raised once."""

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
    """A standard stream that is closed is /dev/null: else the next file that is opened would get
    its number, and what libraries print would be written into it."""
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
    """XmdptError where the working folder was deleted; ConfigError for arguments and variables of
    ours whose bytes are no text, which no report or record could name."""
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
    """Give libraries a home and a user's name where there are none; what to tell the user, else "".

    Many look for ``~/.cache`` or ask for the name of the user, who in a container may have neither.
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
    """The same one each time, unless somebody else holds its name."""
    path = Path(tempfile.gettempdir()) / f"xmdpt-home-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if path.is_dir() and not path.is_symlink() and found.st_uid == os.getuid():
            return str(path)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="xmdpt-home-")
