"""Validates file names read from a file, before a file of that name is opened, moved or removed.

A dataset, a run or a folder of samples may be untrusted. Its files name other files beside them;
such a name must be a plain file name of the form that xmdpt writes: an absolute path, ``..`` or a
device would reach files elsewhere.
"""

from __future__ import annotations

import os
import re

from xmdpt_cli.errors import XmdptError

SHARD = re.compile(r"(?:train|test)-\d{6}\.tar")
CHECKPOINT = re.compile(r"step_\d{7,12}")
MOST_BYTES = 255  # of a file's name, on every file system
_FORBIDDEN = re.compile(r"[/\\\0]")
# Windows has drives (C:x), streams (x:y), and devices that open in any folder
_WINDOWS = re.compile(r"(?i).*:.*|(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def is_plain(name: object) -> bool:
    """Whether ``name`` names a file or folder without leading to another folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and _FORBIDDEN.search(name) is None
        and (os.name != "nt" or _WINDOWS.fullmatch(name) is None)
        and len(name.encode("utf-8", "surrogateescape")) <= MOST_BYTES
    )


def is_below(path: object) -> bool:
    """Whether ``path`` is relative, with forward slashes, and every part of it plain."""
    return isinstance(path, str) and all(is_plain(part) for part in path.split("/"))


def plain(name: object, where: str, form: re.Pattern[str] | None = None) -> str:
    """Return ``name`` if it is plain and matches ``form``; else XmdptError that names ``where``."""
    if isinstance(name, str) and is_plain(name) and (form is None or form.fullmatch(name)):
        return name
    raise XmdptError(
        f"{where} names {_shown(name)}, which is no name that xmdpt writes there",
        "nothing was touched; the file is damaged or was made to mislead: get it again",
    )


def _shown(name: object) -> str:
    text = ascii(name)  # no control character reaches the terminal
    return text if len(text) <= 80 else f"{text[:77]}..."
