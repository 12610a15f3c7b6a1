"""What a user gives, brought to what a model takes: pictures of a person, and poses.

Sizes are pixels; keypoints (18, 2) are x and y in pixels of a square of the model's resolution,
NaN where a joint is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.data.framing import Fit, check_fit_name, check_size, frame, frame_poses
from xmdpt_cli.data.given_pose import LEAST_JOINTS, check_joints, pose_picture_keypoints
from xmdpt_cli.data.image_size import Size, UnstatedSize, check_pose_size
from xmdpt_cli.data.keypoint_formats import SUFFIXES, frame_of_picture, read_poses
from xmdpt_cli.data.keypoint_json import Frame
from xmdpt_cli.data.keypoints_beside import KeypointsBeside
from xmdpt_cli.data.person_box import extent
from xmdpt_cli.data.pose import Keypoints, from_fractions, raw_to_nan
from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import Picture, load_image, upright

#: a file, a picture, or its pixels uint8 (H, W, 3)
PictureLike: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
#: a keypoints file, a photograph or drawing of a pose, or keypoints (18, 2) as fractions of width
#: and height of the picture to draw
PoseLike: TypeAlias = "PictureLike | NDArray[np.float64]"
Finder = Callable[[], OpenPose]  # raises XmdptError where OpenPose is not there
T = TypeVar("T")
POSE_HINT = "a pose is keypoints in .json, .txt or .csv, a photograph, or a drawn pose"


class NoOpenPoseError(XmdptError):
    """OpenPose is needed and not here: so it will be for every other picture, too.

    ``image``: for which; ``instead``: what a user can give in its place; ``reason``: why it is not
    here."""

    def __init__(self, image: str, reason: XmdptError, instead: str) -> None:
        super().__init__(
            f"{image}: where the person stands is not known; {reason.message}",
            f"give keypoints ({instead}), or: {reason.hint}",
        )
        self.image, self.reason, self.instead = image, reason, instead


@dataclass(frozen=True)
class View:
    """One picture of the person."""

    name: str
    picture: Picture  # (S, S, 3)
    keypoints: Keypoints | None
    notes: tuple[str, ...]
    size: Size | None = None  # (height, width) of the image as it was given


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

    ``keypoints``: a file, or (18, 2) as fractions of the picture's sides; else a file beside the
    picture (``data/keypoints_beside.py``); else OpenPose looks, if it is there. A file in pixels
    that does not state the image's size is taken to be in pixels of ``source``. ``person``: which
    one of several, 1 the largest. ``needs_keypoints``: the model reads them; without, they only
    serve to frame. XmdptError where that cannot be.
    """
    check_fit_name(fit)
    image, name, stem = _opened(source)
    notes: list[str] = []
    points = None
    if keypoints is not None:
        points = _given(keypoints, image, source, name, person, notes)
    elif fit == "squash" and not needs_keypoints and person is None:
        pass  # nothing asks where the person is
    elif (beside := _beside(source, name, notes)) is not None:
        points = _points_of(beside, image, person, notes)
    else:
        try:
            finder: OpenPose | None = openpose()
        except XmdptError as err:
            if needs_keypoints or fit == "person" or person is not None:
                own = f"--source-keypoints FILE, or {stem}.json beside it"
                raise NoOpenPoseError(name, err, own) from err
            finder = None
        if finder is not None:
            points = _find(finder, np.asarray(image), name, person, "--person", notes)
    framed = _named(name, frame, image, points, size, fit)
    if framed.keypoints is not None:
        _named(name, _check_inside, framed.keypoints, size, "are these the picture's keypoints?")
    said = (f"{name}: {framed.note}", *notes)
    return View(stem, framed.picture, framed.keypoints, said, (image.height, image.width))


