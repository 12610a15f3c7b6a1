"""Read the poses of a file in any of the field's formats; write them in a plain one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.pose.formats.image_names import FrameNames
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import SIZE_HINT, Size, SizeOf, shape_of
from xmdpt_cli.pose.formats.joint_tables import check_min_score, shown
from xmdpt_cli.pose.formats.json_poses import read_json
from xmdpt_cli.pose.formats.missing import MIN_SCORE, scaled_note
from xmdpt_cli.pose.formats.text_rows import HEADER, read_annotations, read_pose_txt
from xmdpt_cli.pose.formats.units import check_guessed
from xmdpt_cli.pose.frame_decision import Decision, decide_alone
from xmdpt_cli.pose.frame_fit import mostly_outside
from xmdpt_cli.pose.frames import FRACTIONS, PADDED, PUBLISHED, CoordinateFrame
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.problems import Problem

__all__ = ["SUFFIXES", "ImagePoses", "frame_of_image", "read_poses", "write_pose_json"]

SUFFIXES = (".json", ".txt", ".csv")
LARGEST = 64 * 2**20  # bytes of a file: some thousand frames of several people
_ROWS = f"poses in .csv are rows of {HEADER}, 18 numbers each, -1 not seen"
_DECIMALS = 3  # of a pixel, in what we write


def read_poses(
    path: str | Path,
    size_of: SizeOf | None = None,
    *,
    min_score: float = MIN_SCORE,
    notes: list[str] | None = None,
) -> list[ImagePoses]:
    """The frames of a keypoints file, at least one with at least one person.

    ``.json``: OpenPose's (18 or 25 joints; of one image, or a list of them), COCO's (17, 133),
    Halpe's (26, 136), MMPose's, or our own form. ``.txt``: one pose, 18 lines.
    ``.csv``: the published annotation rows, a frame each. The frame of these two is decided from
    the values and the image's size. ``min_score``: joints with a lower score
    are not found. ``size_of``: the image size of a file in pixels that does not state it
    (OpenPose's own), and of one in fractions. ``notes`` collects how the numbers were read. In a
    sequence a frame may be without people. Raises XmdptError naming the file and frame, what was
    found and what is understood.
    """
    file = _usable(path, min_score)
    frames = file.sized(file.frames, size_of)
    if notes is not None:
        notes += file.notes
    return frames


def _usable(path: str | Path, min_score: float) -> KeypointsFile:
    """A file without broken rows, in which somebody is seen."""
    file = open_file(path, min_score)
    if file.path.suffix.lower() == ".csv":
        broken = [problem for problem in file.problems if not problem.kept]
        if broken or not file.frames:
            first = (broken[0].file, broken[0].reason) if broken else (str(path), "no rows in it")
            raise XmdptError(f"{first[0]}: {first[1]}", _ROWS)
    if not any(frame.people for frame in file.frames):
        one = file.frames[0].where if len(file.frames) == 1 else str(path)
        raise XmdptError(f"{one}: nobody in it (no joint was seen)")
    return file


class KeypointsFile:
    """The frames of a file as they are: ``unsized`` ones, and such in which nobody is seen.

    ``problems`` are its lines and annotations that cannot be used; ``notes`` say how it was read.
    ``published``: of files that do not say their frame, annotation rows and poses in .txt, the one
    of their kind: which it is ``sized`` decides.
    """

    def __init__(
        self,
        path: Path,
        frames: list[ImagePoses],
        problems: Sequence[Problem] = (),
        notes: Sequence[str] = (),
        *,
        published: CoordinateFrame | None = None,
    ) -> None:
        self.path, self.frames, self.problems = path, frames, list(problems)
        self.notes, self.published = list(notes), published
        self._read_notes = list(notes)

    @cached_property
    def names(self) -> FrameNames:
        return FrameNames([frame.name for frame in self.frames])

    def sized(
        self,
        frames: Sequence[ImagePoses],
        size_of: SizeOf | None,
        forced: CoordinateFrame | None = None,
    ) -> list[ImagePoses]:
        """Some of its frames with the size of their image, asked from ``size_of`` where the file
        does not state it. XmdptError if that does not know it either, or if it cannot be right.

        ``forced``: the frame of a file that does not say it, where that is known."""
        sizes = [size_of(f.name) if size_of and f.unsized else None for f in frames]
        if self.published is not None:
            return self._rows_sized(frames, sizes, size_of, forced)
        for frame, size in zip(frames, sizes, strict=True):
            if frame.unsized and frame.people and size is None:
                raise XmdptError(
                    f"{frame.where}: coordinates in pixels, but the size of their image is not "
                    "known",
                    SIZE_HINT,
                )
        sizes = [
            shape_of(size_of, f.name) if f.shapeless else size
            for f, size in zip(frames, sizes, strict=True)
        ]
        for size in dict.fromkeys(size for size in sizes if size is not None):
            same = [f for f, own in zip(frames, sizes, strict=True) if own == size and f.unsized]
            if same:
                check_guessed([p for f in same for p in f.people], size, same[0].where)
        return [
            f if size is None else _with_size(f, size)
            for f, size in zip(frames, sizes, strict=True)
        ]

    def _rows_sized(
        self,
        frames: Sequence[ImagePoses],
        sizes: Sequence[Size | None],
        size_of: SizeOf | None,
        forced: CoordinateFrame | None,
    ) -> list[ImagePoses]:
        """Rows and poses, by all values of the file and the sizes of these frames' images."""
        of_images = {
            frame.where: size[::-1] for frame, size in zip(frames, sizes, strict=True) if size
        }
        rows = [(frame, points) for frame in self.frames for points in frame.people]
        if not rows:
            return [replace(frame, unsized=False) for frame in frames]
        known = np.array([of_images.get(frame.where, (np.nan, np.nan)) for frame, _ in rows])
        raw = np.stack([points for _, points in rows])
        decided = forced
        if decided is None:
            decision = decide_alone(
                str(self.path),
                rows[0][0].name,
                raw,
                known,
                given=bool(getattr(size_of, "given", None)),
                published=self.published or PUBLISHED,
                guessed=bool(getattr(size_of, "guessed", False)),
            )
            decided = decision.frame
            self._say(decision, getattr(size_of, "notes", None))
        else:
            self._check_forced(frames, sizes, decided)
        if decided.of_images:
            return [
                replace(frame, size=size, unsized=False)
                for frame, size in zip(frames, sizes, strict=True)
            ]
        found = [
            replace(frame, people=list(map(decided.fractions, frame.people)), unsized=False)
            for frame in frames
        ]
        if decided.name != FRACTIONS.name:  # of a frame whose shape is known
            return found
        return [
            f if size is None else _with_size(replace(f, shapeless=True), size)
            for f, size in zip(found, sizes, strict=True)
        ]

    def _say(self, decision: Decision, of_sizes: list[str] | None) -> None:
        """Note what the values are of; the sizes of images that they are not of go unsaid."""
        why = f" ({decision.how})" if decision.how else ""
        self.notes = list(self._read_notes)
        if of_sizes and decision.frame.name == FRACTIONS.name:
            of_sizes[:] = [note.replace(" in pixels of ", " in fractions of ") for note in of_sizes]
        elif of_sizes and not decision.frame.of_images:
            of_sizes.clear()
        self.notes.append(f"{self.path.name}: in {decision.frame}{why}")

    def _check_forced(
        self, frames: Sequence[ImagePoses], sizes: Sequence[Size | None], forced: CoordinateFrame
    ) -> None:
        """XmdptError for frames that cannot be in ``forced``."""
        for frame, size in zip(frames, sizes, strict=True):
            if forced.of_images and size is None:
                raise XmdptError(f"{frame.where}: the size of its image is not known", SIZE_HINT)
            sides = None if size is None else np.array(size[::-1], dtype=np.float64)
            if any(mostly_outside(forced.fractions(points, sides)) for points in frame.people):
                raise XmdptError(
                    f"{frame.where}: most joints lie outside of the image in the frame {forced}"
                )


def open_file(path: str | Path, min_score: float = MIN_SCORE) -> KeypointsFile:
    """A keypoints file in any format. The last files are kept while they do not change: one may
    hold the keypoints of thousands of images, which are asked for one after the other."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise XmdptError(
            f"not a file of keypoints: {path}", f"their names end in {', '.join(SUFFIXES)}"
        )
    if path.is_dir():
        raise XmdptError(f"a folder, not a file of keypoints: {path}")
    if not path.exists():
        raise XmdptError(f"no such file of keypoints: {path}")
    if not path.is_file():
        raise XmdptError(f"not a regular file: {path}", "copy the keypoints to a file")
    state = path.stat()
    if state.st_size > LARGEST:
        raise XmdptError(
            f"{path}: {state.st_size / 2**20:.0f} MiB are too many for keypoints, at most "
            f"{LARGEST // 2**20} MiB are read",
            "split it, or give the part that you need (of COCO's files: without segmentations)",
        )
    key = (state.st_mtime_ns, state.st_size, state.st_ino)
    return _open(path.absolute(), path, key, check_min_score(min_score))


@lru_cache(maxsize=2)
def _open(_: Path, path: Path, _state: tuple[int, int, int], min_score: float) -> KeypointsFile:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _open_csv(path)
    if suffix == ".txt":
        return _open_txt(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise XmdptError(f"cannot read {path}: {err}") from None
    found = read_json(path, text, min_score)
    return KeypointsFile(path, found.frames, found.problems, found.notes)


def _open_txt(path: Path) -> KeypointsFile:
    try:
        points, scaled = read_pose_txt(path)
    except (OSError, ValueError, OverflowError) as err:
        raise XmdptError(
            f"{path}: {err}", "a pose in .txt is 18 lines `x y`, -1 -1 for a joint not seen"
        ) from None
    frames = [seen(ImagePoses(_somebody(points), None, str(path), unsized=True))]
    return KeypointsFile(path, frames, notes=scaled_note(path.name, scaled), published=PADDED)


def _open_csv(path: Path) -> KeypointsFile:
    read = read_annotations(path, str.strip)
    frames = [
        ImagePoses(
            _somebody(points),
            None,
            f"{path}, {shown(name)}",
            name,
            unsized=True,
            separate=True,
        )
        for name, points in read.points.items()
    ]
    return KeypointsFile(path, frames, read.problems, read.notes, published=PUBLISHED)


def _somebody(points: Keypoints) -> list[Keypoints]:
    return [points] if np.isfinite(points).any() else []


def seen(frame: ImagePoses) -> ImagePoses:
    """The frame; XmdptError if nobody is seen in it."""
    if not any(np.isfinite(points).any() for points in frame.people):
        raise XmdptError(f"{frame.where}: nobody in it (no joint was seen)")
    return frame


def frame_of_image(
    path: str | Path,
    image: str | Path | None,
    size_of: SizeOf | None = None,
    *,
    min_score: float = MIN_SCORE,
    notes: list[str] | None = None,
    forced: CoordinateFrame | None = None,
) -> ImagePoses:
    """The frame of a keypoints file that belongs to an image's file (None: it has no name).

    A file of one frame belongs to any image. Of several the one is meant that the file calls as
    the image (``FrameNames``). XmdptError, naming what was looked for, if none is. ``forced``: as
    for ``KeypointsFile.sized``; the others are as for ``read_poses``.
    """
    file = open_file(path, min_score)
    if len(file.frames) > 1:  # of thousands of rows the other ones may be bad
        frame = seen(file.frames[_which(file, image)])
    else:
        file = _usable(path, min_score)
        frame = file.frames[0]
    (found,) = file.sized([frame], size_of, forced)
    if notes is not None:
        notes += file.notes
    return found


def _which(file: KeypointsFile, image: str | Path | None) -> int:
    """The place of the image's frame in a file of several."""
    if image is None:
        looked = "the image, which has no file name"
    else:
        place = file.names.find(image)
        if place is not None:
            return place
        alike = file.names.alike(image)
        looked = f"{image} (several have its file name)" if alike else Path(image).name
    raise XmdptError(
        f"{file.path}: {len(file.frames)} poses, none of them called as {looked}",
        "give a file with the pose of this image alone, or call its row as the image",
    )


def _with_size(frame: ImagePoses, size: Size) -> ImagePoses:
    """A frame whose image's size is known now, in pixels."""
    people = [points * size[::-1] for points in frame.people] if frame.shapeless else frame.people
    return replace(frame, people=people, size=size, unsized=False, shapeless=False)


def write_pose_json(path: str | Path, frames: Sequence[ImagePoses]) -> None:
    """Write frames in our own form, which ``read_poses`` reads back (to a thousandth pixel)."""
    nodes = [_node(frame) for frame in frames]
    with writing(path):
        write_text(Path(path), json.dumps(nodes[0] if len(nodes) == 1 else {"frames": nodes}))


def _node(frame: ImagePoses) -> dict[str, Any]:
    size = {} if frame.size is None else {"width": frame.size[1], "height": frame.size[0]}
    decimals = _DECIMALS if frame.size else 2 * _DECIMALS
    people = []
    for points in frame.people:
        rounded = np.round(points, decimals).tolist()
        people.append([None if row[0] != row[0] else row for row in rounded])
    if len(people) == 1:
        return {"keypoints": people[0], **size}
    return {"people": [{"keypoints": person} for person in people], **size}
