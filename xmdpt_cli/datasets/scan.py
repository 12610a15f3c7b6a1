"""Read folders, each real one once, so that links in circles end; name what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.files import is_hidden
from xmdpt_cli.utils.image_types import is_image_name, why_not_read
from xmdpt_cli.utils.problems import Problem

_ABOVE = ".."


def is_readable_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return is_image_name(name) and why_not_read(name) is None


def printable(name: str) -> str:
    """``name`` fit for messages and JSON: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def images_not_read(folder: Folder) -> list[Problem]:
    """Images of unsupported types; ``kept`` beside a readable image of the same name."""
    read = {name.rsplit(".", 1)[0] for name in folder.files if is_readable_image(name)}
    found = [(name, why_not_read(name)) for name in folder.files]
    return [
        Problem(folder.below(name), why, kept=name.rsplit(".", 1)[0] in read)
        for name, why in found
        if why is not None
    ]


@dataclass(frozen=True)
class Folder:
    """What lies directly in one folder, sorted by name; links are what they point to."""

    name: str  # below the root, with forward slashes; "" is the root
    files: list[str]
    folders: list[str]
    broken: list[str]  # links to nothing or in circles

    def below(self, name: str) -> str:
        """The name below the root of something in this folder."""
        return f"{self.name}/{name}" if self.name else name


@dataclass
class Scan:
    """One reading of the folders below ``root``; ``problems`` lists what could not be read."""

    root: Path
    problems: list[Problem] = field(default_factory=list)
    _seen: dict[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for above in Path(os.path.realpath(self.root)).parents:
            self._seen[_identity(str(above))] = _ABOVE

    def read(self, name: str) -> Folder | None:
        """One folder, None if it cannot be read or was read already under another name."""
        path = os.path.join(self.root, name)
        try:
            before = self._seen.setdefault(_identity(path), name)
            if before != name:
                target = {"": "the root", _ABOVE: "a folder above the root"}.get(before, before)
                what = f"a link to a folder that is read already, not followed: {target}"
                self.problems.append(Problem(printable(name), what, kept=True))
                return None
            return self._sort(name, path)
        except OSError as err:
            self.problems.append(Problem(printable(name), f"cannot read this folder: {err}"))
            return None

    def _sort(self, name: str, path: str) -> Folder:
        found = Folder(name, [], [], [])
        with os.scandir(path) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                try:  # d_type is known for all but links: no stat for each name
                    folder = entry.is_dir()
                    kind = found.files if entry.is_file() else found.broken
                    kind = found.folders if folder else kind
                except OSError:  # a link in a circle
                    kind = found.broken
                if printable(entry.name) != entry.name:
                    file = printable(found.below(entry.name))
                    self.problems.append(Problem(file, "its name is not UTF-8"))
                    continue
                kind.append(entry.name)
        for names in (found.files, found.folders, found.broken):
            names.sort()
        return found

    def walk(self, name: str, depth: int | None = None) -> Iterator[Folder]:
        """``name`` and every folder below it (``depth`` levels of them), in order of names."""
        waiting = [(name, 0)]
        while waiting:
            here, level = waiting.pop()
            folder = self.read(here)
            if folder is None:
                continue
            yield folder
            if depth is None or level < depth:
                waiting += [(folder.below(name), level + 1) for name in reversed(folder.folders)]


def _identity(path: str) -> tuple[int, int]:
    here = os.stat(path)
    return here.st_dev, here.st_ino
