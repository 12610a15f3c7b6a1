"""Read the poses of a file in any of the field's formats; write them in a plain one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.data.image_size import SizeOf
from xmdpt_cli.data.keypoint_json import Frame, read_json, sized
from xmdpt_cli.data.lists import (
    HEADER,
    Problem,
    is_padded,
    read_own_annotations,
    read_pose_txt,
    to_fractions,
)
from xmdpt_cli.data.names import match_name
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing

__all__ = ["SUFFIXES", "Frame", "frame_of_picture", "read_poses", "write_pose_json"]

SUFFIXES = (".json", ".txt", ".csv")
_ROWS = f"poses in .csv are rows of {HEADER}, 18 numbers each, -1 not seen"
_DECIMALS = 3  # of a pixel, in what we write


def read_poses(path: str | Path, size_of: SizeOf | None = None) -> list[Frame]:
    """The frames of a keypoints file, at least one, each with at least one person.

    ``.json``: OpenPose's (18 or 25 joints; of one picture, or a list of them), COCO's (17), or
    our own form. ``.txt``: one pose in the padded 256 frame. ``.csv``: the published annotation
    rows, a frame each. Of the last two the coordinates are fractions of the 176 x 256 picture.
    ``size_of``: the image size of a JSON file in pixels that does not state it (OpenPose's own).
    Raises XmdptError naming the file and frame, what was found and what is understood.
    """
    return [sized(frame, size_of) for frame in read_frames(path)]


def read_frames(path: str | Path) -> list[Frame]:
    """``read_poses`` whose frames may be ``unsized``."""
    file = open_file(path)
    if file.path.suffix.lower() == ".csv":
        broken = [problem for problem in file.problems if not problem.kept]
        if broken or not file.frames:
            first = (broken[0].file, broken[0].reason) if broken else (str(path), "no rows in it")
            raise XmdptError(f"{first[0]}: {first[1]}", _ROWS)
    return [seen(frame) for frame in file.frames]


class KeypointsFile:
    """The frames of a file as they are: ``unsized`` ones, and of a CSV file also such in which
    nobody is seen; ``problems`` are its lines that cannot be used."""

    def __init__(self, path: Path, frames: list[Frame], problems: Sequence[Problem] = ()) -> None:
        self.path, self.frames, self.problems = path, frames, list(problems)

    @cached_property
    def names(self) -> FrameNames:
        return FrameNames([frame.name for frame in self.frames])


def open_file(path: str | Path) -> KeypointsFile:
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
    state = path.stat()
    return _open(path.absolute(), path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=2)
def _open(_: Path, path: Path, _state: tuple[int, int, int]) -> KeypointsFile:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _open_csv(path)
    return KeypointsFile(path, read_json(path) if suffix == ".json" else _read_txt(path))


def _read_txt(path: Path) -> list[Frame]:
    try:
        points = read_pose_txt(path)
    except (OSError, ValueError) as err:
        raise XmdptError(
            f"{path}: {err}", "a pose in .txt is 18 lines `x y`, -1 -1 for a joint not seen"
        ) from None
    return [seen(Frame([points], None, str(path)))]


def _open_csv(path: Path) -> KeypointsFile:
    rows, problems = read_own_annotations(path)
    padded = is_padded(rows)
    frames = [
        Frame([to_fractions(points, padded)], None, f"{path}, {name}", name)
        for name, points in rows.items()
    ]
    return KeypointsFile(path, frames, problems)


def seen(frame: Frame) -> Frame:
    """The frame; XmdptError if nobody is seen in it."""
    if not any(np.isfinite(points).any() for points in frame.people):
        raise XmdptError(f"{frame.where}: nobody in it (no joint was seen)")
    return frame


def frame_of_picture(
    path: str | Path, picture: str | Path | None, size_of: SizeOf | None = None
) -> Frame:
    """The frame of a keypoints file that belongs to a picture's file (None: it has no name).

    A file of one frame belongs to any picture. Of several the one is meant that the file calls as
    the picture (``FrameNames``). XmdptError, naming what was looked for, if none is.
    ``size_of``: as for ``read_poses``.
    """
    file = open_file(path)
    if len(file.frames) > 1:  # of thousands of rows the other ones may be bad
        return sized(seen(file.frames[_which(file, picture)]), size_of)
    return sized(read_frames(path)[0], size_of)


def _which(file: KeypointsFile, picture: str | Path | None) -> int:
    """The place of the picture's frame in a file of several."""
    if picture is None:
        looked = "the picture, which has no file name"
    else:
        place = file.names.find(picture)
        if place is not None:
            return place
        alike = file.names.alike(picture)
        looked = f"{picture} (several have its file name)" if alike else Path(picture).name
    raise XmdptError(
        f"{file.path}: {len(file.frames)} poses, none of them called as {looked}",
        "give a file with the pose of this picture alone, or call its row as the picture",
    )


class FrameNames:
    """The names that a file gives its images, to find the one of an image by its path: in either
    form of DeepFashion's names, by the end of its path, or by its file's name if only one is called
    so. Suffixes do not count, nor how accents are stored."""

    def __init__(self, names: Sequence[str]) -> None:
        self._parts = [_parts(name) if name else () for name in names]
        self._published: dict[str, int] = {}
        self._by_stem: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            published = match_name(name)
            if published is not None:
                self._published.setdefault(published.picture, i)
            if name:
                self._by_stem.setdefault(self._parts[i][-1], []).append(i)

    def find(self, picture: str | Path) -> int | None:
        """The place of the image's name; None if it is not there, or not to be told apart."""
        place = Path(picture).absolute()
        own = match_name(place.as_posix())
        if own is not None and own.picture in self._published:
            return self._published[own.picture]
        wanted, alike = _parts(place), self.alike(picture)
        ends = [i for i in alike if _ends_with(wanted, self._parts[i])]
        if ends:
            return max(ends, key=lambda i: len(self._parts[i]))
        return alike[0] if len(alike) == 1 else None

    def alike(self, picture: str | Path) -> list[int]:
        """The places of names with the image's own file name, whatever their folders."""
        return self._by_stem.get(_parts(picture)[-1], [])


def _parts(name: str | Path) -> tuple[str, ...]:
    """A path's parts, the file's suffix aside, accents in one form."""
    path = Path(unicodedata.normalize("NFC", str(name).replace("\\", "/")))
    return (*path.parts[:-1], path.stem)


def _ends_with(whole: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return whole[-len(end) :] == end


def write_pose_json(path: str | Path, frames: Sequence[Frame]) -> None:
    """Write frames in our own form, which ``read_poses`` reads back (to a thousandth pixel)."""
    nodes = [_node(frame) for frame in frames]
    with writing(path):
        write_text(Path(path), json.dumps(nodes[0] if len(nodes) == 1 else {"frames": nodes}))


def _node(frame: Frame) -> dict[str, Any]:
    size = {} if frame.size is None else {"width": frame.size[1], "height": frame.size[0]}
    decimals = _DECIMALS if frame.size else 2 * _DECIMALS
    people = []
    for points in frame.people:
        rounded = np.round(points, decimals).tolist()
        people.append([None if row[0] != row[0] else row for row in rounded])
    if len(people) == 1:
        return {"keypoints": people[0], **size}
    return {"people": [{"keypoints": person} for person in people], **size}
