"""Reading poses from a file in any of the usual formats.

| suffix | content | read by | joints | coordinates |
|---|---|---|---|---|
| .json | OpenPose, COCO, Halpe, MMPose, our own | json_poses | joint_tables.ORDERS | units |
| .csv | annotation rows, one for each image | text_rows | 18 | pose.frames |
| .txt | PIDM's pose file of one image | text_rows | 18 | pose.frames |

The numbers in JSON are pixels or fractions (``units``) of an image whose size the file states, or
``image_size`` finds. The coordinate frame of .csv and .txt is decided from their numbers
(``pose.frame_decision``). One rule decides which joints are missing (``missing``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_poses import ImagePoses, write_pose_json
from xmdpt_cli.pose.formats.image_size import SizeOf
from xmdpt_cli.pose.formats.joint_tables import check_min_score, shown
from xmdpt_cli.pose.formats.json_poses import read_json
from xmdpt_cli.pose.formats.keypoints_file import KeypointsFile
from xmdpt_cli.pose.formats.missing import MIN_SCORE, scaled_note
from xmdpt_cli.pose.formats.text_rows import HEADER, read_annotations, read_pose_txt
from xmdpt_cli.pose.frames import PADDED, PUBLISHED, CoordinateFrame
from xmdpt_cli.pose.keypoints import Keypoints

__all__ = ["SUFFIXES", "ImagePoses", "frame_of_image", "read_poses", "write_pose_json"]

LARGEST = 64 * 2**20  # bytes of a file: some thousand frames of several people
_ROWS = f"poses in .csv are rows of {HEADER}, 18 numbers each, -1 not seen"


def _open_json(path: Path, min_score: float) -> KeypointsFile:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise XmdptError(f"cannot read {path}: {err}") from None
    found = read_json(path, text, min_score)
    return KeypointsFile(path, found.frames, found.problems, found.notes)


def _open_csv(path: Path, _: float) -> KeypointsFile:
    read = read_annotations(path, str.strip)
    frames = [
        ImagePoses(
            _people(points), None, f"{path}, {shown(name)}", name, unsized=True, separate=True
        )
        for name, points in read.points.items()
    ]
    return KeypointsFile(path, frames, read.problems, read.notes, published=PUBLISHED)


def _open_txt(path: Path, _: float) -> KeypointsFile:
    try:
        points, scaled = read_pose_txt(path)
    except (OSError, ValueError, OverflowError) as err:
        raise XmdptError(
            f"{path}: {err}", "a pose in .txt is 18 lines `x y`, -1 -1 for a joint not seen"
        ) from None
    frames = [ImagePoses(_people(points), None, str(path), unsized=True).check_seen()]
    return KeypointsFile(path, frames, notes=scaled_note(path.name, scaled), published=PADDED)


def _people(points: Keypoints) -> list[Keypoints]:
    return [points] if np.isfinite(points).any() else []


#: the reader of each suffix
FORMATS: dict[str, Callable[[Path, float], KeypointsFile]] = {
    ".json": _open_json, ".txt": _open_txt, ".csv": _open_csv,
}  # fmt: skip
SUFFIXES = tuple(FORMATS)


def read_poses(
    path: str | Path,
    size_of: SizeOf | None = None,
    *,
    min_score: float = MIN_SCORE,
    notes: list[str] | None = None,
) -> list[ImagePoses]:
    """The frames of a keypoints file, at least one of them with a person.

    ``size_of``: the image size for numbers whose file does not state it. ``min_score``: joints with
    a lower score are missing. ``notes`` collects how the numbers were read. Frames of a sequence
    may have no people. Raises XmdptError naming the file and frame, what was found, and what is
    understood.
    """
    file = _usable(path, min_score)
    frames = file.sized(file.frames, size_of)
    if notes is not None:
        notes += file.notes
    return frames


def _usable(path: str | Path, min_score: float) -> KeypointsFile:
    """Read a file; XmdptError for unusable rows, or if it has no people."""
    file = open_file(path, min_score)
    if file.path.suffix.lower() == ".csv":
        broken = [problem for problem in file.problems if not problem.kept]
        if broken or not file.frames:
            first = (broken[0].file, broken[0].reason) if broken else (str(path), "no rows in it")
            raise XmdptError(f"{first[0]}: {first[1]}", _ROWS)
    if not any(frame.people for frame in file.frames):
        one = file.frames[0].where if len(file.frames) == 1 else str(path)
        raise XmdptError(f"{one}: no person in it (no joint was found)")
    return file


def open_file(path: str | Path, min_score: float = MIN_SCORE) -> KeypointsFile:
    """Read a keypoints file in any format. The last files are cached until they change: a file may
    have the keypoints of thousands of images, which are read one after the other."""
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
    return FORMATS[path.suffix.lower()](path, min_score)


def frame_of_image(
    path: str | Path,
    image: str | Path | None,
    size_of: SizeOf | None = None,
    *,
    min_score: float = MIN_SCORE,
    notes: list[str] | None = None,
    forced: CoordinateFrame | None = None,
) -> ImagePoses:
    """The frame of a keypoints file for an image file (None: the image has no file name).

    The frame of a file with one frame is used for any image; of several frames the one with the
    image's name (``ImageNames``), or XmdptError. ``forced``: see ``KeypointsFile.sized``; the other
    arguments: see ``read_poses``.
    """
    file = open_file(path, min_score)
    if len(file.frames) > 1:  # other rows may be unusable
        frame = file.frames[_which(file, image)].check_seen()
    else:
        file = _usable(path, min_score)
        frame = file.frames[0]
    (found,) = file.sized([frame], size_of, forced)
    if notes is not None:
        notes += file.notes
    return found


def _which(file: KeypointsFile, image: str | Path | None) -> int:
    """The index of the image's frame in a file of several."""
    if image is None:
        name = "the image, which has no file name"
    else:
        place = file.names.find(image)
        if place is not None:
            return place
        alike = file.names.alike(image)
        name = f"{image} (several have its file name)" if alike else Path(image).name
    raise XmdptError(
        f"{file.path}: {len(file.frames)} poses, none of them called as {name}",
        "give a file with the pose of this image alone, or give its row the name of the image",
    )