def read_pose(
    pose: PoseLike,
    size: int,
    openpose: Finder,
    *,
    fit: Fit = "auto",
    person: int | None = None,
    pose_size: tuple[int, int] | None = None,
    source_size: Size | None = None,
) -> list[Pose]:
    """The pose or poses of one thing given; a file of keypoints may hold a sequence.

    The image size of keypoints in pixels that do not state it: ``pose_size`` (width, height), else
    that of the image of the same name beside the file, else ``source_size`` (height, width).
    """
    check_fit_name(fit)
    given = None if pose_size is None else check_pose_size(pose_size)
    if isinstance(pose, np.ndarray) and pose.dtype != np.uint8:
        return [_checked("pose", "pose", from_fractions(_fractions(pose, "pose"), size), size, [])]
    if isinstance(pose, (str, Path)) and Path(pose).suffix.lower() in SUFFIXES:
        size_of = UnstatedSize(Path(pose), given=given, source=source_size)
        frames = read_poses(pose, size_of)
        return _sequence(Path(pose), frames, size, fit, person, size_of.notes)
    try:
        image, name, stem = _opened(pose)
    except ConfigError:
        raise
    except XmdptError as err:
        raise XmdptError(err.message, err.hint or POSE_HINT) from None
    _named(name, check_size, image.size)
    notes: list[str] = []
    found = pose_picture_keypoints(np.asarray(image))
    if found is None:
        beside = _beside(pose, name, notes)
        if beside is not None:
            return _sequence(Path(name), [beside], size, fit, person, notes)
        try:
            finder = openpose()
        except XmdptError as err:
            raise NoOpenPoseError(name, err, "a file of keypoints as --pose") from err
        found = _find(finder, np.asarray(image), name, person, "--pose-person", notes)
    else:
        said = "a drawn pose"
        if fit == "auto" and image.width == image.height:
            # as all of this field's codes draw them, from keypoints of 176 x 256
            fit, said = "squash", "a drawn pose, square, so it is squashed (else --pose-fit person)"
        notes.append(f"{name}: {said}")
    shape = (image.height, image.width)
    moved, note = _named(name, frame_poses, [found], shape, size, fit)
    return [_checked(stem, name, moved[0], size, [f"{name}: {note}", *notes])]


def _sequence(
    path: Path,
    frames: Sequence[Frame],
    size: int,
    fit: Fit,
    person: int | None,
    before: Sequence[str],
) -> list[Pose]:
    """The poses of a file's frames; ``before``: notes on how they were read."""
    poses = []
    for frame_ in frames:
        poses.append(_one_of(frame_.people, person, frame_.where, "--pose-person"))
    # frames of one size share a box, so that a walking figure walks
    moved: list[Keypoints] = [np.empty(0)] * len(poses)
    notes = list(before)
    for shape in dict.fromkeys(frame_.size for frame_ in frames):
        which = [i for i, frame_ in enumerate(frames) if frame_.size == shape]
        chosen = [poses[i] for i in which]
        found, note = _named(path.name, frame_poses, chosen, shape, size, fit)
        notes.append(f"{path.name}: {note}")
        for i, points in zip(which, found, strict=True):
            moved[i] = points
    crowded = next((f for f in frames if len(f.people) > 1), None)
    if crowded is not None and person is None:
        notes.append(_crowd(_told(crowded.where), crowded.people, "--pose-person"))
    name = path.stem or "pose"
    out = []
    for i, points in enumerate(moved):
        alone = len(moved) == 1
        own = name if alone else f"{name}_{i:04d}"
        where = path.name if alone else frames[i].where
        out.append(_checked(own, where, points, size, notes if i == 0 else []))
    return out


def _checked(name: str, where: str, points: Keypoints, size: int, notes: Sequence[str]) -> Pose:
    """XmdptError if too few joints are seen, or would be in the square that is drawn."""
    warning = _named(where, check_joints, points)
    _named(where, _check_inside, points, size, "--pose-fit person brings the figure in")
    if np.nanmax(np.nanmax(points, axis=0) - np.nanmin(points, axis=0)) < 1:
        raise XmdptError(f"{where}: all joints of the pose lie in one point", POSE_HINT)
    more = () if warning is None else (f"{where}: {warning}",)
    return Pose(name, points, (*notes, *more))


def _check_inside(points: Keypoints, size: int, hint: str) -> None:
    """XmdptError if hardly any of the joints that are seen lies in the square of ``size``."""
    seen = int(np.isfinite(points).all(axis=1).sum())
    inside = int(((points >= 0) & (points <= size)).all(axis=1).sum())
    if inside < min(seen, LEAST_JOINTS):
        raise XmdptError(
            f"{seen - inside} of {seen} joints lie outside of the picture",
            "arrays hold fractions of its width and height; a file may name another size than "
            f"that of its picture; {hint}",
        )


