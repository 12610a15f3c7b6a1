"""Checks and reads files of weights.

Damaged files are detected before a library reads them, whose errors do not name the file. No code
in a file is executed.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import human_bytes

if TYPE_CHECKING:
    from torch import Tensor

STATE_ALONE = "torch.save(net.state_dict(), FILE)"
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
    """The missing files among those that the index of a network in several files names."""
    names: set[str] = set()
    for index in folder.glob(f"{stem}*.safetensors.index.json"):
        try:
            names |= set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # its reader reports it
    return sorted(name for name in names if not (folder / Path(str(name)).name).is_file())


def _safetensors_size(path: Path) -> int:
    """Size of the complete file by its header, in bytes; 0 if the header is not valid."""
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


class UnreadableError(XmdptError):
    """The file is damaged or does not contain tensors; ``reason``: the message without the path."""

    def __init__(self, path: Path, reason: str, hint: str) -> None:
        super().__init__(f"cannot read {path}: {reason}", hint)
        self.reason = reason


def read_tensors(path: Path, again: str, alone: str = STATE_ALONE) -> Any:
    """Load what torch.save wrote, on the CPU. Raises UnreadableError.

    ``again``: how to get the file again; ``alone``: the call that saves a state dict alone.

    The checksums of the zip archive are compared first, which torch does not do: a byte that
    changed on the way would become another weight.
    """
    import torch

    check_archive(path, again)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises a dozen types for other files
        raise unreadable(path, err, again, alone) from None


def check_archive(path: Path, again: str) -> None:
    """UnreadableError if a member of the zip archive is damaged. Other files are not checked: the
    format before torch 1.6 has no checksums."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as err:
        raise UnreadableError(path, f"it is damaged ({err})", again) from None
    if damaged is not None:
        raise UnreadableError(path, f"it is damaged ({damaged} has another checksum)", again)


def unreadable(path: Path, err: Exception, again: str, alone: str = STATE_ALONE) -> UnreadableError:
    """The error for an exception of torch.load, whose message advises to run the file's code."""
    wanted = re.search(r"GLOBAL (\S+)", str(err))
    if wanted:
        return UnreadableError(
            path,
            f"it wants to run {wanted[1]}; it has not run",
            "only plain tensors are read. If you trust the file, save its state dict alone, where "
            f"its own code is: {alone}",
        )
    text = str(err).strip()
    if "Weights only load failed" in text:
        reason = "it holds other things than tensors"
    elif isinstance(err, (KeyError, IndexError, pickle.UnpicklingError)):
        reason = "it was not written by torch.save"  # torch's text is a number or a byte
    else:
        reason = text.splitlines()[0].split(". ")[0] if text else type(err).__name__
    return UnreadableError(path, reason, again)


def check_state_dict(
    state: Mapping[str, Tensor | tuple[int, ...]],
    expected: Mapping[str, Tensor | tuple[int, ...]],
    what: str,
    hint: str = "",
) -> None:
    """XmdptError unless ``state`` holds every tensor of ``expected`` in its shape, and no other.

    Values are tensors or shapes. The message is ``what`` and then, for what is missing, unexpected
    and of another shape, how many tensors and the first one's name.
    """
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    common = sorted(state.keys() & expected.keys())
    misshapen = [name for name in common if _shape(state[name]) != _shape(expected[name])]
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} tensors, first {missing[0]}")
    if unexpected:
        problems.append(f"has {len(unexpected)} unexpected tensors, first {unexpected[0]}")
    if misshapen:
        name = misshapen[0]
        problems.append(
            f"has {len(misshapen)} tensors of another shape, first {name}: {_shape(state[name])}, "
            f"expected {_shape(expected[name])}"
        )
    if problems:
        raise XmdptError(f"{what} {' and '.join(problems)}", hint)


def _shape(value: Tensor | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", value))
