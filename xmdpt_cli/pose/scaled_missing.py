"""Missing joints that were scaled along with a file.

Files write -1, -1 for a joint not seen. Whoever scales a whole file (``table * scale``) makes of
that one negative pair, the same for all joints of an image, a little outside of its top left
corner. Joints are hardly ever there: such pairs are taken as missing, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SMALL = 0.03  # of the largest coordinate: -1 of 176 or 256 is 0.004 to 0.02 of it
_SAME = 0.002  # of the largest coordinate: as far as equal pairs are apart for rounding
_UNSCALED = 1e-3  # so near to -1 a coordinate was not scaled
_ROWS = 3  # in so many rows of a file one pair is no place

TAKEN = "taken as not seen"  # is in every note of ``said``
Pair = tuple[float, float]


def scaled_missing(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which joints (n, 2) of one person are a scaled -1, -1: both coordinates negative, and small
    against the largest or the same for two joints. (-1, -1) itself is none."""
    seen = np.isfinite(points).all(axis=1)
    # beside -1 are joints that a writer kept from looking missing; nobody scales by nearly 1
    unscaled = (np.abs(points + 1) < _UNSCALED).any(axis=1)
    negative: NDArray[np.bool_] = np.asarray(seen & (points < 0).all(axis=1) & ~unscaled)
    if not negative.any():
        return negative
    largest = max(0.0, float(points[seen].max()))
    found: NDArray[np.bool_] = np.asarray(negative & (-points <= _SMALL * largest).all(axis=1))
    places = np.flatnonzero(negative)
    near = np.abs(points[places, None] - points[None, places]).max(axis=2)
    found[places] |= (near <= _SAME * np.abs(points[seen]).max()).sum(axis=1) > 1
    return found


def repeated(rows: Sequence[NDArray[np.float64]]) -> set[Pair]:
    """The negative pairs that joints of several rows (n, 2) of a file share, of any size."""
    counts: dict[Pair, int] = {}
    for points in rows:
        negative = points[np.isfinite(points).all(axis=1) & (points < 0).all(axis=1)]
        for pair in {(float(x), float(y)) for x, y in negative}:
            counts[pair] = counts.get(pair, 0) + 1
    return {pair for pair, count in counts.items() if count >= _ROWS}


def said(name: str, pairs: Sequence[Pair]) -> list[str]:
    """A note on the pairs, one a joint, that were taken as missing; none for none."""
    if not pairs:
        return []
    low, high = np.min(pairs, axis=0), np.max(pairs, axis=0)
    where = f"({low[0]:.3g}, {low[1]:.3g})"
    if np.abs(high - low).max() > 0.01 * np.abs(low).max():
        where += f" to ({high[0]:.3g}, {high[1]:.3g})"
    joints = "1 joint" if len(pairs) == 1 else f"{len(pairs)} joints"
    are = "is" if len(pairs) == 1 else "are"
    return [f"{name}: {joints} at {where} {are} {TAKEN} (-1, -1, scaled with the file)"]


def pairs_of(points: NDArray[np.float64], missing: NDArray[np.bool_]) -> list[Pair]:
    """The coordinates of some joints of (n, 2)."""
    return [(float(x), float(y)) for x, y in points[missing]]
