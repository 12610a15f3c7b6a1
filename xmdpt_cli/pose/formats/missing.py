"""Which joints of a file are missing, by one rule for every format.

Files write null, -1 or (0, 0) for a joint that was not found. Scaling a whole file
(``table * scale``) turns -1, -1 into a negative pair that is the same for all joints of an image,
slightly outside of its top left corner. Joints are hardly ever at such places: these pairs are
missing too, and a note reports them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.pose.keypoints import Keypoints, seen
from xmdpt_cli.utils.counts import counted

#: joints with a lower score are missing. OpenPose finds joints from 0.05 or 0.1 on; MMPose and
#: DWPose give every joint a score and render those from 0.3 on.
MIN_SCORE = 0.1
_SMALL = 0.03  # of the largest coordinate: -1 of 176 or 256 is 0.004 to 0.02 of it
_SAME = 0.002  # of the largest coordinate: rounding differences between equal pairs
_UNSCALED = 1e-3  # a coordinate so near to -1 was not scaled
_ROWS = 3  # rows of a file that share a pair, from which on it is not a place

TAKEN = "taken as not seen"  # part of every ``scaled_note``
Array = NDArray[np.float64]
Pair = tuple[float, float]


def not_found(
    points: Array, scores: Array | None = None, min_score: float = MIN_SCORE
) -> NDArray[np.bool_]:
    """(n,): which joints (n, 2) of a file are missing.

    Not finite (null), -1, also where it was scaled with the file, exactly (0, 0) (a single 0 is a
    place), or a score (n,) below ``min_score``.
    """
    missing = ~seen(points) | scaled_missing(points)
    missing |= (points == -1).any(axis=1) | (points == 0).all(axis=1)
    if scores is not None:
        missing |= ~(scores >= min_score)
    return np.asarray(missing)


def without_missing(
    points: Array, scores: Array | None = None, min_score: float = MIN_SCORE
) -> Keypoints:
    """Joints (n, 2) with NaN where they are missing."""
    return np.where(not_found(points, scores, min_score)[:, None], np.nan, points)


def scaled_missing(points: Array) -> NDArray[np.bool_]:
    """(n,): which joints (n, 2) of one person are a scaled -1, -1: both coordinates negative, and
    small against the largest or the same for two joints. (-1, -1) itself is not."""
    present = seen(points)
    # joints beside -1 were moved by a writer so that they are not missing; scales are not about 1
    unscaled = (np.abs(points + 1) < _UNSCALED).any(axis=1)
    negative: NDArray[np.bool_] = np.asarray(present & (points < 0).all(axis=1) & ~unscaled)
    if not negative.any():
        return negative
    largest = max(0.0, float(points[present].max()))
    found: NDArray[np.bool_] = np.asarray(negative & (-points <= _SMALL * largest).all(axis=1))
    places = np.flatnonzero(negative)
    near = np.abs(points[places, None] - points[None, places]).max(axis=2)
    found[places] |= (near <= _SAME * np.abs(points[present]).max()).sum(axis=1) > 1
    return found


def remove_repeated(rows: Sequence[Keypoints]) -> list[Pair]:
    """Set negative pairs that several rows (n, 2) of a file share, of any size, to NaN in place.

    Returns these pairs, one a joint.
    """
    counts: Counter[Pair] = Counter()
    for points in rows:
        counts.update(set(pairs_of(points, seen(points) & (points < 0).all(axis=1))))
    shared = {pair for pair, count in counts.items() if count >= _ROWS}
    found: list[Pair] = []
    for points in rows if shared else ():
        missing = np.array([(float(x), float(y)) in shared for x, y in points])
        found += pairs_of(points, missing)
        points[missing] = np.nan
    return found


def scaled_note(name: str, pairs: Sequence[Pair]) -> list[str]:
    """A note on the pairs, one a joint, that are taken as missing; empty if there are none."""
    if not pairs:
        return []
    low, high = np.min(pairs, axis=0), np.max(pairs, axis=0)
    where = f"({low[0]:.3g}, {low[1]:.3g})"
    if np.abs(high - low).max() > 0.01 * np.abs(low).max():
        where += f" to ({high[0]:.3g}, {high[1]:.3g})"
    joints = counted(len(pairs), "joint")
    are = "is" if len(pairs) == 1 else "are"
    return [f"{name}: {joints} at {where} {are} {TAKEN} (-1, -1, scaled with the file)"]


def pairs_of(points: Array, which: NDArray[np.bool_]) -> list[Pair]:
    """The coordinates of some joints of (n, 2)."""
    return [(float(x), float(y)) for x, y in points[which]]
