"""Reading files that torch.save wrote (.pt, .pth): nothing in them runs, and damage is found."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from xmdpt_cli.errors import XmdptError

STATE_ALONE = "torch.save(net.state_dict(), FILE)"


class UnreadableError(XmdptError):
    """The file is damaged, or no file of tensors; ``reason`` says it without the path."""

    def __init__(self, path: Path, reason: str, hint: str) -> None:
        super().__init__(f"cannot read {path}: {reason}", hint)
        self.reason = reason


def read_tensors(path: Path, again: str, alone: str = STATE_ALONE) -> Any:
    """What torch.save wrote, on the CPU. Raises UnreadableError.

    ``again``: how to get it anew; ``alone``: the call that saves a state dict alone.

    The checksums of the zip archive are compared first, which torch does not do: a byte that
    changed on the way would become another weight.
    """
    import torch

    check_archive(path, again)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises a dozen types for what is no file of its own
        raise unreadable(path, err, again, alone) from None


def check_archive(path: Path, again: str) -> None:
    """UnreadableError if a member of the zip archive is damaged. Other files are not looked at:
    the format before torch 1.6 has no checksums."""
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
    """An error of torch.load in our words: torch advises to open the file so that its code runs."""
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
    else:
        reason = text.splitlines()[0].split(". ")[0] if text else type(err).__name__
    return UnreadableError(path, reason, again)
