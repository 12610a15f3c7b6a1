"""The unit of the numbers of a keypoints file: fractions of an image's sides, or pixels.

All joints of a file decide together, so a single joint far outside changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.keypoints import Keypoints, Size, seen

Array = NDArray[np.float64]

_FRACTION = (-2.0, 3.0)  # of joints of a body partly outside; no image is so small in pixels
_MOST = 0.75  # share of the joints that must agree
_BEYOND = 0.1  # of a side: estimators place joints so far outside of their image


def all_joints(people: Iterable[Keypoints]) -> Array:
    """The found joints of all people, (n, 2)."""
    rows = [points[seen(points)] for points in people]
    return np.concatenate(rows) if rows else np.empty((0, 2))


def are_fractions(joints: Array, where: str) -> bool:
    """Whether joints (n, 2) are fractions of their image's sides, and not pixels.

    Raises XmdptError with the shares of both if they can be neither.
    """
    low, high = _FRACTION
    near = float(((joints >= low) & (joints <= high)).all(axis=1).mean()) if len(joints) else 0.0
    if near <= 1 - _MOST:
        return False
    inside = _inside(joints, (1, 1))
    if near >= _MOST and inside >= _MOST:
        return True
    x, y = joints.max(axis=0)
    raise XmdptError(
        f"{where}: the unit of the coordinates is ambiguous. Tried: fractions of the image's "
        f"sides ({_share(inside, joints)} joints lie inside of it), pixels ({_share(near, joints)} "
        f"lie within {low:g} to {high:g}); they go up to {x:g}, {y:g}",
        "all frames of a file are in one unit: pixels, with the image's size, or fractions, 0 to 1",
    )


def check_stated(people: Sequence[Keypoints], size: Size, where: str) -> None:
    """XmdptError if too many joints lie outside of an image of the size that the file states."""
    outside = _outside(people, size, 1 - _MOST)
    if outside:
        joints, reach = outside
        raise XmdptError(
            f"{where}: {joints} joints lie outside of an image of {size[1]} x {size[0]}, the size "
            f"that the file states ({reach}). Tried: pixels of that size, and fractions",
            "correct the width and height in the file; or remove them, and give the size of the "
            "image that the keypoints are of: --pose-size WxH",
        )


def check_guessed(people: Sequence[Keypoints], size: Size, where: str) -> None:
    """XmdptError if joints lie outside of an image of ``size``, which the file did not state."""
    outside = _outside(people, size, 0.05)
    if outside:
        joints, reach = outside
        raise XmdptError(
            f"{where}: {joints} joints lie outside of an image of {size[1]} x {size[0]} ({reach})",
            "the size is that of --pose-size, else of the image of the same name beside the file, "
            "else of the source; the keypoints are of another one: name it, --pose-size WxH",
        )


def _outside(people: Sequence[Keypoints], size: Size, most: float) -> tuple[str, str] | None:
    """("3 of 18", "coordinates go up to ...") if more than the share ``most`` of the joints lie
    outside of an image of ``size``, else None."""
    joints = all_joints(people)
    outside = 1 - _inside(joints, size[::-1])
    if not len(joints) or outside <= most:
        return None
    x, y = joints.max(axis=0)
    return _share(outside, joints), f"coordinates go up to {x:.0f}, {y:.0f}"


def _inside(joints: Array, sides: tuple[int, int]) -> float:
    """The share of joints (n, 2) in an image of (width, height), or slightly outside of it."""
    if not len(joints):
        return 0.0
    fractions = joints / np.array(sides)
    return float(((fractions >= -_BEYOND) & (fractions <= 1 + _BEYOND)).all(axis=1).mean())


def _share(part: float, joints: Array) -> str:
    return f"{round(part * len(joints))} of {len(joints)}"
