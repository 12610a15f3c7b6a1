"""What a user gives, brought to what a model takes: images of a person, and poses.

Sizes are pixels; keypoints (18, 2) are x and y in pixels of a square of the model's resolution,
NaN where a joint is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.formats import SUFFIXES, read_poses
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import Size, UnstatedSize, check_pose_size
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit, check_fit_name, check_size, frame, frame_poses
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS, check_joints, pose_image_keypoints
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions
from xmdpt_cli.pose.tracking import EmptyFrames, check_empty_frames, filled, notes_on, track
from xmdpt_cli.sampling.user_inputs import (
    Finder,
    ImageLike,
    NoOpenPoseError,
    PoseLike,
    beside_frame,
    crowd,
    find_person,
    fractions,
    given_keypoints,
    opened,
    points_of,
    short,
)

T = TypeVar("T")
POSE_HINT = "a pose is keypoints in .json, .txt or .csv, a photograph, or a drawn pose"


@dataclass(frozen=True)
class View:
    """One image of the person."""

    name: str
    image: ImageArray  # (S, S, 3)
    keypoints: Keypoints | None
    notes: tuple[str, ...]
    size: Size | None = None  # (height, width) of the image as it was given


@dataclass(frozen=True)
class Pose:
    name: str
    keypoints: Keypoints
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputOptions:
    """How source images and poses are read."""

    fit: Fit = "auto"  # of source images: "squash", "pad", "person" or "auto" (``pose/framing.py``)
    pose_fit: Fit = "auto"  # of poses, likewise
    person: int | None = None  # which of several people in a source image, 1 the largest
    pose_person: int | None = None  # which of several people in a pose
    #: (width, height) of pose keypoints in pixels whose file does not state it
    pose_size: tuple[int, int] | None = None
    min_score: float = MIN_SCORE  # joints of a file with a lower score are missing
    empty_frames: EmptyFrames = "skip"  # or "hold": frames of a sequence without the person


DEFAULT_OPTIONS = InputOptions()


def notes_of(views: Sequence[View], poses: Sequence[Pose]) -> list[str]:
    """What was done to the inputs."""
    return [note for view in views for note in view.notes] + [
        n for pose in poses for n in pose.notes
    ]


def read_view(
    source: ImageLike,
    size: int,
    openpose: Finder,
    *,
    keypoints: str | Path | Keypoints | None = None,
    fit: Fit = "auto",
    person: int | None = None,
    needs_keypoints: bool = False,
    min_score: float = MIN_SCORE,
) -> View:
    """An image of a person, framed (``data/framing.py``) to (size, size, 3).

    ``keypoints``: a file, or (18, 2) as fractions of the image's sides; else a file beside the
    image (``data/keypoints_beside.py``); else OpenPose looks, if it is there. A file in pixels
    that does not state the image's size is taken to be in pixels of ``source``. ``person``: which
    one of several, 1 the largest. ``needs_keypoints``: the model reads them; without, they only
    serve to frame. ``min_score``: joints of a file with a lower score are not found. XmdptError
    where that cannot be.
    """
    check_fit_name(fit)
    image, name, stem = opened(source)
    notes: list[str] = []
    points = None
    if keypoints is not None:
        points = given_keypoints(keypoints, image, source, name, person, notes, min_score)
    elif fit == "squash" and not needs_keypoints and person is None:
        pass  # nothing asks where the person is
    elif (beside := beside_frame(source, name, notes, min_score)) is not None:
        points = points_of(beside, image, person, notes)
    else:
        try:
            finder: OpenPose | None = openpose()
        except XmdptError as err:
            if needs_keypoints or fit == "person" or person is not None:
                own = f"--source-keypoints FILE, or {stem}.json beside it"
                raise NoOpenPoseError(name, err, own) from err
            finder = None
        if finder is not None:
            points = find_person(finder, np.asarray(image), name, person, "--person", notes)
    framed = _named(name, frame, image, points, size, fit)
    if framed.keypoints is not None:
        _named(name, _check_inside, framed.keypoints, size, "are these the image's keypoints?")
    said = (f"{name}: {framed.note}", *notes)
    return View(stem, framed.image, framed.keypoints, said, (image.height, image.width))


def read_pose(
    pose: PoseLike,
    size: int,
    openpose: Finder,
    *,
    fit: Fit = "auto",
    person: int | None = None,
    pose_size: tuple[int, int] | None = None,
    source_size: Size | None = None,
    min_score: float = MIN_SCORE,
    empty_frames: EmptyFrames = "skip",
) -> list[Pose]:
    """The pose or poses of one thing given; a file of keypoints may hold a sequence.

    Of a sequence one person is tracked (``data/tracking.py``): ``person`` of its first frame.
    ``empty_frames``: frames without that person are left out, or hold the pose before.
    ``min_score``: joints of a file with a lower score are not found.

    The image size of keypoints whose file does not state it: ``pose_size`` (width, height), else
    that of the image of the same name beside the file, else ``source_size`` (height, width).
    """
    check_fit_name(fit)
    check_empty_frames(empty_frames)
    given = None if pose_size is None else check_pose_size(pose_size)
    if isinstance(pose, np.ndarray) and pose.dtype != np.uint8:
        return [_checked("pose", "pose", from_fractions(fractions(pose, "pose"), size), size, [])]
    if isinstance(pose, (str, Path)) and Path(pose).suffix.lower() in SUFFIXES:
        size_of = UnstatedSize(Path(pose), given=given, source=source_size)
        said: list[str] = []
        frames = read_poses(pose, size_of, min_score=min_score, notes=said)
        said += size_of.notes
        return _sequence(Path(pose), frames, size, fit, person, said, empty_frames)
    try:
        image, name, stem = opened(pose)
    except ConfigError:
        raise
    except XmdptError as err:
        raise XmdptError(err.message, err.hint or POSE_HINT) from None
    _named(name, check_size, image.size)
    notes: list[str] = []
    found = pose_image_keypoints(np.asarray(image))
    if found is None:
        beside = beside_frame(pose, name, notes, min_score)
        if beside is not None:
            return _sequence(Path(name), [beside], size, fit, person, notes)
        try:
            finder = openpose()
        except XmdptError as err:
            raise NoOpenPoseError(name, err, "a file of keypoints as --pose") from err
        found = find_person(finder, np.asarray(image), name, person, "--pose-person", notes)
    else:
        what = "a drawn pose"
        if fit == "auto" and image.width == image.height:
            # as all of this field's codes draw them, from keypoints of 176 x 256
            fit, what = "squash", "a drawn pose, square, so it is squashed (else --pose-fit person)"
        notes.append(f"{name}: {what}")
    shape = (image.height, image.width)
    moved, note = _named(name, frame_poses, [found], shape, size, fit)
    return [_checked(stem, name, moved[0], size, [f"{name}: {note}", *notes])]


def _sequence(
    path: Path,
    frames: Sequence[ImagePoses],
    size: int,
    fit: Fit,
    person: int | None,
    before: Sequence[str],
    empty: EmptyFrames = "skip",
) -> list[Pose]:
    """The poses of a file's frames; ``before``: notes on how they were read."""
    tracked = track(frames, person, "--pose-person")
    used = filled(tracked.poses, empty)
    if not used:
        raise XmdptError(
            f"{path}: nobody in any of its {len(frames)} frames has {LEAST_JOINTS} joints",
            f"lower --min-score, if there are joints; {POSE_HINT}",
        )
    # frames of one size share a box, so that a walking figure walks
    moved: list[Keypoints] = [np.empty(0)] * len(used)
    notes = list(before)
    for shape in dict.fromkeys(frames[place].size for place, _ in used):
        which = [i for i, (place, _) in enumerate(used) if frames[place].size == shape]
        chosen = [used[i][1] for i in which]
        found, note = _named(path.name, frame_poses, chosen, shape, size, fit)
        notes.append(f"{path.name}: {note}")
        for i, points in zip(which, found, strict=True):
            moved[i] = points
    crowded = next((f for f in frames if len(f.people) > 1), None)
    if crowded is not None and person is None:
        notes.append(crowd(short(crowded.where), crowded.people, "--pose-person"))
    notes += notes_on(tracked, path.name, empty)
    name = path.stem or "pose"
    out: list[Pose] = []
    for (place, _), points in zip(used, moved, strict=True):
        alone = len(frames) == 1
        own = name if alone else f"{name}_{place:04d}"  # numbered as in the file, gaps or not
        where = path.name if alone else frames[place].where
        out.append(_checked(own, where, points, size, [] if out else notes))
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
            f"{seen - inside} of {seen} joints lie outside of the image",
            "arrays hold fractions of its width and height; a file may name another size than "
            f"that of its image; {hint}",
        )


def _named(name: str, make: Callable[..., T], *given: Any) -> T:
    """``make(*given)``; its errors say which image they are about."""
    try:
        return make(*given)
    except XmdptError as err:
        raise type(err)(f"{name}: {err.message}", err.hint) from None
