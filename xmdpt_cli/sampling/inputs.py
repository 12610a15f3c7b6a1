"""User inputs -> model inputs: images of a person, and poses.

Keypoints are (18, 2), x and y in pixels of a square of the model's resolution, NaN where a joint
is missing.
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
from xmdpt_cli.pose.formats.image_size import UnstatedSize, check_pose_size
from xmdpt_cli.pose.formats.missing import MIN_SCORE
from xmdpt_cli.pose.framing import Fit, check_fit_name, check_size, frame, frame_poses
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS, check_joints, pose_image_keypoints
from xmdpt_cli.pose.keypoints import Keypoints, Size, from_fractions, seen
from xmdpt_cli.pose.tracking import EmptyFrames, check_empty_frames, filled, notes_on, track
from xmdpt_cli.sampling.user_inputs import (
    ImageLike,
    KeypointsLike,
    NoOpenPoseError,
    PoseLike,
    UserImage,
    crowd_note,
    estimate,
    fractions,
    given_keypoints,
    keypoints_beside,
    person_in,
)

T = TypeVar("T")
#: loads OpenPose when it is needed; raises XmdptError where it is not found
LoadOpenPose = Callable[[], OpenPose]
POSE_HINT = "a pose is keypoints in .json, .txt or .csv, a photograph, or a pose image"


@dataclass(frozen=True)
class View:
    """One image of the person, as the model reads it."""

    name: str
    image: ImageArray  # (S, S, 3)
    keypoints: Keypoints | None
    notes: tuple[str, ...]  # what was done to the input, one clause each
    size: Size | None = None  # (height, width) of the original image


@dataclass(frozen=True)
class Pose:
    """One pose, as the model reads it."""

    name: str
    keypoints: Keypoints
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputOptions:
    """How source images and poses are read. Raises ConfigError for a value that is not allowed.

    Args:
        fit: How source images are fitted: "squash", "pad", "person" or "auto" (chooses for each).
        pose_fit: The same for poses.
        person: Which of several people in a source image, 1 the largest; None: the largest.
        pose_person: The same for a pose.
        pose_size: (width, height) in pixels of the image that pose keypoints refer to, if their
            file does not state it; None: the image of the same name, else the source's size.
        min_score: Joints of a file with a lower score are missing; 0 to 1, by default 0.1.
        empty_frames: Frames of a sequence without the person: "skip" leaves them out, "hold"
            repeats the previous pose.
    """

    fit: Fit = "auto"
    pose_fit: Fit = "auto"
    person: int | None = None
    pose_person: int | None = None
    pose_size: tuple[int, int] | None = None
    min_score: float = MIN_SCORE
    empty_frames: EmptyFrames = "skip"

    def __post_init__(self) -> None:
        check_fit_name(self.fit)
        check_fit_name(self.pose_fit)
        check_empty_frames(self.empty_frames)
        if self.pose_size is not None:
            check_pose_size(self.pose_size)


DEFAULT_OPTIONS = InputOptions()


def notes_of(views: Sequence[View], poses: Sequence[Pose]) -> list[str]:
    """What was done to the inputs, one clause each."""
    parts: list[View | Pose] = [*views, *poses]
    return [note for part in parts for note in part.notes]


def read_view(
    source: ImageLike,
    size: int,
    openpose: LoadOpenPose,
    options: InputOptions = DEFAULT_OPTIONS,
    *,
    keypoints: KeypointsLike | None = None,
    needs_keypoints: bool = False,
) -> View:
    """Read an image of a person and frame it (``pose/framing.py``) to (size, size, 3).

    Its keypoints are ``keypoints``, else those in a file beside the image, else those that OpenPose
    finds, if it is available. A keypoints file in pixels that does not state the image's size is
    taken to be in pixels of ``source``. ``needs_keypoints``: the model reads them; otherwise they
    are only used to frame the image. Raises XmdptError if the image or the keypoints cannot be
    used, or if needed keypoints are not found.
    """
    image = UserImage.open(source)
    fit, person = options.fit, options.person
    notes: list[str] = []
    points = None
    if keypoints is not None:
        points = given_keypoints(keypoints, image, source, person, notes, options.min_score)
    elif fit == "squash" and not needs_keypoints and person is None:
        pass  # the keypoints would not be used
    elif (beside := keypoints_beside(image, notes, options.min_score)) is not None:
        points = person_in(beside, image, person, notes)
    else:
        try:
            estimator = openpose()
        except XmdptError as err:
            if needs_keypoints or fit == "person" or person is not None:
                why = "the model reads them" if needs_keypoints else "they place the crop"
                instead = f"--source-keypoints FILE, or {image.stem}.json beside it"
                raise NoOpenPoseError(image.name, err, why, instead) from err
        else:
            points = estimate(estimator, image, person, "--person", notes)
    framed = _named(image.name, frame, image.image, points, size, fit)
    if framed.keypoints is not None:
        hint = "are these the image's keypoints?"
        _named(image.name, _check_inside, framed.keypoints, size, hint)
    notes.insert(0, f"{image.name}: {framed.note}")
    return View(image.stem, framed.image, framed.keypoints, tuple(notes), image.size)


def read_pose(
    pose: PoseLike,
    size: int,
    openpose: LoadOpenPose,
    options: InputOptions = DEFAULT_OPTIONS,
    *,
    source_size: Size | None = None,
) -> list[Pose]:
    """Read the pose, or the poses of a sequence, of one input.

    In a sequence one person is tracked (``pose/tracking.py``): ``options.pose_person`` of its first
    frame. The image size of keypoints whose file does not state it is ``options.pose_size``, else
    that of the image of the same name beside the file, else ``source_size`` (height, width).
    Raises XmdptError if the input holds no usable pose.
    """
    if isinstance(pose, np.ndarray) and pose.dtype != np.uint8:
        points = from_fractions(fractions(pose, "pose"), size)
        return [_checked("pose", "pose", points, size, [])]
    if isinstance(pose, (str, Path)) and Path(pose).suffix.lower() in SUFFIXES:
        size_of = UnstatedSize(Path(pose), given=options.pose_size, source=source_size)
        notes: list[str] = []
        frames = read_poses(pose, size_of, min_score=options.min_score, notes=notes)
        return _sequence(Path(pose), frames, size, options, [*notes, *size_of.notes])
    try:
        image = UserImage.open(pose)
    except ConfigError:
        raise
    except XmdptError as err:
        raise XmdptError(err.message, err.hint or POSE_HINT) from None
    return _pose_of_image(image, size, openpose, options)


def _pose_of_image(
    image: UserImage, size: int, openpose: LoadOpenPose, options: InputOptions
) -> list[Pose]:
    """The pose in a pose image, or of the person in a photograph."""
    _named(image.name, check_size, image.image.size)
    fit, notes = options.pose_fit, list[str]()
    points = pose_image_keypoints(image.pixels)
    if points is not None:
        what = "a pose image"
        if fit == "auto" and image.image.width == image.image.height:
            # square pose images are usually rendered from keypoints squashed from 176 x 256
            fit, what = "squash", "a pose image, square, so it is squashed (else --pose-fit person)"
        notes.append(f"{image.name}: {what}")
    else:
        beside = keypoints_beside(image, notes, options.min_score)
        if beside is not None:
            return _sequence(Path(image.name), [beside], size, options, notes)
        try:
            estimator = openpose()
        except XmdptError as err:
            why, instead = "they are the pose", "a file of keypoints as --pose"
            raise NoOpenPoseError(image.name, err, why, instead) from err
        points = estimate(estimator, image, options.pose_person, "--pose-person", notes)
    (moved,), note = _named(image.name, frame_poses, [points], image.size, size, fit)
    return [_checked(image.stem, image.name, moved, size, [f"{image.name}: {note}", *notes])]


def _sequence(
    path: Path,
    frames: Sequence[ImagePoses],
    size: int,
    options: InputOptions,
    read_notes: Sequence[str],
) -> list[Pose]:
    """The poses of a file's frames; ``read_notes``: how its numbers were read."""
    person, empty_frames = options.pose_person, options.empty_frames
    tracked = track(frames, person, "--pose-person")
    used = filled(tracked.poses, empty_frames)
    if not used:
        raise XmdptError(
            f"{path}: no person in any of its {len(frames)} frames has {LEAST_JOINTS} joints",
            f"lower --min-score, if there are joints; {POSE_HINT}",
        )
    # frames of one size share a box, so that a walking figure moves through the image
    moved: list[Keypoints] = [np.empty(0)] * len(used)
    notes = list(read_notes)
    for shape in dict.fromkeys(frames[place].size for place, _ in used):
        which = [i for i, (place, _) in enumerate(used) if frames[place].size == shape]
        people = [used[i][1] for i in which]
        framed, note = _named(path.name, frame_poses, people, shape, size, options.pose_fit)
        notes.append(f"{path.name}: {note}")
        for i, points in zip(which, framed, strict=True):
            moved[i] = points
    crowded = next((f for f in frames if len(f.people) > 1), None)
    if crowded is not None and person is None:
        notes.append(crowd_note(crowded.where, len(crowded.people), "--pose-person"))
    notes += notes_on(tracked, path.name, empty_frames)
    name = path.stem or "pose"
    if len(frames) == 1:
        return [_checked(name, path.name, moved[0], size, notes)]
    # numbered as in the file, also where frames are left out; the first pose carries all notes
    return [
        _checked(f"{name}_{place:04d}", frames[place].where, points, size, [] if i else notes)
        for i, ((place, _), points) in enumerate(zip(used, moved, strict=True))
    ]


