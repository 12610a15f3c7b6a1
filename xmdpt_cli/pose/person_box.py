"""The box around a person that frames it as DeepFashion's photographs do.

Measured on 128 annotated DeepFashion images (medians; fractions of the frame, which is
176:256; "head" is the highest of eyes, nose and ears):

| lowest joints seen | images | head at | neck at | lowest joint at |
|---|---|---|---|---|
| ankles | 38 | 0.084 | 0.207 | 0.893 |
| knees | 23 | 0.102 | 0.277 | 0.965 |
| hips | 67 | 0.113 | 0.312 | 0.781 |

The mean of a person's joints is at 0.51 of the width in all three (a tenth of the images below
0.46, a tenth above 0.56). Beside the outermost joint there is 0.31, 0.23 and 0.22 of the width on
the narrower side; in a tenth of the half-length images less than 0.10. The highest joint of any
kind is lower than 0.07 in nine tenths of all. Shoulders seen from the front are 0.25 of the height
apart in the half-length images, and the neck is 0.20 below the head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmdpt_cli.pose.keypoints import FACE, FRAME_HEIGHT, FRAME_WIDTH, JOINTS, Keypoints

ASPECT = FRAME_WIDTH / FRAME_HEIGHT  # width to height of the annotations' frame


class Box(NamedTuple):
    """A part of an image in its pixels; it may leave the image."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


class _Shot(NamedTuple):
    """A row of the table above."""

    lowest: tuple[str, ...]
    head: float
    neck: float
    end: float


_SHOTS = (
    _Shot(("right_ankle", "left_ankle"), 0.084, 0.207, 0.893),
    _Shot(("right_knee", "left_knee"), 0.102, 0.277, 0.965),
    _Shot(("right_hip", "left_hip"), 0.113, 0.312, 0.781),
)
_SHOULDERS = ("right_shoulder", "left_shoulder")
_PORTRAIT = _SHOTS[-1]  # of head and shoulders alone: as large as in the half-length images
_SHOULDERS_WIDE, _NECK_BELOW_HEAD = 0.25, 0.20
# smallest distance of a joint from the sides of the box
_BESIDE, _ABOVE = 0.10, 0.04


def person_box(keypoints: Keypoints, image_size: tuple[int, int]) -> Box:
    """Keypoints (18, 2) in pixels of an image of (H, W) -> the 176:256 box around the person.

    Its size follows from the measured margins; it is larger if joints would be outside (spread
    arms, a lying person). If the image cuts the body at its bottom, the box ends there too. At
    least one joint must be found.
    """
    assert np.isfinite(keypoints).all(axis=1).any(), "no joint to put a box around"
    shot, top, bottom = _vertical(keypoints)
    low, high = np.nanmin(keypoints, axis=0), np.nanmax(keypoints, axis=0)
    span = high - low
    # how high the box must be for every joint to be inside
    least = max(span[1] / (1 - 2 * _ABOVE), span[0] / (1 - 2 * _BESIDE) / ASPECT, 1.0)
    height = max(bottom - top, least)
    middle = (top + bottom) / 2
    top, bottom = middle - height / 2, middle + height / 2
    edge = float(image_size[0])
    if shot is not _SHOTS[0] and bottom > edge > high[1]:
        # the image cuts the body, and so does the box; its top does not move
        height = max(edge - top, least)
        top = edge - height
    top = _within(top, low[1] - _ABOVE * height, high[1] - (1 - _ABOVE) * height)
    width = height * ASPECT
    left = float(np.nanmean(keypoints[:, 0])) - width / 2
    left = _within(left, low[0] - _BESIDE * width, high[0] - (1 - _BESIDE) * width)
    return Box(left, top, left + width, top + height)


def box_around(boxes: list[Box]) -> Box:
    """The smallest 176:256 box around the boxes of a sequence, in which the figure moves."""
    left, top = min(b.left for b in boxes), min(b.top for b in boxes)
    right, bottom = max(b.right for b in boxes), max(b.bottom for b in boxes)
    return widened(Box(left, top, right, bottom))


def widened(box: Box) -> Box:
    """The smallest 176:256 box with ``box`` in its middle."""
    height = max(box.height, box.width / ASPECT)
    more_x, more_y = (height * ASPECT - box.width) / 2, (height - box.height) / 2
    return Box(box.left - more_x, box.top - more_y, box.right + more_x, box.bottom + more_y)


def _vertical(keypoints: Keypoints) -> tuple[_Shot, float, float]:
    """(kind of image, top, bottom) from the places of the head, or the neck, and the lowest
    joints."""
    rows = {name: float(y) for name, (_, y) in zip(JOINTS, keypoints, strict=True) if y == y}
    shot = next((shot for shot in _SHOTS if any(n in rows for n in shot.lowest)), None)
    head = min((rows[name] for name in FACE if name in rows), default=None)
    neck = min((rows[name] for name in ("neck", *_SHOULDERS) if name in rows), default=None)
    start, place = (head, "head") if head is not None else (neck, "neck")
    if shot is not None and start is not None:
        end = max(rows[name] for name in shot.lowest if name in rows)
        at = shot.head if place == "head" else shot.neck
        height = (end - start) / (shot.end - at)
        if height > 0:
            return shot, start - at * height, start + (1 - at) * height
    height = _from_shoulders(keypoints, head, neck)
    if height > 0 and start is not None:
        at = _PORTRAIT.head if place == "head" else _PORTRAIT.neck
        return _PORTRAIT, start - at * height, start + (1 - at) * height
    low, high = float(np.nanmin(keypoints[:, 1])), float(np.nanmax(keypoints[:, 1]))
    return shot or _PORTRAIT, low, high  # a few limbs fill the box


def _from_shoulders(keypoints: Keypoints, head: float | None, neck: float | None) -> float:
    """The height of a box in which head and shoulders have the usual size, 0 if unknown."""
    right, left = (keypoints[JOINTS.index(name)] for name in _SHOULDERS)
    wide = float(np.hypot(*(right - left))) / _SHOULDERS_WIDE
    tall = (neck - head) / _NECK_BELOW_HEAD if head is not None and neck is not None else 0.0
    return max(wide if wide == wide else 0.0, tall)


def _within(value: float, most: float, least: float) -> float:
    """``value`` clipped to [least, most]."""
    return float(min(max(value, least), most))
