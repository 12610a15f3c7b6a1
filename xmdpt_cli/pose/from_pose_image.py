"""Recognise pose images (skeletons on black) and recover their joints.

Joints can be rendered at any size, and token conditioning needs them.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import OPACITY, PALETTE, RADIUS, Manner
from xmdpt_cli.pose.joint_search import DARK, Search, Work, brightest
from xmdpt_cli.pose.keypoints import JOINTS, LIMBS, Keypoints, seen

# A pose image has thin coloured lines on black. Measured on pose images of 192 to 1024 pixels and
# JPEG files of them, against photographs, also dark ones.
_BLACK = 24  # of 255: black pixels of JPEG files are not brighter
_BACKGROUND = 0.6  # share of the image that is black
_SATURATED = 0.75  # share of the rest with a channel below a third of the brightest
_OF_PALETTE = 0.45  # share of the rest in a joint's or limb's colour; others are edges and blends
_NEAR = 48  # of 255: largest difference of a colour in scaled images

_NATIVE = 0.15  # relative difference up to which line widths are the published ones
_EXACT = 3  # of 255: largest difference in images that are neither scaled nor JPEG files
_CLOSE = 20  # of 255: largest difference of a colour in images that are not scaled
_REFINEMENTS = 3  # of the scale
_MOST_PIXELS = 2048 * 2048  # larger images are scaled down
_TRUNCATED = 1 / 3  # pixel: rendering truncates, so joints are beyond the found places by this
_SAME = 2 * _NEAR  # of 255: a pixel that differs by less, mostly at an edge, is explained
# explained share of a pose image: required; sufficient (scaled images reach 0.9); exact
_EXPLAINED, _GOOD, _SURE = 0.6, 0.91, 0.96
_LIMB = 2.0  # pixels: smallest half width of a limb
_HEAP = 1.2  # ratio of the width of overlapping discs to that of limbs
_EQUAL = 0.03  # relative difference of line widths at which the scale is final

LEAST_JOINTS, FEW_JOINTS = 4, 9


def is_pose_image(image: ImageArray) -> bool:
    """Whether an image uint8 (H, W, 3) shows a skeleton in the usual colours on black."""
    bright = brightest(image)
    lines = image[bright >= DARK].astype(np.float32)
    if len(lines) < 16 or (bright < _BLACK).mean() < _BACKGROUND:
        return False
    saturated = lines.min(axis=1) < lines.max(axis=1) / 3
    return bool(
        saturated.mean() >= _SATURATED and (_colour_off(lines) <= _NEAR).mean() >= _OF_PALETTE
    )


def _hex(joint: int) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in PALETTE[joint])


_UNDERSTOOD = (
    "understood are one person's 18 joints in the colours of OpenPose's drawings, from "
    f"nose {_hex(0)} over neck {_hex(1)} to left ear {_hex(17)} (published X-MDPT), or "
    "with red and blue swapped (controlnet-aux); better give the keypoints as JSON"
)


def _has_lines(image: ImageArray) -> bool:
    """Whether most of the skeleton is at least two pixels wide, and not noise."""
    lines = (brightest(image) >= DARK).astype(np.uint8)
    solid = cv2.morphologyEx(lines, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return bool(solid.sum() >= lines.sum() / 2)


def _colour_off(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The difference of pixels (n, 3) to the closest colour of a joint, or of a limb on black."""
    off = np.full(len(pixels), np.inf, dtype=np.float32)
    for colour in (*PALETTE, *(OPACITY * PALETTE)):
        np.minimum(off, np.abs(pixels - colour).max(axis=1), out=off)
    return off


