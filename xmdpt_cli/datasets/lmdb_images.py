"""Images in an LMDB environment, as PIDM's preparation writes it (``256-256/data.mdb``).

The keys are not documented, so they are scanned once and each is parsed as a DeepFashion name
with any prefix. Values are encoded images.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from xmdpt_cli.datasets.listing import cut_padding
from xmdpt_cli.datasets.lmdb_scan import scan
from xmdpt_cli.datasets.scan import printable
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import decode_image
from xmdpt_cli.utils.deepfashion_names import match_key

# An environment may be opened once in a process, and not be used across a fork.
_environments: dict[str, Any] = {}
_lock = threading.Lock()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _environments.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, order=True)
class LmdbImage:
    """One value of an environment; cheap to pickle: each process opens the environment."""

    name: str  # 256-256/img/WOMEN/Dresses/id_00000002/02_1_front.jpg
    folder: str  # of the environment, on this machine
    key: bytes
    size: int  # bytes of the value
    padded: bool = False

    @property
    def identity(self) -> str:
        return f"{self.name} (padded)" if self.padded else self.name

    @property
    def where(self) -> str:
        return f"{self.folder}, key {printable(os.fsdecode(self.key))}"

    def load(self) -> Image.Image:
        image = decode_image(self.stored_bytes(), self.where)
        return cut_padding(image, self.where) if self.padded else image

    def stored_size(self) -> int:
        return self.size

    def stored_bytes(self) -> bytes:
        lmdb = _library()
        try:
            with _environment(self.folder).begin() as transaction:
                value = transaction.get(self.key)
        except lmdb.Error as err:
            raise XmdptError(f"cannot read {self.where}: {err}") from None
        if value is None:
            raise XmdptError(f"no such image: {self.where}")
        return bytes(value)


def lmdb_folders(names: list[str]) -> dict[str, tuple[int, int]]:
    """Folder names of the form of PIDM's environments -> the (height, width) in the names."""
    found = {name: re.fullmatch(r"(\d{2,4})-(\d{2,4})", name) for name in names}
    return {name: (int(m[1]), int(m[2])) for name, m in found.items() if m is not None}


def choose_environment(environments: dict[str, tuple[int, int]], sizes: tuple[int, ...]) -> str:
    """The environment of the largest size that is wanted, else the largest one."""
    wanted = max(sizes)
    exact = {name: shape for name, shape in environments.items() if shape[0] == wanted}
    # the widest of one height
    return max(exact or environments, key=lambda name: (*environments[name], name))


def read_environment(
    root: Path, name: str, wanted: int
) -> tuple[dict[str, list[LmdbImage]], list[str]]:
    """{item/view: its images, the best first} and the keys that are no DeepFashion name.

    ``name`` is the environment's folder below ``root``. Among several keys of one image, the one
    with the prefix ``wanted`` (``256-...``) is best, then the largest such number, then the
    first in order. Raises XmdptError without the lmdb library, or if it is no such environment.
    """
    folder = str(root / name)
    found: dict[str, list[tuple[tuple[bool, int], LmdbImage]]] = {}
    others: list[str] = []
    _library()
    for key, size in scan(folder):
        text = printable(os.fsdecode(key))
        parts = match_key(text)
        if parts is None:
            others.append(text)
            continue
        image = LmdbImage(f"{name}/{text}", folder, key, size)
        found.setdefault(parts.key, []).append((_prefix_rank(text, wanted), image))
    if not found:
        some = f", such as {others[0]!r}" if others else ""
        raise XmdptError(
            f"no key of the LMDB environment {folder} is a DeepFashion name{some}",
            "expected keys like 256-img/WOMEN/Dresses/id_00000002/02_1_front.jpg",
        )
    best_first = {
        view: [image for _, image in sorted(ranked, key=lambda r: (r[0], r[1].key))]
        for view, ranked in found.items()
    }
    return best_first, others


def _prefix_rank(text: str, wanted: int) -> tuple[bool, int]:
    prefix = re.match(r"\d+", text)
    number = int(prefix[0]) if prefix else 0
    return number != wanted, -number


def _library() -> Any:
    try:
        return importlib.import_module("lmdb")
    except ImportError:
        raise XmdptError(
            "images in LMDB (data.mdb) need the lmdb library", "pip install 'xmdpt-cli[lmdb]'"
        ) from None


def _environment(folder: str) -> Any:
    """The environment, opened at its first use in this process."""
    folder = os.path.realpath(folder)  # it must not be opened again by another path
    with _lock:
        if folder not in _environments:
            _environments[folder] = _open(folder)
        return _environments[folder]


def _open(folder: str) -> Any:
    lmdb = _library()
    try:
        # no lock file: the folder may be read-only, and no process writes while we read
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
    except (OSError, lmdb.Error) as err:
        raise XmdptError(f"not an LMDB environment: {folder} ({err})") from None
