"""The people of one image, as all readers of keypoint files return them, and our JSON form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import write_text, writing
from xmdpt_cli.pose.keypoints import Keypoints, Size

_DECIMALS = 3  # of a pixel, in what we write


@dataclass(frozen=True)
class ImagePoses:
    """The people of one image: keypoints in the order of ``JOINTS``, NaN for missing joints."""

    people: list[Keypoints]  # (18, 2) each, in the file's order
    size: Size | None  # (height, width) if in pixels; None: fractions, unless ``unsized``
    where: str  # the file, and the frame if it has several
    name: str = ""  # of the image, in the file
    unsized: bool = False  # in pixels, and the file does not state the size of the image
    shapeless: bool = False  # in fractions, and the file does not state the size of the image
    separate: bool = False  # not a frame of a video

    def check_seen(self) -> ImagePoses:
        """Returns itself; XmdptError if no joint is found in it."""
        if not any(np.isfinite(points).any() for points in self.people):
            raise XmdptError(f"{self.where}: no person in it (no joint was found)")
        return self


def write_pose_json(path: str | Path, frames: Sequence[ImagePoses]) -> None:
    """Write frames in our JSON form, which ``read_poses`` reads (to a thousandth of a pixel)."""
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
