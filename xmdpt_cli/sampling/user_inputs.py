"""What a user passes in: an image in any form, and the keypoints of the people in it.

``notes`` lists collect what was done to the inputs, one clause each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray, load_image, upright
from xmdpt_cli.pose.formats import frame_of_image
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.missing import without_missing
from xmdpt_cli.pose.keypoints import Keypoints, Size, from_fractions
from xmdpt_cli.pose.tracking import person_of

#: a file, an image, or its pixels uint8 (H, W, 3)
ImageLike: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
#: a keypoints file, a photograph or pose image, or keypoints (18, 2) as fractions of width and
#: height of the image to generate
PoseLike: TypeAlias = "ImageLike | NDArray[np.float64]"
#: a file, or (18, 2) as fractions of the image's width and height
KeypointsLike: TypeAlias = "str | Path | Keypoints"


class NoOpenPoseError(XmdptError):
    """OpenPose is needed for ``image`` and not found (``reason``), as for any other image.

    ``why``: what needs the keypoints. ``instead``: what a user can give in its place.
    """

    def __init__(self, image: str, reason: XmdptError, why: str, instead: str) -> None:
        super().__init__(
            f"{image}: the keypoints of the person are not known, and {why}; {reason.message}",
            f"give keypoints ({instead}), or {reason.hint}",
        )
        self.image, self.reason, self.instead = image, reason, instead


@dataclass(frozen=True)
class UserImage:
    """An image as the user has it, RGB and upright."""

    image: Image.Image
    name: str = "image"  # its file name
    stem: str = "image"
    path: Path | None = None  # None: it was not given as a file

    @classmethod
    def open(cls, source: Any) -> UserImage:
        """Open an ``ImageLike``. Raises XmdptError for a broken image, ConfigError for a type."""
        if isinstance(source, (str, Path)):
            path = Path(source)
            return cls(load_image(source), path.name, path.stem, path)
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
                raise ConfigError(f"pixels are {source.dtype} {source.shape}, not uint8 (H, W, 3)")
            if not source.size:
                raise XmdptError(f"an image of {source.shape[1]} x {source.shape[0]} pixels")
            return cls(Image.fromarray(source))
        if isinstance(source, Image.Image):
            try:
                return cls(upright(source))
            except (OSError, SyntaxError) as err:  # Pillow reads a file when its pixels are needed
                raise XmdptError(f"broken image ({err})") from None
        what = type(source).__name__
        raise ConfigError(f"an image is a path, a PIL image or an array, not {what}")

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.image.height, self.image.width

    @property
    def pixels(self) -> ImageArray:
        """uint8 (H, W, 3)."""
        return np.asarray(self.image, dtype=np.uint8)


def fractions(keypoints: Any, name: str) -> Keypoints:
    """A user's array -> (18, 2), missing joints NaN in both columns. ConfigError for a shape."""
    try:
        points = np.array(keypoints, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (18, 2):
        shape = getattr(keypoints, "shape", type(keypoints).__name__)
        raise ConfigError(
            f"{name}: keypoints are {shape}, not (18, 2)", "x and y of 18 joints, NaN if missing"
        )
    return without_missing(points)


def choose_person(
    people: Sequence[Keypoints], person: int | None, where: str, option: str, notes: list[str]
) -> Keypoints:
    """Person number ``person`` (1: the largest); None: the largest, with a note if there are
    several. ``option`` is the option that chooses."""
    if person is None and len(people) > 1:
        notes.append(crowd_note(where, len(people), option))
    return people[person_of(people, person, where, option)]


def crowd_note(where: str, count: int, option: str) -> str:
    return f"{short(where)}: {count} people, the largest is taken ({option} chooses)"


def given_keypoints(
    keypoints: KeypointsLike,
    image: UserImage,
    source: ImageLike,
    person: int | None,
    notes: list[str],
    min_score: float,
) -> Keypoints:
    """The keypoints (18, 2) that a user gives for ``source``, in pixels of its ``image``."""
    if not isinstance(keypoints, (str, Path)):
        return from_fractions(fractions(keypoints, image.name), image.size)
    file: str | Path | None = image.path or getattr(source, "filename", "") or None
    found = frame_of_image(keypoints, file, lambda _: image.size, min_score=min_score, notes=notes)
    return person_in(found, image, person, notes)


def person_in(
    frame: ImagePoses, image: UserImage, person: int | None, notes: list[str]
) -> Keypoints:
    """The keypoints (18, 2) of one person of a frame, in pixels of ``image``."""
    points = choose_person(frame.people, person, frame.where, "--person", notes)
    if frame.size is None:
        return from_fractions(points, image.size)
    if frame.size != image.size:
        notes.append(f"{short(frame.where)}: scaled from {frame.size[1]} x {frame.size[0]}")
    return points * (image.size[1] / frame.size[1], image.size[0] / frame.size[0])


def keypoints_beside(image: UserImage, notes: list[str], min_score: float) -> ImagePoses | None:
    """The keypoints in a file beside the image file, with a note; None if there are none."""
    found = None if image.path is None else KeypointsBeside(min_score=min_score).find(image.path)
    if found is None:
        return None
    notes += [f"{image.name}: keypoints of {found.file.name} beside it", *found.notes]
    return found.frame


def short(where: str) -> str:
    """The place of a frame without the folders of its file: notes are stored with the generated
    images, which contain no paths of this machine."""
    return re.sub(r"^.*[/\\](?=[^/\\]*\.(?:json|csv|txt)\b)", "", where)


def estimate(
    openpose: OpenPose, image: UserImage, person: int | None, option: str, notes: list[str]
) -> Keypoints:
    """The keypoints (18, 2) of one person that OpenPose finds, in pixels of the image."""
    people = openpose.people(image.pixels)
    if not people:
        raise XmdptError(
            f"{image.name}: OpenPose finds no person",
            "give a photograph in which a person is seen upright, or keypoints",
        )
    return choose_person(people, person, image.name, option, notes)