def pose_image_keypoints(image: ImageArray) -> Keypoints | None:
    """The joints, (18, 2) in pixels of a pose image of one person; None for other images.

    Supports the published rendering and controlnet-aux's at any size, each also with red and blue
    swapped. NaN for joints that are not rendered, or not found. The error is below 2 pixels of 256
    for nearly all joints. Raises XmdptError for other pose images, such as of several people.
    """
    if not is_pose_image(image):
        return None
    if not _has_lines(image):
        raise XmdptError("colours of a pose image, but no lines or discs of one", _UNDERSTOOD)
    corner, shown = _cropped(image)
    smaller = max(1.0, (shown.shape[0] * shown.shape[1] / _MOST_PIXELS) ** 0.5)
    if smaller > 1:
        shown = _scaled(shown, 1 / smaller)
    # lines wider than the published four pixels on either side: the image was enlarged
    scale = _line_width(shown) / (2 * RADIUS + 1)
    if scale <= 0 or abs(scale - 1) < _NATIVE:
        scale = 1.0
    scale = max(scale, (shown.shape[0] * shown.shape[1] / _MOST_PIXELS) ** 0.5 if scale < 1 else 0)
    work = Work(round(shown.shape[0] * shown.shape[1] / scale**2))
    kinds = [
        (image, manner, _search(image, manner, scale, work).explained(_SAME, hands=True))
        for image in (shown, np.ascontiguousarray(shown[:, :, ::-1]))
        for manner in Manner
    ]
    best = _Found(np.full((len(JOINTS), 2), np.nan), 0.0)
    for image, manner, _ in sorted(kinds, key=lambda kind: -kind[2])[:2]:
        found = _recover(image, manner, scale, work)
        best = max(best, found, key=lambda found: found.explained)
        if best.explained >= _GOOD:
            break
    if best.explained < _EXPLAINED:
        raise XmdptError(
            f"a pose image, but joints that render it were not found ({best.explained:.0%} of it)",
            _UNDERSTOOD,
        )
    return best.points * smaller + corner


class _Found(NamedTuple):
    points: Keypoints  # in pixels of the searched image
    explained: float  # share of the image that the rendering of the joints explains


def _search(image: ImageArray, manner: Manner, scale: float, work: Work) -> Search:
    """A search of an image whose lines are ``scale`` times as wide as rendered, scaled back."""
    if scale == 1.0:
        lines = image[brightest(image) >= DARK].astype(np.float32)
        exact = (_colour_off(lines) <= _EXACT).mean() >= _OF_PALETTE
        return Search(image, manner, _CLOSE if exact else _NEAR, work)
    return Search(_scaled(image, 1 / scale), manner, _NEAR, work)


def _recover(image: ImageArray, manner: Manner, scale: float, work: Work) -> _Found:
    """The joints, at the scale at which their rendering is closest."""
    found = _Found(np.full((len(JOINTS), 2), np.nan), 0.0)
    for _ in range(_REFINEMENTS):
        state = _search(image, manner, scale, work)
        state.finish()
        explained = state.explained(_SAME)
        if explained > found.explained:
            per_pixel = np.array(image.shape[1::-1]) / state.rendered.shape[1::-1]
            found = _Found((state.points + _TRUNCATED) * per_pixel, explained)
        wider = state.wider()
        if explained >= _SURE or abs(wider - 1) < _EQUAL or not 0.2 < wider * scale < 20:
            break  # exact, or lines too wide or narrow for a pose image
        scale *= wider
    return found


def _scaled(image: ImageArray, factor: float) -> ImageArray:
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kind), dtype=np.uint8)


def _cropped(image: ImageArray) -> tuple[tuple[int, int], ImageArray]:
    """The part of an image that is not black with a margin, after its (x, y) corner."""
    rows, columns = np.nonzero(brightest(image) >= DARK)
    margin = 4 * RADIUS
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    part = image[top : rows.max() + margin + 1, left : columns.max() + margin + 1]
    return (int(left), int(top)), np.ascontiguousarray(part)


def _line_width(image: ImageArray) -> float:
    """The width in pixels of the widest limb or joint.

    Hands are overlapping discs in the colour of a joint: then only limbs are measured.
    """
    limbs, joints = (
        max(_half_width(image, colour) for colour in colours)
        for colours in (OPACITY * PALETTE[: len(LIMBS)], PALETTE)
    )
    inside = limbs if limbs >= _LIMB and joints > _HEAP * limbs else max(limbs, joints)
    return 2 * inside - min(1.0, inside / 5)


def _half_width(image: ImageArray, colour: NDArray[np.float32]) -> float:
    low, high = np.maximum(colour - _NEAR, 0), np.minimum(colour + _NEAR, 255)
    part = cv2.inRange(image, low, high)
    return float(cv2.distanceTransform(part, cv2.DIST_L2, 5).max())


def check_joints(keypoints: Keypoints) -> str | None:
    """A warning for a pose of few joints, None if there are enough; XmdptError if too few."""
    found = int(seen(keypoints).sum())
    if found < LEAST_JOINTS:
        raise XmdptError(
            f"the pose has {found} of {len(JOINTS)} joints; it needs at least {LEAST_JOINTS}",
            "give a pose in which shoulders, hips and arms are seen",
        )
    if found < FEW_JOINTS:
        return f"the pose has only {found} of {len(JOINTS)} joints: the rest is left to the model"
    return None
