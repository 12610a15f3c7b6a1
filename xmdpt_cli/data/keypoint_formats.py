"""Read the poses of a file in any of the field's formats; write them in a plain one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.data.keypoint_json import Frame, read_json
from xmdpt_cli.data.lists import (
    HEADER,
    is_padded,
    read_own_annotations,
    read_pose_txt,
    to_fractions,
)
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing

__all__ = ["SUFFIXES", "Frame", "read_poses", "write_pose_json"]

SUFFIXES = (".json", ".txt", ".csv")
_DECIMALS = 3  # of a pixel, in what we write


def read_poses(path: str | Path) -> list[Frame]:
    """The frames of a keypoints file, at least one, each with at least one person.

    ``.json``: OpenPose's (18 or 25 joints; of one picture, or a list of them), COCO's (17), or
    our own form. ``.txt``: one pose in the padded 256 frame. ``.csv``: the published annotation
    rows, a frame each. Of the last two the coordinates are fractions of the 176 x 256 picture.
    Raises XmdptError naming the file and frame, what was found and what is understood.
    """
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
    if suffix == ".json":
        return read_json(path)
    return _read_txt(path) if suffix == ".txt" else _read_csv(path)


def _read_txt(path: Path) -> list[Frame]:
    try:
        points = read_pose_txt(path)
    except (OSError, ValueError) as err:
        raise XmdptError(
            f"{path}: {err}", "a pose in .txt is 18 lines `x y`, -1 -1 for a joint not seen"
        ) from None
    return [_frame(points, str(path))]


def _read_csv(path: Path) -> list[Frame]:
    rows, problems = read_own_annotations(path)
    broken = [problem for problem in problems if not problem.kept]
    if broken or not rows:
        where, why = (broken[0].file, broken[0].reason) if broken else (str(path), "no rows in it")
        raise XmdptError(
            f"{where}: {why}", f"poses in .csv are rows of {HEADER}, 18 numbers each, -1 not seen"
        )
    padded = is_padded(rows)
    return [
        _frame(to_fractions(points, padded), f"{path}, {name}") for name, points in rows.items()
    ]


def _frame(points: Keypoints, where: str) -> Frame:
    if not np.isfinite(points).any():
        raise XmdptError(f"{where}: nobody in it (no joint was seen)")
    return Frame([points], None, where)


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
