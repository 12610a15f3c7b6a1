"""What a user gives, as it is: an image in any form, and the keypoints of the people in it.

``inputs`` brings it to what a model takes. ``notes`` collects what was done, a clause each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray, check_pixels, load_image, upright
from xmdpt_cli.pose.formats import frame_of_image
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.missing import MIN_SCORE, without_missing
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions
from xmdpt_cli.pose.tracking import person_of

#: a file, an image, or its pixels uint8 (H, W, 3)
ImageLike: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
#: a keypoints file, a photograph or drawing of a pose, or keypoints (18, 2) as fractions of width
#: and height of the image to draw
PoseLike: TypeAlias = "ImageLike | NDArray[np.float64]"
Finder = Callable[[], OpenPose]  # raises XmdptError where OpenPose is not there


class NoOpenPoseError(XmdptError):
    """OpenPose is needed and not here: so it will be for every other image, too.

    ``image``: for which; ``instead``: what a user can give in its place; ``reason``: why it is not
    here."""

    def __init__(self, image: str, reason: XmdptError, instead: str) -> None:
        super().__init__(
            f"{image}: where the person stands is not known; {reason.message}",
            f"give keypoints ({instead}), or: {reason.hint}",
        )
        self.image, self.reason, self.instead = image, reason, instead


def fractions(keypoints: Any, name: str) -> Keypoints:
    """An array of the user's -> (18, 2) with whole rows of NaN for missing joints."""
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


def crowd(where: str, people: list[Keypoints], option: str) -> str:
    return f"{where}: {len(people)} people, the largest is taken ({option} chooses)"


def one_of(people: list[Keypoints], person: int | None, where: str, option: str) -> Keypoints:
    """The largest of some people, or the one asked for; ``option`` is what asks."""
    return people[person_of(people, person, where, option)]


def opened(source: Any) -> tuple[Image.Image, str, str]:
    """An image, what it is called, and its name without a suffix."""
    if isinstance(source, (str, Path)):
        return load_image(source), Path(source).name, Path(source).stem
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ConfigError(f"pixels are {source.dtype} {source.shape}, not uint8 (H, W, 3)")
        if not source.size:
            raise XmdptError(f"an image of {source.shape[1]} x {source.shape[0]} pixels")
        return Image.fromarray(source), "image", "image"
    if isinstance(source, Image.Image):
        check_pixels(source, "image")
        try:
            return upright(source), "image", "image"
        except (OSError, SyntaxError) as err:  # Pillow reads a file when its pixels are needed
            raise XmdptError(f"broken image ({err})") from None
    raise ConfigError(f"an image is a path, a PIL image or an array, not {type(source).__name__}")


def given_keypoints(
    keypoints: str | Path | Keypoints,
    image: Image.Image,
    source: ImageLike,
    name: str,
    person: int | None,
    notes: list[str],
    min_score: float = MIN_SCORE,
) -> Keypoints:
    """Keypoints of an image in its pixels."""
    shape = (image.height, image.width)
    if not isinstance(keypoints, (str, Path)):
        return from_fractions(fractions(keypoints, name), shape)
    file = source if isinstance(source, (str, Path)) else getattr(source, "filename", "") or None
    found = frame_of_image(keypoints, file, lambda _: shape, min_score=min_score, notes=notes)
    return points_of(found, image, person, notes)


def points_of(
    frame_: ImagePoses, image: Image.Image, person: int | None, notes: list[str]
) -> Keypoints:
    """Of one of a frame's people, in pixels of their image."""
    shape = (image.height, image.width)
    points = one_of(frame_.people, person, frame_.where, "--person")
    if person is None and len(frame_.people) > 1:
        notes.append(crowd(short(frame_.where), frame_.people, "--person"))
    if frame_.size is None:
        return from_fractions(points, shape)
    if frame_.size != shape:
        notes.append(f"{short(frame_.where)}: scaled from {frame_.size[1]} x {frame_.size[0]}")
    return points * (shape[1] / frame_.size[1], shape[0] / frame_.size[0])


def beside_frame(
    image: Any, name: str, notes: list[str], min_score: float = MIN_SCORE
) -> ImagePoses | None:
    """The keypoints beside an image file, None if there are none; that is noted."""
    if not isinstance(image, (str, Path)):
        return None
    found = KeypointsBeside(min_score=min_score).find(Path(image))
    if found is None:
        return None
    notes.append(f"{name}: keypoints of {found.file.name} beside it")
    notes += found.notes
    return found.frame


def short(where: str) -> str:
    """Of where a frame was found the file's name without its folders: notes are kept with what is
    generated, and say nothing of the machine."""
    return re.sub(r"^.*[/\\](?=[^/\\]*\.(?:json|csv|txt)\b)", "", where)


def find_person(
    openpose: OpenPose,
    image: ImageArray,
    name: str,
    person: int | None,
    option: str,
    notes: list[str],
) -> Keypoints:
    """The joints of one of the people OpenPose finds, in the image's pixels."""
    people = openpose.people(image)
    if not people:
        raise XmdptError(
            f"{name}: OpenPose finds no person",
            "give a photograph in which a person is seen upright, or keypoints",
        )
    if len(people) > 1 and person is None:
        notes.append(crowd(name, people, option))
    return one_of(people, person, name, option)
