"""The pose image: the 18 keypoints rendered as in the published X-MDPT.

First the joints, then the limbs, blended one after the other, with OpenCV in uint8.
``render_pose`` also supports controlnet-aux's manner, and renders only a part of an image.
"""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.keypoints import JOINTS, LIMBS, Keypoints, size_hw

# joint i and limb i have colour i, with its channels reversed (published)
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
RADIUS = 4  # of a joint, and half the width of a limb, at every image size (published)
PUBLISHED_SIZE = 256  # the smallest images with this radius
OPACITY = 0.6  # of a limb over the canvas (published)

PALETTE = np.array(COLOURS, dtype=np.float32)[:, ::-1]  # (18, 3), in the order of the pose image
_BRIGHT = [tuple(row) for row in PALETTE.tolist()]
_DIMMED = [tuple(int(channel * OPACITY) for channel in row) for row in PALETTE.tolist()]

Limb = tuple[NDArray[np.int32], tuple[int, int, int, int]]


class Manner(Enum):
    """The order and blending of joints and limbs; controlnet-aux also swaps red and blue."""

    BLENDED = "published: joints first, then each limb blended over the canvas"
    OPAQUE = "controlnet-aux: dimmed limbs first, then the joints, without blending"


class Window(NamedTuple):
    """A part of an image, in its pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def draw_pose(
    keypoints: NDArray[np.floating] | list[list[float]], size: int | tuple[int, int]
) -> ImageArray:
    """Render keypoints, (18, 2) in pixels of ``size``, as uint8 (H, W, 3), black without joints.

    A joint is missing if a coordinate is not finite or if both are -1. ``encoders.dino.pose_input``
    turns the image into DINOv2's input.
    """
    height, width = size_hw(size)
    points = np.array(keypoints, dtype=np.float64).reshape(len(JOINTS), 2)
    return render_pose(_with_nan(points), Window(0, 0, width, height))


def draw_pose_map(keypoints: Keypoints, size: int) -> ImageArray:
    """``draw_pose`` for images of any size: uint8 (size, size, 3).

    The width of joints and limbs in pixels is fixed: at 64 px they would hide each other. So small
    maps are rendered at 256 px or more and averaged down. From 256 px on this equals ``draw_pose``.
    """
    factor = -(-PUBLISHED_SIZE // size)
    large = draw_pose(_with_nan(keypoints) * factor, size * factor)
    return large if factor == 1 else cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


def _with_nan(keypoints: Keypoints) -> Keypoints:
    """Missing joints as NaN where they are -1, -1."""
    return np.where((keypoints == -1).all(axis=1, keepdims=True), np.nan, keypoints)


def render_pose(
    keypoints: Keypoints, window: Window, manner: Manner = Manner.BLENDED
) -> ImageArray:
    """The part of a pose image inside ``window``: uint8 (height, width, 3).

    ``keypoints``: (18, 2) in pixels of the whole image, NaN missing. Limbs are cached: a search for
    joints renders one pose hundreds of times with few changes.
    """
    left, top, right, bottom = window
    canvas = np.zeros((max(bottom - top, 0), max(right - left, 0), 3), dtype=np.uint8)
    places = keypoints.tolist()
    if manner is Manner.BLENDED:
        _draw_joints(canvas, places, window)
    for limb, (a, b) in enumerate(LIMBS):
        if not all(math.isfinite(value) for value in (*places[a], *places[b])):
            continue
        polygon, (x, y, w, h) = _limb(*places[a], *places[b])
        x0, y0 = max(x, left) - left, max(y, top) - top
        x1, y1 = min(x + w, right) - left, min(y + h, bottom) - top
        if x0 >= x1 or y0 >= y1:
            continue
        # blending the limb's bounding box equals blending the whole image: outside of the polygon
        # 0.4 c + 0.6 c rounds to c
        part = canvas[y0:y1, x0:x1]
        colour = _BRIGHT[limb] if manner is Manner.BLENDED else _DIMMED[limb]
        outline = np.subtract(polygon, (x0 + left, y0 + top), dtype=np.int32)
        filled = cv2.fillConvexPoly(part.copy(), outline, colour)
        if manner is Manner.BLENDED:
            cv2.addWeighted(part, 1 - OPACITY, filled, OPACITY, 0, dst=part)
        else:
            part[:] = filled
    if manner is Manner.OPAQUE:
        _draw_joints(canvas, places, window)
    return canvas


def _draw_joints(canvas: ImageArray, places: list[list[float]], window: Window) -> None:
    for joint, (x, y) in enumerate(places):
        if math.isfinite(x) and math.isfinite(y):
            centre = (int(x) - window.left, int(y) - window.top)
            cv2.circle(canvas, centre, RADIUS, _BRIGHT[joint], thickness=-1)


@lru_cache(maxsize=2000)
def _limb(xa: float, ya: float, xb: float, yb: float) -> Limb:
    """The outline of a limb, an ellipse, and its bounding box (x, y, width, height)."""
    angle = int(math.degrees(math.atan2(ya - yb, xa - xb)))
    axes = (int(math.hypot(ya - yb, xa - xb) / 2), RADIUS)
    centre = (int((xa + xb) / 2), int((ya + yb) / 2))
    polygon = np.asarray(cv2.ellipse2Poly(centre, axes, angle, 0, 360, 1))
    x, y, w, h = cv2.boundingRect(polygon)
    return polygon, (x, y, w, h)
