"""The 18 keypoints and the pose picture drawn from them.

Keypoints are float64 (18, 2), x and y in pixels of the picture they belong to, NaN where a
joint is missing. The pose picture is what the published X-MDPT is conditioned on: joints first,
then limbs blended one after the other, with OpenCV in uint8.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.images import Picture

Keypoints = NDArray[np.float64]

# The order of OpenPose's COCO model, as in the DeepFashion annotation files.
JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

# Order matters: later limbs are blended over earlier ones (published drawing).
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# Joint i and limb i take colour i; the finished picture's channels are reversed (published), so
# we draw with the colours reversed.
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip

RADIUS = 4  # of a joint, and half the width of a limb, at every picture size (published)
PUBLISHED_SIZE = 256  # the smallest pictures that width is meant for
OPACITY = 0.6  # of a limb over what is already there (published)

# The annotation frames: a 176 x 256 picture, alone or in the middle of a padded 256 x 256 one.
FRAME_WIDTH, FRAME_HEIGHT, PADDING = 176.0, 256.0, 40.0


def size_hw(size: int | tuple[int, int]) -> tuple[int, int]:
    """``256`` or ``(H, W)`` -> (H, W)."""
    return (size, size) if isinstance(size, int) else size


def raw_to_nan(raw: NDArray[np.floating] | list[list[float]]) -> Keypoints:
    """Keypoints as files hold them, (18, 2) with -1 for missing -> a copy with NaN for missing.

    The test is on the raw value, before any scaling, because a joint left of the 176 frame may
    well become -1 by scaling.
    """
    points = np.array(raw, dtype=np.float64).reshape(len(JOINTS), 2)
    points[((points == -1) | ~np.isfinite(points)).any(axis=1)] = np.nan
    return points


def from_fractions(points: Keypoints, size: int | tuple[int, int]) -> Keypoints:
    """Fractions of width and height -> pixels of a picture of ``size`` (an int or (H, W))."""
    height, width = size_hw(size)
    return points * np.array((width, height), dtype=np.float64)


def draw_pose(
    keypoints: NDArray[np.floating] | list[list[float]], size: int | tuple[int, int]
) -> Picture:
    """Draw keypoints, (18, 2) in pixels of ``size``, as uint8 (H, W, 3); no joints give black.

    A joint is missing where a coordinate is not finite or where both are -1. Divide by the
    maximum (0 stays 0) to get the tensor that DINOv2 sees in the published code.
    """
    height, width = size_hw(size)
    points = np.array(keypoints, dtype=np.float64).reshape(len(JOINTS), 2)
    seen = np.isfinite(points).all(axis=1) & ~(points == -1).all(axis=1)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    for joint in np.flatnonzero(seen):
        x, y = points[joint]
        cv2.circle(canvas, (int(x), int(y)), RADIUS, COLOURS[joint][::-1], thickness=-1)
    places = points.tolist()
    for limb, (a, b) in enumerate(LIMBS):
        if seen[a] and seen[b]:
            _blend_limb(canvas, places[a], places[b], COLOURS[limb][::-1])
    return canvas


def _blend_limb(canvas: Picture, a: list[float], b: list[float], colour: tuple[int, ...]) -> None:
    """Blend one limb, an ellipse from joint ``a`` to ``b`` (x, y each), into ``canvas``.

    Blending only the polygon's bounding box gives the same bytes as blending the whole
    picture: outside the polygon, 0.4 c + 0.6 c rounds to c.
    """
    length = math.hypot(a[1] - b[1], a[0] - b[0])
    angle = int(math.degrees(math.atan2(a[1] - b[1], a[0] - b[0])))
    centre = (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2))
    axes = (int(length / 2), RADIUS)
    polygon = np.asarray(cv2.ellipse2Poly(centre, axes, angle, 0, 360, 1))
    x, y, w, h = cv2.boundingRect(polygon)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, canvas.shape[1]), min(y + h, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    polygon -= (left, top)
    box = canvas[top:bottom, left:right]
    filled = cv2.fillConvexPoly(box.copy(), polygon, colour)
    cv2.addWeighted(box, 1 - OPACITY, filled, OPACITY, 0, dst=box)


def draw_pose_map(keypoints: Keypoints, size: int) -> Picture:
    """``draw_pose`` for pictures of any size: uint8 (size, size, 3).

    Joints and sticks are a fixed number of pixels wide, made for 256: at 64 px they hide each
    other. So small maps are drawn at 256 px or more and averaged down. From 256 px on this is
    ``draw_pose`` to the bit.
    """
    factor = -(-PUBLISHED_SIZE // size)
    points = np.where((keypoints == -1).all(axis=1, keepdims=True), np.nan, keypoints)
    drawn = draw_pose(points * factor, size * factor)
    return drawn if factor == 1 else cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
