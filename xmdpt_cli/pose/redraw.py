"""Draw a pose again and again: a part of the picture only, in the manners that are in use."""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.images import Picture
from xmdpt_cli.pose.pose_image import COLOURS, JOINTS, LIMBS, OPACITY, RADIUS, Keypoints

PALETTE = np.array(COLOURS, dtype=np.float32)[:, ::-1]  # as the finished picture holds them
_JOINT_COLOURS = [tuple(row) for row in PALETTE.tolist()]
_DIMMED = [tuple(int(channel * OPACITY) for channel in row) for row in PALETTE.tolist()]


class Manner(Enum):
    """How joints and limbs cover one another; controlnet-aux also swaps red and blue."""

    BLENDED = "published: joints first, every limb blended over what is there"
    OPAQUE = "controlnet-aux: dimmed limbs first, then the joints, each over what is there"


class Window(NamedTuple):
    """A part of a picture, in its pixels; right and bottom are beyond it."""

    left: int
    top: int
    right: int
    bottom: int


def redraw(keypoints: Keypoints, window: Window, manner: Manner) -> Picture:
    """What ``draw_pose`` draws of keypoints (18, 2) inside ``window``, in either manner.

    Uint8 (height, width, 3) of the window. Several times as fast: limbs that were drawn before
    are remembered, those outside are left out.
    """
    left, top, right, bottom = window
    canvas = np.zeros((max(bottom - top, 0), max(right - left, 0), 3), dtype=np.uint8)
    places = keypoints.tolist()
    if manner is Manner.BLENDED:
        _joints(canvas, places, window)
    for limb, (a, b) in enumerate(LIMBS):
        if not all(math.isfinite(value) for value in (*places[a], *places[b])):
            continue
        polygon, (x, y, w, h) = _polygon(*places[a], *places[b])
        x0, y0 = max(x, left) - left, max(y, top) - top
        x1, y1 = min(x + w, right) - left, min(y + h, bottom) - top
        if x0 >= x1 or y0 >= y1:
            continue
        part = canvas[y0:y1, x0:x1]
        here = polygon - (x0 + left, y0 + top)
        if manner is Manner.BLENDED:
            filled = cv2.fillConvexPoly(part.copy(), here, _JOINT_COLOURS[limb])
            cv2.addWeighted(part, 1 - OPACITY, filled, OPACITY, 0, dst=part)
        else:
            part[:] = cv2.fillConvexPoly(part.copy(), here, _DIMMED[limb])
    if manner is Manner.OPAQUE:
        _joints(canvas, places, window)
    return canvas


def _joints(canvas: Picture, places: list[list[float]], window: Window) -> None:
    for joint in range(len(JOINTS)):
        x, y = places[joint]
        if math.isfinite(x) and math.isfinite(y):
            centre = (int(x) - window.left, int(y) - window.top)
            cv2.circle(canvas, centre, RADIUS, _JOINT_COLOURS[joint], thickness=-1)


@lru_cache(maxsize=10_000)
def _polygon(
    xa: float, ya: float, xb: float, yb: float
) -> tuple[NDArray[np.int32], tuple[int, int, int, int]]:
    """A limb's outline and the box (x, y, width, height) around it, as ``draw_pose`` has them."""
    angle = int(math.degrees(math.atan2(ya - yb, xa - xb)))
    axes = (int(math.hypot(ya - yb, xa - xb) / 2), RADIUS)
    centre = (int((xa + xb) / 2), int((ya + yb) / 2))
    polygon = np.asarray(cv2.ellipse2Poly(centre, axes, angle, 0, 360, 1))
    x, y, w, h = cv2.boundingRect(polygon)
    return polygon, (x, y, w, h)
