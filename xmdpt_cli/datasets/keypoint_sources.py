"""Sources of a raw dataset's keypoints: annotation files, and folders of pose files.

A dataset has a list of sources; the keypoints of an image come from the first that has some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.missing import Pair, scaled_note
from xmdpt_cli.pose.formats.text_rows import Annotations, read_pose_txt
from xmdpt_cli.pose.frame_decision import Decision, decide, some_of
from xmdpt_cli.pose.frame_fit import mostly_outside
from xmdpt_cli.pose.frames import CoordinateFrame, Placement, Sizes
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints

OUTSIDE = "most joints lie outside of the image"
#: (height, width) of an image by its name below the root; None if it is not known
SizeOf = Callable[[str], "Size | None"]


class UnusableKeypointsError(ValueError):
    """The keypoints of one image cannot be used; ``where``: the file, or the line of a file."""

    def __init__(self, where: str, kind: str, reason: object) -> None:
        super().__init__(str(reason))
        self.where, self.kind = where, kind


class KeypointSource(Protocol):
    """Keypoints of the images of a dataset."""

    def find(self, image: str) -> Keypoints | None:
        """The keypoints of the image of this name below the root; None if there are none.

        (18, 2) as fractions of width and height, NaN missing. Raises UnusableKeypointsError for
        keypoints that cannot be used.
        """
        ...


@dataclass(frozen=True)
class AnnotationRows:
    """The rows of an annotation file, found by ``key_of(image)``, in a known frame."""

    file: Annotations
    frame: CoordinateFrame
    key_of: Callable[[str], str] = str
    size_of: SizeOf = lambda image: None  # only frames in pixels of the images need it

    def find(self, image: str) -> Keypoints | None:
        key = self.key_of(image)
        raw = self.file.points.get(key)
        if raw is None:
            return None
        try:
            return in_frame(raw, self.frame, self.size_of, image)
        except ValueError as err:
            raise UnusableKeypointsError(self.file.where(key), "annotation row", err) from None


@dataclass(frozen=True)
class PoseFiles:
    """PIDM's pose files, one for each image, in a known frame.

    ``file_of(image)``: the place below ``root`` of an image's file; None if it cannot have one.
    """

    root: Path
    frame: CoordinateFrame
    file_of: Callable[[str], str | None]
    size_of: SizeOf = lambda image: None

    def find(self, image: str) -> Keypoints | None:
        file = self.file_of(image)
        if file is None:
            return None
        try:
            raw = read_pose_txt(self.root / file).points
            return in_frame(raw, self.frame, self.size_of, image)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise UnusableKeypointsError(file, "pose file", err) from None


def find_keypoints(sources: Iterable[KeypointSource], image: str) -> Keypoints | None:
    """The keypoints of the first source that has some; see ``KeypointSource.find``."""
    found = (source.find(image) for source in sources)
    return next((points for points in found if points is not None), None)


def in_frame(raw: Keypoints, frame: CoordinateFrame, size_of: SizeOf, image: str) -> Keypoints:
    """Raw (18, 2) points of an image as fractions; ValueError if most are outside of it."""
    sides = None
    if frame.of_images:
        height_width = size_of(image)
        if height_width is None:
            raise ValueError("the size of its image is not known")
        sides = np.array(height_width[::-1], dtype=np.float64)
    points = frame.fractions(raw, sides)
    if mostly_outside(points):
        raise ValueError(OUTSIDE)
    return points


def sizes_of(images: Iterable[str], size_of: SizeOf) -> Sizes | None:
    """(N, 2) width and height, NaN unknown; None if none is known."""
    sizes = [size_of(image) for image in images]
    if not any(sizes):
        return None
    unknown = (np.nan, np.nan)
    return np.array([unknown if size is None else size[::-1] for size in sizes], dtype=np.float64)


def decide_rows(
    file: Annotations,
    size_of: SizeOf,
    placement: Callable[[Sizes | None], Placement],
    forced: CoordinateFrame | None = None,
    like: CoordinateFrame | None = None,
) -> Decision:
    """The frame of an annotation file, by some of its rows; ``size_of`` takes a row's key.

    ``placement``: the placement of people in images of these sizes. ``forced``, ``like``: see
    ``decide``. Raises XmdptError if the frame cannot be decided.
    """
    names = list(file.points)
    some = [names[i] for i in some_of(len(names))]
    raw = np.reshape([file.points[name] for name in some], (len(some), len(JOINTS), 2))
    keys = [f"{file.where(name)}, {name}" for name in some]
    sizes = sizes_of(some, size_of)
    return decide(file.path.name, keys, raw, sizes, placement(sizes), forced, like)


def decide_pose_files(
    root: Path,
    folder: str,
    files: Mapping[str, Sequence[str]],
    size_of: SizeOf,
    placement: Placement,
    forced: CoordinateFrame | None,
) -> tuple[Decision | None, list[str]]:
    """The frame of a folder of pose files, by those of some images, and notes on how it was read.

    ``files``: by image, the possible places of its file below ``root``. The decision is None if
    there is no such file. Raises XmdptError if the frame cannot be decided.
    """
    found: dict[str, Keypoints] = {}
    names: list[str] = []
    scaled: list[Pair] = []
    images = list(files)
    for image in (images[i] for i in some_of(len(images))):
        for file in files[image]:
            try:
                found[image], pairs = read_pose_txt(root / file)
            except (OSError, ValueError):  # reported when it is needed
                continue
            scaled += pairs
            names.append(file)
            break
    notes = scaled_note(f"{folder}/", scaled)
    if not found:
        return None, notes
    raw, sizes = np.stack(list(found.values())), sizes_of(found, size_of)
    return decide(f"{folder}/", names, raw, sizes, placement, forced), notes
