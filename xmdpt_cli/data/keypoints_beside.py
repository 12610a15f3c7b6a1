"""Keypoints files that lie beside images, in any format that ``keypoint_formats`` reads.

One file an image, called as the image (``front.json``, or ``front_keypoints.json`` as OpenPose
calls it), or one file for all images of a folder (``keypoints.json``, ``annotations.csv``, ...),
in which images are found by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from xmdpt_cli.data.image_size import OPENPOSE_ENDING, SizeOf, size_of_image
from xmdpt_cli.data.keypoint_formats import SUFFIXES, FrameNames, frame_of_picture, read_frames
from xmdpt_cli.data.keypoint_json import Frame, sized
from xmdpt_cli.data.lists import is_padded, read_own_annotations, to_fractions
from xmdpt_cli.data.person_box import extent
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.data.sources.scan import is_picture_name
from xmdpt_cli.errors import XmdptError

T = TypeVar("T")
#: what a file with the keypoints of all images of a folder is called, .json or .csv
SHARED = ("keypoints", "annotations", "coco")
SHARED_PREFIX = "person_keypoints_"  # COCO's own: person_keypoints_val2017.json
WANTED = (
    "one file an image (front.json or front_keypoints.json beside front.jpg), or one for all in "
    "their folder (keypoints.json: COCO's form; annotations.csv)"
)


@dataclass(frozen=True)
class Found:
    """The keypoints of one image, and the file they are of."""

    file: Path
    frame: Frame


class KeypointsBeside:
    """Looks for the keypoints of images; what was read of a folder is kept.

    ``skip``: files that are somebody else's to read; ``say(file, reason)`` hears of lines and files
    that cannot be used, which are otherwise an XmdptError (a bad line of a list: nothing).
    """

    def __init__(
        self, skip: Sequence[Path] = (), say: Callable[[Path, str], None] | None = None
    ) -> None:
        self._skip, self._say = set(skip), say
        self._names: dict[Path, list[str]] = {}
        self._shared: dict[Path, list[_Shared]] = {}

    def find(self, image: Path, root: Path | None = None) -> Found | None:
        """The keypoints of an image file, None if there are none.

        Looked for beside the image, then in lists of its folder and, with ``root``, of the folders
        above it up to that. Raises XmdptError naming a file that is there and cannot be used.
        """

        def size_of(_: str) -> tuple[int, int]:
            return size_of_image(image)

        file = self.own_file(image)
        if file is not None:
            return Found(file, _named(file, lambda: frame_of_picture(file, image, size_of)))
        for folder in _upwards(image.parent, root):
            for shared in self._lists(folder):
                place = shared.names.find(image)
                if place is not None:
                    return Found(shared.file, _one_of(shared, place, size_of))
        return None

    def own_file(self, image: Path) -> Path | None:
        """The keypoints file called as the image; OpenPose's own ending before the bare name."""
        names = set(self._listed(image.parent))
        for ending in (OPENPOSE_ENDING, ""):
            for suffix in SUFFIXES:
                name = f"{image.stem}{ending}{suffix}"
                path = image.parent / name
                # a bare .txt is a caption more often than a pose
                if name in names and (suffix != ".txt" or ending or _begins_with_numbers(path)):
                    return path
        return None

    def _listed(self, folder: Path) -> list[str]:
        if folder not in self._names:
            try:
                self._names[folder] = sorted(path.name for path in folder.iterdir())
            except OSError:
                self._names[folder] = []
        return self._names[folder]

    def _lists(self, folder: Path) -> list[_Shared]:
        if folder not in self._shared:
            there = self._shared[folder] = []  # also where an error ends the first look
            images = {Path(n).stem for n in self._listed(folder) if is_picture_name(n)}
            for name in self._listed(folder):
                path = folder / name
                if _is_list(path, images) and path not in self._skip:
                    found = self._read(path)
                    if found is not None:
                        there.append(found)
        return self._shared[folder]

    def _read(self, path: Path) -> _Shared | None:
        try:
            if path.suffix.lower() == ".csv":
                return self._read_csv(path)
            frames = _named(path, lambda: read_frames(path))
        except XmdptError as err:
            if self._say is None:
                raise
            self._say(path, err.message)
            return None
        return _Shared(path, frames, FrameNames([frame.name for frame in frames]))

    def _read_csv(self, path: Path) -> _Shared:
        rows, problems = read_own_annotations(path)
        for problem in problems:
            if self._say is not None:
                self._say(path.with_name(problem.file), problem.reason)
        padded = is_padded(rows)
        frames = [
            Frame([to_fractions(points, padded)], None, f"{path}, {name}", name)
            for name, points in rows.items()
        ]
        return _Shared(path, frames, FrameNames(list(rows)))


@dataclass(frozen=True)
class _Shared:
    """A file with the keypoints of several images."""

    file: Path
    frames: list[Frame]
    names: FrameNames


def largest_fractions(frame: Frame) -> Keypoints:
    """Of the people of a frame the largest, (18, 2) as fractions of its image's sides."""
    points = max(frame.people, key=extent)
    return points if frame.size is None else points / np.array(frame.size[::-1], dtype=np.float64)


def _upwards(folder: Path, root: Path | None) -> Iterator[Path]:
    yield folder
    while root is not None and folder != root and folder != folder.parent:
        folder = folder.parent
        yield folder


def _is_list(path: Path, images: set[str]) -> bool:
    """Whether a file is called as a list; ``images``: stems of the images beside it."""
    stem = path.stem.lower()
    if path.suffix.lower() not in (".json", ".csv") or path.stem in images:
        return False
    return stem in SHARED or stem.startswith(SHARED_PREFIX)


def _begins_with_numbers(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
        return len([float(field) for field in first.replace(",", " ").split()]) == 2
    except (OSError, ValueError):
        return False


def _one_of(shared: _Shared, place: int, size_of: SizeOf) -> Frame:
    return _named(shared.file, lambda: _usable(shared.frames[place], size_of))


def _usable(frame: Frame, size_of: SizeOf) -> Frame:
    if not any(np.isfinite(points).any() for points in frame.people):
        raise XmdptError(f"{frame.where}: no joint of a person in it")
    return sized(frame, size_of)


def _named(file: Path, read: Callable[[], T]) -> T:
    """``read()``; its errors say what to do about a file that nobody asked for."""
    try:
        return read()
    except XmdptError as err:
        raise XmdptError(
            err.message,
            f"{file.name} is read because of its name: correct or rename it, or give "
            f"--source-keypoints FILE, which is used instead; {err.hint}".removesuffix("; "),
        ) from None
