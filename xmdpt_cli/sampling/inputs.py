"""What a user gives, brought to what a model takes: pictures of a person, and poses.

Sizes are pixels; keypoints (18, 2) are x and y in pixels of a square of the model's resolution,
NaN where a joint is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.data.framing import Fit, frame, frame_poses
from xmdpt_cli.data.given_pose import check_joints, pose_picture_keypoints
from xmdpt_cli.data.keypoint_formats import SUFFIXES, read_poses
from xmdpt_cli.data.pose import Keypoints, from_fractions
from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import Picture, load_image, upright

#: a file, a picture, or its pixels uint8 (H, W, 3)
PictureLike: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
#: a keypoints file, a photograph or drawing of a pose, or keypoints (18, 2) as fractions of width
#: and height of the picture to draw
PoseLike: TypeAlias = "PictureLike | NDArray[np.float64]"
Finder = Callable[[], OpenPose]  # raises XmdptError where OpenPose is not there


@dataclass(frozen=True)
class View:
    """One picture of the person."""

    name: str
    picture: Picture  # (S, S, 3)
    keypoints: Keypoints | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pose:
    name: str
    keypoints: Keypoints
    notes: tuple[str, ...] = ()


def read_view(
    source: PictureLike,
    size: int,
    openpose: Finder,
    *,
    keypoints: str | Path | Keypoints | None = None,
    fit: Fit = "auto",
    person: int | None = None,
    needs_keypoints: bool = False,
) -> View:
    """A picture of a person, framed (``data/framing.py``) to (size, size, 3).

    ``keypoints``: a file, or (18, 2) as fractions of the picture's sides; else OpenPose looks, if
    it is there. ``person``: which one of several, 1 the largest. ``needs_keypoints``: the model
    reads them; without, they only serve to frame. XmdptError where that cannot be.
    """
    image, name = _opened(source)
    notes: list[str] = []
    points = None
    if keypoints is not None:
        points = _given(keypoints, image, person, notes)
    elif fit == "squash" and not needs_keypoints and person is None:
        pass  # nothing asks where the person is
    else:
        try:
            finder: OpenPose | None = openpose()
        except XmdptError as err:
            if needs_keypoints or fit == "person" or person is not None:
                raise _without_openpose(name, err) from err
            finder = None
        if finder is not None:
            points = _find(finder, np.asarray(image), name, person, notes)
    framed = frame(image, points, size, fit)
    return View(name, framed.picture, framed.keypoints, (f"{name}: {framed.note}", *notes))


def read_pose(
    pose: PoseLike, size: int, openpose: Finder, *, fit: Fit = "auto", person: int | None = None
) -> list[Pose]:
    """The pose or poses of one thing given; a file of keypoints may hold a sequence."""
    if isinstance(pose, np.ndarray) and pose.dtype != np.uint8:
        points = np.asarray(pose, dtype=np.float64)
        if points.shape != (18, 2):
            raise ConfigError(f"keypoints are {points.shape}, not (18, 2)")
        return [_checked("pose", from_fractions(points, size), [])]
    if isinstance(pose, (str, Path)) and Path(pose).suffix.lower() in SUFFIXES:
        return _sequence(Path(pose), size, fit, person)
    image, name = _opened(pose)
    notes: list[str] = []
    found = pose_picture_keypoints(np.asarray(image))
    if found is None:
        try:
            finder = openpose()
        except XmdptError as err:
            raise _without_openpose(name, err) from err
        found = _find(finder, np.asarray(image), name, person, notes)
    else:
        notes.append(f"{name}: a drawn pose")
    moved, note = frame_poses([found], (image.height, image.width), size, fit)
    return [_checked(name, moved[0], [f"{name}: {note}", *notes])]


def _sequence(path: Path, size: int, fit: Fit, person: int | None) -> list[Pose]:
    frames = read_poses(path)
    poses = []
    for frame_ in frames:
        if person is not None and person > len(frame_.people):
            raise _no_such_person(frame_.where, person, len(frame_.people))
        poses.append(frame_.people[(person or 1) - 1])
    # frames of one size share a box, so that a walking figure walks
    moved: list[Keypoints] = [np.empty(0)] * len(poses)
    notes: list[str] = []
    for shape in dict.fromkeys(frame_.size for frame_ in frames):
        which = [i for i, frame_ in enumerate(frames) if frame_.size == shape]
        found, note = frame_poses([poses[i] for i in which], shape, size, fit)
        notes.append(f"{path.name}: {note}")
        for i, points in zip(which, found, strict=True):
            moved[i] = points
    crowded = next((f for f in frames if len(f.people) > 1), None)
    if crowded is not None and person is None:
        notes.append(f"{crowded.where}: {len(crowded.people)} people, the first one is taken")
    name = path.stem
    out = []
    for i, points in enumerate(moved):
        own = name if len(moved) == 1 else f"{name}_{i:04d}"
        out.append(_checked(own, points, notes if i == 0 else []))
    return out


def _checked(name: str, points: Keypoints, notes: Sequence[str]) -> Pose:
    try:
        warning = check_joints(points)
    except XmdptError as err:
        raise XmdptError(f"{name}: {err.message}", err.hint) from None
    more = () if warning is None else (f"{name}: {warning}",)
    return Pose(name, points, (*notes, *more))


def _opened(source: Any) -> tuple[Image.Image, str]:
    if isinstance(source, (str, Path)):
        return load_image(source), Path(source).stem
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ConfigError(f"pixels are {source.dtype} {source.shape}, not uint8 (H, W, 3)")
        return Image.fromarray(source), "picture"
    if isinstance(source, Image.Image):
        return upright(source), "picture"
    raise ConfigError(f"a picture is a path, a PIL image or an array, not {type(source).__name__}")


def _given(
    keypoints: str | Path | Keypoints, image: Image.Image, person: int | None, notes: list[str]
) -> Keypoints:
    """Keypoints of a picture in its pixels."""
    shape = (image.height, image.width)
    if not isinstance(keypoints, (str, Path)):
        return from_fractions(np.asarray(keypoints, dtype=np.float64).reshape(18, 2), shape)
    first = read_poses(keypoints)[0]
    if (person or 1) > len(first.people):
        raise _no_such_person(first.where, person or 1, len(first.people))
    points = first.people[(person or 1) - 1]
    if first.size is None:
        return from_fractions(points, shape)
    if first.size != shape:
        notes.append(f"{first.where}: scaled from {first.size[1]} x {first.size[0]}")
    return points * (shape[1] / first.size[1], shape[0] / first.size[0])


def _find(
    openpose: OpenPose, picture: Picture, name: str, person: int | None, notes: list[str]
) -> Keypoints:
    """The joints of one of the people OpenPose finds, in the picture's pixels."""
    people = openpose.people(picture)
    if not people:
        raise XmdptError(
            f"{name}: OpenPose finds no person",
            "give a photograph in which a person is seen upright, or keypoints",
        )
    if person is not None and person > len(people):
        raise _no_such_person(name, person, len(people))
    if len(people) > 1 and person is None:
        notes.append(f"{name}: {len(people)} people, the largest is taken (--person chooses)")
    return people[(person or 1) - 1]


def _no_such_person(where: str, person: int, count: int) -> XmdptError:
    return XmdptError(
        f"{where}: person {person} is asked for, {count} found", f"--person 1 to {count}"
    )


def _without_openpose(name: str, err: XmdptError) -> XmdptError:
    return XmdptError(
        f"{name}: where the person stands is not known; {err.message}",
        f"give keypoints (--source-keypoints FILE, or such a file as --pose), or: {err.hint}",
    )
