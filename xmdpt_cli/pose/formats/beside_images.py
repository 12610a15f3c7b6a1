"""Keypoints files beside images, in any format of ``pose.formats``.

One file for each image, with the image's name (``front.json``, or ``front_keypoints.json`` as
OpenPose writes it), or one file for all images of a folder (``keypoints.json``,
``annotations.csv``, ...), in which images are found by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import SUFFIXES, KeypointsFile, frame_of_image, open_file
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import OPENPOSE_ENDING, SizeOf, size_of_image
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.frames import CoordinateFrame
from xmdpt_cli.pose.keypoints import Keypoints, extent
from xmdpt_cli.utils.deepfashion_names import SUFFIXES as IMAGES

T = TypeVar("T")
#: names of a file with the keypoints of all images of a folder, .json or .csv
SHARED = ("keypoints", "annotations", "coco")
WANTED = (
    "one file an image (front.json or front_keypoints.json beside front.jpg), or one for all in "
    "their folder (keypoints.json: COCO's form; annotations.csv)"
)


@dataclass(frozen=True)
class Found:
    """The keypoints of one image."""

    file: Path
    frame: ImagePoses
    notes: tuple[str, ...] = ()  # how the file was read


class KeypointsBeside:
    """Finds the keypoints of images. The lists of a folder are read once.

    ``skip``: files that are read elsewhere. ``report(file, reason)`` is called for unusable files
    and lines; without it an unusable file is an XmdptError, an unusable line is ignored.
    ``min_score``: joints with a lower score are missing. ``frames``: the coordinate frame of .csv
    and .txt files, by suffix; else it is decided for each file.
    """

    def __init__(
        self,
        skip: Sequence[Path] = (),
        report: Callable[[Path, str], None] | None = None,
        min_score: float = MIN_SCORE,
        frames: dict[str, CoordinateFrame] | None = None,
    ) -> None:
        self.frames = frames or {}
        self._skip, self._report, self._min_score = set(skip), report, min_score
        self._lists: dict[Path, list[KeypointsFile]] = {}

    def find(self, image: Path, root: Path | None = None) -> Found | None:
        """The keypoints of an image file, None if there are none.

        Searches beside the image, then in the lists of its folder and, with ``root``, of the
        folders above it up to that. Raises XmdptError naming a file that cannot be used.
        """

        def size_of(_: str) -> tuple[int, int]:
            return size_of_image(image)

        file = self.own_file(image)
        if file is not None:
            notes: list[str] = []
            read = partial(
                frame_of_image,
                file,
                image,
                size_of,
                min_score=self._min_score,
                notes=notes,
                forced=self.frames.get(file.suffix.lower()),
            )
            return Found(file, _named(file, read), tuple(notes))
        for folder in _upwards(image.parent, root):
            for shared in self._lists_in(folder):
                place = shared.names.find(image)
                if place is not None:
                    forced = self.frames.get(shared.path.suffix.lower())
                    read = partial(_used, shared, shared.frames[place], size_of, forced)
                    frame = _named(shared.path, read)
                    return Found(shared.path, frame, tuple(shared.notes))
        return None

    def own_file(self, image: Path) -> Path | None:
        """The keypoints file with the image's name; first with OpenPose's ending."""
        for ending in (OPENPOSE_ENDING, ""):
            for suffix in SUFFIXES:
                path = image.with_name(f"{image.stem}{ending}{suffix}")
                # a bare .txt is a caption more often than a pose
                if path.is_file() and (suffix != ".txt" or ending or _begins_with_numbers(path)):
                    return path
        return None

    def _lists_in(self, folder: Path) -> list[KeypointsFile]:
        if folder not in self._lists:
            lists = self._lists[folder] = []  # stored first: an error is raised only once
            for path in (folder / f"{stem}{end}" for stem in SHARED for end in (".json", ".csv")):
                if path not in self._skip and path.is_file() and not _is_an_images(path):
                    lists += self._read(path)
        return self._lists[folder]

    def _read(self, path: Path) -> list[KeypointsFile]:
        try:
            file = _named(path, lambda: open_file(path, self._min_score))
        except XmdptError as err:
            if self._report is None:
                raise
            self._report(path, err.message)
            return []
        for problem in file.problems:
            if self._report is not None:
                self._report(path.with_name(problem.file), problem.reason)
        return [file]


def largest_fractions(frame: ImagePoses) -> Keypoints:
    """The largest person of a frame, (18, 2) as fractions of the image's sides."""
    points = max(frame.people, key=extent)
    return points if frame.size is None else points / np.array(frame.size[::-1], dtype=np.float64)


def _upwards(folder: Path, root: Path | None) -> Iterator[Path]:
    yield folder
    while root is not None and folder != root and folder != folder.parent:
        folder = folder.parent
        yield folder


def _is_an_images(path: Path) -> bool:
    """Whether a file has the name of an image beside it: then it belongs to that image only."""
    ends = [end for suffix in IMAGES for end in (suffix, suffix.upper())]
    return any(path.with_suffix(f".{end}").is_file() for end in ends)


def _begins_with_numbers(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
        return len([float(field) for field in first.replace(",", " ").split()]) == 2
    except (OSError, ValueError):
        return False


def _used(
    file: KeypointsFile, frame: ImagePoses, size_of: SizeOf, forced: CoordinateFrame | None
) -> ImagePoses:
    return file.sized([frame.check_seen()], size_of, forced)[0]


def _named(file: Path, read: Callable[[], T]) -> T:
    """``read()``; the hints of its errors explain that the file is read because of its name."""
    try:
        return read()
    except XmdptError as err:
        raise XmdptError(
            err.message,
            f"{file.name} is read because of its name: correct or rename it, or give "
            f"--source-keypoints FILE, which is used instead; {err.hint}".removesuffix("; "),
        ) from None
