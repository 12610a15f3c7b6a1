"""What every reader of keypoint files returns, the people of one image; and a plain file of it."""

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
    """One image's people: keypoints in the order of ``JOINTS``, NaN for missing.

    ``size``: (height, width) of the image whose pixels they are, or None where they are
    fractions of its width and height (``shapeless``: and the file does not state these).
    ``where`` names the file, and the frame if it has several; ``name`` is what the file calls the
    image, "" if it does not.
    """

    people: list[Keypoints]  # (18, 2) each, in the file's order
    size: Size | None
    where: str
    name: str = ""
    unsized: bool = False  # in pixels, and the file does not state the size of its image
    shapeless: bool = False  # in fractions, and the file does not state the size of its image
    separate: bool = False  # an image of its own among others, not the next one of a video

    def check_seen(self) -> ImagePoses:
        """Itself; XmdptError if nobody is seen in it."""
        if not any(np.isfinite(points).any() for points in self.people):
            raise XmdptError(f"{self.where}: nobody in it (no joint was seen)")
        return self


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