def _named(name: str, make: Callable[..., T], *given: Any) -> T:
    """``make(*given)``; its errors say which picture they are about."""
    try:
        return make(*given)
    except XmdptError as err:
        raise type(err)(f"{name}: {err.message}", err.hint) from None


def _fractions(keypoints: Any, name: str) -> Keypoints:
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
    return raw_to_nan(points)


def _crowd(where: str, people: list[Keypoints], option: str) -> str:
    return f"{where}: {len(people)} people, the largest is taken ({option} chooses)"


def _one_of(people: list[Keypoints], person: int | None, where: str, option: str) -> Keypoints:
    """The largest of some people, or the one asked for; ``option`` is what asks."""
    wanted = 1 if person is None else person
    if not 1 <= wanted <= len(people):
        raise XmdptError(
            f"{where}: person {wanted} is asked for, {len(people)} found",
            f"{option} 1 to {len(people)}",
        )
    return sorted(people, key=extent, reverse=True)[wanted - 1]


def _opened(source: Any) -> tuple[Image.Image, str, str]:
    """A picture, what it is called, and its name without a suffix."""
    if isinstance(source, (str, Path)):
        return load_image(source), Path(source).name, Path(source).stem
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ConfigError(f"pixels are {source.dtype} {source.shape}, not uint8 (H, W, 3)")
        if not source.size:
            raise XmdptError(f"a picture of {source.shape[1]} x {source.shape[0]} pixels")
        return Image.fromarray(source), "picture", "picture"
    if isinstance(source, Image.Image):
        try:
            return upright(source), "picture", "picture"
        except (OSError, SyntaxError) as err:  # Pillow reads a file when its pixels are needed
            raise XmdptError(f"broken picture ({err})") from None
    raise ConfigError(f"a picture is a path, a PIL image or an array, not {type(source).__name__}")


def _given(
    keypoints: str | Path | Keypoints,
    image: Image.Image,
    source: PictureLike,
    name: str,
    person: int | None,
    notes: list[str],
) -> Keypoints:
    """Keypoints of a picture in its pixels."""
    shape = (image.height, image.width)
    if not isinstance(keypoints, (str, Path)):
        return from_fractions(_fractions(keypoints, name), shape)
    file = source if isinstance(source, (str, Path)) else getattr(source, "filename", "") or None
    return _points_of(frame_of_picture(keypoints, file, lambda _: shape), image, person, notes)


def _points_of(
    frame_: Frame, image: Image.Image, person: int | None, notes: list[str]
) -> Keypoints:
    """Of one of a frame's people, in pixels of their image."""
    shape = (image.height, image.width)
    points = _one_of(frame_.people, person, frame_.where, "--person")
    if person is None and len(frame_.people) > 1:
        notes.append(_crowd(_told(frame_.where), frame_.people, "--person"))
    if frame_.size is None:
        return from_fractions(points, shape)
    if frame_.size != shape:
        notes.append(f"{_told(frame_.where)}: scaled from {frame_.size[1]} x {frame_.size[0]}")
    return points * (shape[1] / frame_.size[1], shape[0] / frame_.size[0])


def _beside(picture: Any, name: str, notes: list[str]) -> Frame | None:
    """The keypoints beside an image file, None if there are none; that is noted."""
    if not isinstance(picture, (str, Path)):
        return None
    found = KeypointsBeside().find(Path(picture))
    if found is None:
        return None
    notes.append(f"{name}: keypoints of {found.file.name} beside it")
    return found.frame


def _told(where: str) -> str:
    """Of where a frame was found the file's name without its folders: notes are kept with what is
    generated, and say nothing of the machine."""
    return re.sub(r"^.*[/\\](?=[^/\\]*\.(?:json|csv|txt)\b)", "", where)


def _find(
    openpose: OpenPose,
    picture: Picture,
    name: str,
    person: int | None,
    option: str,
    notes: list[str],
) -> Keypoints:
    """The joints of one of the people OpenPose finds, in the picture's pixels."""
    people = openpose.people(picture)
    if not people:
        raise XmdptError(
            f"{name}: OpenPose finds no person",
            "give a photograph in which a person is seen upright, or keypoints",
        )
    if len(people) > 1 and person is None:
        notes.append(_crowd(name, people, option))
    return _one_of(people, person, name, option)
