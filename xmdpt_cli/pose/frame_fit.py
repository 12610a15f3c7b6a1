"""How well a file's keypoints fit a coordinate frame: where people would be in their images.

Each frame turns the same values into other fractions of an image's sides. Only in the right frame
people are at the usual places: joints inside the image, the body where photographers place it, and
as large as usual. Measured by medians over all rows, so that a few odd rows do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.pose.frames import CoordinateFrame, Placement, Points, Sizes
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, Keypoints, joint_indices, seen

Values = Any  # a number, or an array of them, one a row

_MARGIN = 0.05  # of a side: estimators place joints so far outside of an image
INSIDE = 0.9  # share of the joints that must be inside
_COST_OUTSIDE = 8.0  # if all joints are outside
_APART = 1.25  # how much more than the best frame another must cost to be excluded, for one row
_ENOUGH = 16  # rows from which on a quarter of that is enough
_FEW = 0.1  # how much farther from the middle one person may be than the median of many
_ROUNDING = 0.015  # of a side: 2.6 pixels of 176
_SAME = 0.04  # of a side: frames whose joints all differ by less are equal
_MIXED, _FEW_ROWS = 0.1, 3  # share and number of rows from which on a file has two frames
_SPREAD = 0.3  # five times the spread of single people around the middle, 0.06
_FEW_JOINTS = 4  # rows with fewer joints are not measured
# of whether people stand
_UPPER = joint_indices("nose", "neck", "right_shoulder", "left_shoulder")
_HIPS = joint_indices("right_hip", "left_hip")
_LEGS = joint_indices("right_knee", "left_knee", "right_ankle", "left_ankle")
_DOWN, _LYING = 0.6, 0.9  # largest plausible share of people upside down, and lying
_FEW_PEOPLE, _MANY = 3, 20  # fewer people are not checked; of fewer than many _LYING holds


@dataclass(frozen=True)
class Fit:
    """The places of people in the images if the values are in ``frame``: medians over the rows."""

    frame: CoordinateFrame
    fractions: Points
    inside: float  # share of the joints
    x: float  # middle of a person
    y: float
    extent: float  # the larger side of a person's box
    cost: float
    plausible: bool
    costs: NDArray[np.float64]  # (N,) of each row, NaN for too few joints

    def __str__(self) -> str:
        return (
            f"{self.frame}: {self.inside:.0%} of the joints inside the image, people's centre at "
            f"({self.x:.2f}, {self.y:.2f}), their size {self.extent:.2f}"
        )


def measure(frame: CoordinateFrame, fractions: Points, placement: Placement) -> Fit | None:
    """Measure (N, 18, 2) fractions; None if no row has a joint, or a known image size."""
    found = seen(fractions)  # (N, 18)
    if not found.any():
        return None
    within = _within(fractions, _MARGIN)
    inside = float(within[found].mean())
    costs = np.full(len(fractions), np.nan)
    enough = found.sum(axis=1) >= _FEW_JOINTS
    if not enough.any():  # of a few joints only whether they are inside can be measured
        x, y = (float(v) for v in np.median(fractions[found], axis=0))
        return Fit(frame, fractions, inside, x, y, 0.0, 1 - inside, inside >= INSIDE, costs)
    people = fractions[enough]
    low, high = np.nanmin(people, axis=1), np.nanmax(people, axis=1)
    x, y = np.nanmean(people[:, :, 0], axis=1), (low + high)[:, 1] / 2
    extent = (high - low).max(axis=1)
    share = (within & found)[enough].sum(axis=1) / found[enough].sum(axis=1)
    costs[enough] = _cost(share, x, y, extent, placement)
    x, y, extent = (float(np.median(values)) for values in (x, y, extent))
    plausible = (
        inside >= INSIDE
        and extent >= placement.smallest
        and abs(x - placement.x[0]) <= placement.off[0] + _FEW / np.sqrt(len(people))
        and abs(y - placement.y[0]) <= placement.off[1]
    )
    cost = float(_cost(inside, x, y, extent, placement))
    return Fit(frame, fractions, inside, x, y, extent, cost, plausible, costs)


def _within(fractions: Points, margin: float) -> NDArray[np.bool_]:
    """(..., 18, 2) -> (..., 18): whether each joint is in the image; False for missing joints."""
    return np.asarray(((fractions >= -margin) & (fractions <= 1 + margin)).all(axis=-1))


def _cost(inside: Values, x: Values, y: Values, extent: Values, placement: Placement) -> Values:
    """The distance of people from the usual places, for each row or for the medians."""
    return (
        _COST_OUTSIDE * (1 - inside)
        + abs(x - placement.x[0]) / placement.x[1]
        + abs(y - placement.y[0]) / placement.y[1]
        + np.maximum(0.0, placement.usual - extent) / placement.x[1]
    )


def fits(raw: Points, sizes: Sizes | None, placement: Placement) -> list[Fit]:
    """The fit of every frame that can be tried, the best first; empty for rows without joints."""
    found = []
    for frame in placement.frames:
        if frame.of_images and (sizes is None or not np.isfinite(sizes).any()):
            continue
        fit = measure(frame, frame.fractions(raw, sizes), placement)
        if fit is not None:
            found.append(fit)
    return sorted(found, key=lambda fit: (not fit.plausible, fit.cost))


def rivals(found: list[Fit], apart: float = _APART) -> list[Fit]:
    """The plausible fits that are nearly as good as the best and have other places of joints.

    ``apart``: how much more they may cost, for a file of one row."""
    best, rows = found[0], len(found[0].fractions)
    margin = apart / np.sqrt(min(rows, _ENOUGH))
    return [
        fit
        for fit in found[1:]
        if fit.plausible and fit.cost < best.cost + margin and differ(best, fit)
    ]


def of_another(found: list[Fit], placement: Placement) -> tuple[Fit, NDArray[np.bool_]] | None:
    """A frame that fits many rows better than the best frame, and which rows; None if there is
    none."""
    best = found[0]
    others = [(fit, best.costs > fit.costs + _APART) for fit in found[1:]]
    many = [(f, rows) for f, rows in others if rows.sum() >= _FEW_ROWS and rows.mean() > _MIXED]
    return max(many, key=lambda o: (o[0].frame in placement.published, o[1].sum()), default=None)


def differ(one: Fit, other: Fit) -> bool:
    """Whether a joint has other places in two fits."""
    return bool(np.nanmax(np.abs(one.fractions - other.fractions)) >= _SAME)


def aside(fit: Fit, placement: Placement) -> bool:
    """Whether people of many rows are farther from the middle in x than by chance."""
    rows = len(fit.fractions)
    allowed = max(placement.narrow, _SPREAD / np.sqrt(rows))
    return bool(placement.narrow and rows >= _ENOUGH and abs(fit.x - placement.x[0]) > allowed)


def beyond(fit: Fit) -> tuple[int, float]:
    """(number of joints, share of them that are outside of the image by more than rounding)."""
    within = _within(fit.fractions, _ROUNDING)[seen(fit.fractions)]
    return len(within), 1 - float(within.mean())


def mostly_outside(fractions: Keypoints) -> bool:
    """Whether more than half of the joints (18, 2) of a person lie outside of the image."""
    present = seen(fractions)
    return bool(present.any() and _within(fractions, _MARGIN)[present].mean() < 0.5)


def not_upright(fractions: NDArray[np.float64]) -> str:
    """(N, 18, 2) -> a description of people who do not stand upright, "" if most do.

    In images of 176:256, as DeepFashion's. Fewer than three people are not checked.
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
    if people < _FEW_PEOPLE:
        return ""
    if down > (_DOWN if people >= _MANY else _LYING) * people:
        return f"{down} of {people} people are upside down (their heads below their hips)"
    if lying > _LYING * people:
        return f"{lying} of {people} people lie (their heads beside their hips)"
    return ""


def _middle(points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    joints = points[seen(points)]
    return joints.mean(axis=0) if len(joints) else None
