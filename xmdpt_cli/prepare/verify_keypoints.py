"""Whether the keypoints of a prepared dataset are of the people in its images.

Images are not looked at: keypoints that were read in a wrong frame lie outside of the images,
beside the usual place of people, or upside down, over the whole dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.data.index import SamplePlace
from xmdpt_cli.pose.frame_fit import INSIDE, measure, mostly_outside, not_upright
from xmdpt_cli.pose.frames import ANYWHERE, FRACTIONS, PHOTOGRAPHS
from xmdpt_cli.prepare.findings import Finding
from xmdpt_cli.utils.deepfashion_names import match_name

KIND = "keypoints-implausible"
_HINT = (
    "look at sheet.png; the keypoint files were read in a wrong frame: prepare again into a new "
    "folder (the frame is decided from the values; --frame overrides)"
)
_OUTSIDE = 0.1  # share of the images whose keypoints may lie mostly outside
_ENOUGH = 3  # images


class People:
    """The keypoints of all shards, for one verdict."""

    def __init__(self) -> None:
        self._points: list[NDArray[np.float64]] = []
        self._published = self._views = 0

    def add(self, points: Sequence[NDArray[np.float64]], samples: Sequence[SamplePlace]) -> None:
        """One shard's: (18, 2) in pixels of each view."""
        self._points += points
        for sample in samples:
            self._views += len(sample.views)
            self._published += sum(match_name(v.file) is not None for v in sample.views.values())

    def report(self, resolution: int, say: Callable[[Finding], None], *, by_hand: bool) -> None:
        """Hand what is wrong with all of them to ``say``. ``by_hand``: somebody named the frame, so
        that people may be anywhere."""
        if not self._points:
            return
        message = self._verdict(np.stack(self._points) / resolution, by_hand)
        if message:
            say(Finding(KIND, message, _HINT))

    def _verdict(self, fractions: NDArray[np.float64], by_hand: bool) -> str:
        placement = PHOTOGRAPHS if 2 * self._published > self._views else ANYWHERE
        fit = measure(FRACTIONS, fractions, placement)
        if fit is None:
            return ""
        images = len(fractions)
        outside = sum(mostly_outside(points) for points in fractions)
        if outside > _OUTSIDE * images:
            return f"keypoints lie mostly outside the image, in {outside} of {images} images"
        if fit.inside < INSIDE:
            return f"{1 - fit.inside:.0%} of all joints lie outside of the images"
        if by_hand:
            return ""
        wrong = not_upright(fractions)
        if wrong:
            return wrong
        if images >= _ENOUGH and not fit.plausible:
            return (
                f"people are not where photographs have them: their centre is at ({fit.x:.2f}, "
                f"{fit.y:.2f}) of the sides, their size {fit.extent:.2f}"
            )
        return ""
