"""Whether people stand: what exchanged axes and an origin at the bottom look like."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.pose.pose_image import FRAME_HEIGHT, FRAME_WIDTH, JOINTS

_UPPER = [JOINTS.index(name) for name in ("nose", "neck", "right_shoulder", "left_shoulder")]
_HIPS = [JOINTS.index(name) for name in ("right_hip", "left_hip")]
_LEGS = [JOINTS.index(f"{side}_{name}") for name in ("knee", "ankle") for side in ("right", "left")]
_DOWN, _LYING = 0.6, 0.9  # share of the people who cannot all be so
_ENOUGH, _MANY = 3, 20  # people: one or two may do a handstand; of few nearly all must


def not_upright(fractions: NDArray[np.float64]) -> str:
    """(N, 18, 2) -> what is wrong with how people stand, empty if nothing.

    Sides are weighted as of DeepFashion's images (176 to 256). Nobody can tell from fewer than
    three people.
    """
    down = lying = people = 0
    for points in fractions * (FRAME_WIDTH, FRAME_HEIGHT):
        upper, lower = _middle(points[_UPPER]), _middle(points[_HIPS])
        if lower is None:
            lower = _middle(points[_LEGS])
        if upper is None or lower is None:
            continue
        x, y = lower - upper
        people += 1
        lying += abs(x) > abs(y)
        down += -y >= abs(x)
    if people < _ENOUGH:
        return ""
    if down > (_DOWN if people >= _MANY else _LYING) * people:
        return f"{down} of {people} people are upside down (their heads below their hips)"
    if lying > _LYING * people:
        return f"{lying} of {people} people lie (their heads beside their hips)"
    return ""


def _middle(points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    seen = points[np.isfinite(points).all(axis=1)]
    return seen.mean(axis=0) if len(seen) else None
