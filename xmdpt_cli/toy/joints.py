"""Find the head and the hands of a generated synthetic person, by rendering.

The person and the target pose are known, so the person is rendered with a part displaced, and the
displacement whose rendering is nearest to the generated image says where the part is. Works on
images of synthetic people only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.pixels import Pixels
from xmdpt_cli.toy.people.pose import Skeleton, reach
from xmdpt_cli.toy.people.stage import frame
from xmdpt_cli.toy.people.views import View, render_view

Shift = tuple[float, float]  # to the right and down, in heights of the image

#: part -> its joints: nose, eyes and ears, or shoulder, elbow and wrist
PARTS = {"head": [0, 14, 15, 16, 17], "right_hand": [2, 3, 4], "left_hand": [5, 6, 7]}
REACH = 0.10  # largest displacement, in heights of the image
_STEPS = (0.05, 0.025, 0.0125, 0.006)  # of the search, from coarse to fine
_KEPT = 3  # displacements of the first step that are refined
_OUTLIER = 64  # grey levels; larger differences count as this, as of a part that is missing
_VISIBLE = 0.4  # share of the pixels about a part that must show it


def refit_joints(
    generated: Pixels, view: View, parts: Iterable[str] = tuple(PARTS)
) -> dict[str, float]:
    """Distance of each visible part from where the skeleton has it, in image heights.

    ``parts``: of ``PARTS``. ``generated``: (H, W, 3) uint8, the person of ``view``, of any size,
    also squashed to a square. A distance above ``REACH`` is not measured, but is about ``REACH`` or
    more. The elbow is assumed to bend to the side to which it bends in the pose: where it does not,
    the distance of the hand may come out larger. A part that is hidden by the body or outside the
    image has no entry.
    """
    seen = [part for part in parts if is_visible(view, part)]
    return {part: float(np.hypot(*_nearest(generated, view, part))) for part in seen}


def displaced(view: View, part: str, shift: Shift) -> Skeleton:
    """The skeleton of the view with a part shifted in the image; the elbow follows the hand."""
    bones, scale, _ = frame(view.person, view.pose, height=256, width=176)
    step = np.array([*shift, 0.0]) * (256 / scale)
    joints = bones.joints.copy()
    if part == "head":
        joints[PARTS[part]] += step
        return replace(bones, joints=joints, head=bones.head + step)
    _, middle, last = PARTS[part]
    shoulder, elbow, wrist = bones.joints[PARTS[part]]
    side = elbow - 0.5 * (shoulder + wrist) + np.array([0.0, 0.0, -1e-4])
    joints[last] = wrist + step
    joints[middle], _ = reach(shoulder, joints[last], side, *view.person.body.arm)
    return replace(bones, joints=joints)


def is_visible(view: View, part: str) -> bool:
    """Whether the part is inside the image and not hidden behind the body."""
    here = render_view(view, height=128)
    bones, scale, origin = frame(view.person, view.pose, height=128, width=88)
    point = bones.head if part == "head" else bones.joints[PARTS[part][-1]]
    x, y = np.array(origin) + scale * point[:2]
    radius = (0.045 if part == "head" else 0.014) * scale
    rows, columns = np.mgrid[:128, :88]
    spot = np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius
    if spot.sum() < 0.6 * np.pi * radius**2:  # outside the image
        return False
    # what changes there when the part moves away
    changed = np.zeros(spot.shape, dtype=bool)
    for shift in ((0.12, 0.0), (-0.12, 0.0), (0.0, 0.12), (0.0, -0.12)):
        moved = render_view(view, height=128, joints=displaced(view, part, shift))
        changed |= np.abs(here.image.astype(int) - moved.image).max(axis=2) > 6
    return bool(changed[spot].mean() > _VISIBLE)


def _nearest(generated: Pixels, view: View, part: str) -> Shift:
    """The displacement whose rendering is nearest to the image, searched from coarse to fine."""
    height, width = generated.shape[:2]

    def distance(shift: Shift) -> float:
        rendering = render_view(view, height=height, joints=displaced(view, part, shift))
        return _difference(wanted, _blurred(rendering.image, width, blur))

    kept: list[Shift] = [(0.0, 0.0)]
    for i, step in enumerate(_STEPS):
        blur = 0.4 * step * height
        wanted = _blurred(generated, width, blur)
        around = range(-2, 3) if i == 0 else range(-1, 2)
        tried = {(x + step * a, y + step * b) for x, y in kept for a, b in product(around, around)}
        near = [shift for shift in sorted(tried) if np.hypot(*shift) < 1.2 * REACH]
        # the coarse differences are not sharp: refine more than one
        kept = sorted(near, key=distance)[: _KEPT if i == 0 else 1]
    return kept[0]


def _blurred(image: Pixels, width: int, sigma: float) -> NDArray[np.float32]:
    if image.shape[1] != width:
        image = cv2.resize(image, (width, image.shape[0]), interpolation=cv2.INTER_AREA)
    smooth = image.astype(np.float32)
    return cv2.GaussianBlur(smooth, (0, 0), sigma) if sigma > 0.3 else smooth


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.minimum(np.abs(a - b), _OUTLIER).mean())
