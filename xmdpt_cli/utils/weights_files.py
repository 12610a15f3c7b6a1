"""Files of weights that are not whole: what is wrong with them, and how to fetch them.

Looked at before a library reads them, whose errors do not say it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import human_bytes

_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
_LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
_END = 65_557  # the longest end of a zip: its comment is at most 65,535 bytes


def check_whole(path: Path, fetch: str = "") -> None:
    """XmdptError if a file of weights is a Git LFS pointer, a web page, empty or cut.

    ``fetch``: the command that downloads it, where that is known. A file that cannot be read, or is
    damaged otherwise, is left to its reader.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            begin = file.read(512)
            file.seek(max(0, size - _END))
            end = file.read() if begin[:4] == _ZIP else b""
    except OSError:
        return
    again = fetch or "download or copy it again"
    if not size:
        raise XmdptError(f"{path} is empty (0 bytes)", again)
    if begin.startswith(_LFS):
        whole = re.search(rb"^size (\d+)$", begin, re.MULTILINE)
        of = f" of the file of {human_bytes(int(whole[1]))}" if whole else ""
        raise XmdptError(
            f"{path} is a Git LFS pointer ({size} bytes){of}, not the weights",
            f"in the folder it was cloned to: git lfs pull; or {fetch or 'hf download REPOSITORY'}",
        )
    if re.match(rb"\s*<(!doctype|html|\?xml)", begin, re.IGNORECASE):
        raise XmdptError(f"{path} is a web page, not weights: its download failed", again)
    if path.suffix == ".safetensors":
        expected = _safetensors_size(path)
        if size < expected:
            raise XmdptError(f"{path} is cut: it holds {_bytes(size)} of {_bytes(expected)}", again)
    elif begin[:4] == _ZIP and _ZIP_END not in end:
        raise XmdptError(f"{path} is cut: its end is missing ({_bytes(size)} are there)", again)


def unfinished(folder: Path) -> str:
    """``; its download is unfinished (NAME)`` where the hub's client left one; else empty."""
    parts = sorted(folder.glob(".cache/huggingface/download/**/*.incomplete"))
    return "; a download into it is unfinished" if parts else ""


def missing_shards(folder: Path, stem: str) -> list[str]:
    """The files that the index of a network in several files names and that are not there."""
    names: set[str] = set()
    for index in folder.glob(f"{stem}*.safetensors.index.json"):
        try:
            names |= set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # its reader says so
    return sorted(name for name in names if not (folder / Path(str(name)).name).is_file())


def _safetensors_size(path: Path) -> int:
    """Bytes that the file has when whole, by its header; 0 where the header is no header."""
    try:
        with open(path, "rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or length > _LONGEST_HEADER:
                return 0
            raw = file.read(length)
        if len(raw) < length:
            return 8 + length
        entries = json.loads(raw)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return 0


def _bytes(count: int) -> str:
    return f"{count:,} bytes" + (f" ({human_bytes(count)})" if count >= 2**20 else "")