def _checked(name: str, where: str, points: Keypoints, size: int, notes: Sequence[str]) -> Pose:
    """A pose; XmdptError if too few of its joints are found, or lie in the square of ``size``."""
    warning = _named(where, check_joints, points)
    _named(where, _check_inside, points, size, "--pose-fit person brings the figure in")
    if np.nanmax(np.nanmax(points, axis=0) - np.nanmin(points, axis=0)) < 1:
        raise XmdptError(f"{where}: all joints of the pose lie in one point", POSE_HINT)
    warnings = () if warning is None else (f"{where}: {warning}",)
    return Pose(name, points, (*notes, *warnings))


def _check_inside(points: Keypoints, size: int, hint: str) -> None:
    """XmdptError if fewer than ``LEAST_JOINTS`` of the found joints lie in the square of
    ``size``."""
    found = int(seen(points).sum())
    inside = int(((points >= 0) & (points <= size)).all(axis=1).sum())
    if inside < min(found, LEAST_JOINTS):
        raise XmdptError(
            f"{found - inside} of {found} joints lie outside of the image",
            "arrays hold fractions of its width and height; a file may name another size than "
            f"that of its image; {hint}",
        )


def _named(name: str, call: Callable[..., T], *args: Any) -> T:
    """``call(*args)``; its errors start with the name of the image."""
    try:
        return call(*args)
    except XmdptError as err:
        raise type(err)(f"{name}: {err.message}", err.hint) from None
