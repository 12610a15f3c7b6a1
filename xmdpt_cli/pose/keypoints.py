"""The 18 keypoints of a person, and the coordinate frame of the published annotations.

Keypoints are float64 (18, 2), x and y in pixels of their image, or as fractions of its width and
height; NaN where a joint is missing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keypoints = NDArray[np.float64]
Size = tuple[int, int]  # (height, width)

# The order of OpenPose's COCO model, as in the DeepFashion annotation files.
JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
LIMBS = (  # later limbs are blended over earlier ones (published rendering)
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
FACE = ("nose", "right_eye", "left_eye", "right_ear", "left_ear")

# of the annotations: a 176 x 256 image, alone or in the middle of a padded 256 x 256 image
FRAME_WIDTH, FRAME_HEIGHT, PADDING = 176.0, 256.0, 40.0


def joint_indices(*names: str) -> list[int]:
    """Rows of the named joints."""
    return [JOINTS.index(name) for name in names]


def seen(points: Keypoints) -> NDArray[np.bool_]:
    """(..., 18, 2) -> (..., 18): whether each joint was found."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def extent(points: Keypoints) -> float:
    """The size of a person: the area of the box around the found joints, 0 without joints."""
    joints = points[seen(points)]
    return float(np.prod(joints.max(axis=0) - joints.min(axis=0))) if len(joints) else 0.0


def size_hw(size: int | Size) -> Size:
    """``256`` or ``(H, W)`` -> (H, W)."""
    return (size, size) if isinstance(size, int) else size


def from_fractions(points: Keypoints, size: int | Size) -> Keypoints:
    """Fractions of width and height -> pixels of an image of ``size``."""
    height, width = size_hw(size)
    return points * np.array((width, height), dtype=np.float64)
