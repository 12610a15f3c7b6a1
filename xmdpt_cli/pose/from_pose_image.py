"""A pose that a user gives as an image of a skeleton: is it one, and of which joints?

Joints are better than pixels: they can be drawn at any size, and token conditions need them.
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
from xmdpt_cli.pose.keypoints import JOINTS, LIMBS, Keypoints

# A drawn skeleton: thin coloured lines on black. Measured on drawings of 192 to 1024 pixels,
# JPEG files too, against photographs, dark ones too.
_BLACK = 24  # of 255: what a JPEG file makes of black
_BACKGROUND = 0.6  # of the image is black
_SATURATED = 0.75  # of what is not: colours with a channel below a third of the brightest
_OF_PALETTE = 0.45  # of what is not: a joint's or limb's colour; the rest are edges and blends
_NEAR = 48  # of 255: as far as a colour may be off, in images that were scaled

_NATIVE = 0.15  # how far line widths may be off and still be the published ones
_EXACT = 3  # of 255: neither scaled nor from a JPEG file
_CLOSE = 20  # of 255: as far as a colour may be off in a drawing that was not scaled
_REFINEMENTS = 3  # of the scale
_MOST_PIXELS = 2048 * 2048  # are searched; larger drawings are scaled down
_TRUNCATED = 1 / 3  # of a pixel: drawing truncates; so far are joints beyond what was found
_SAME = 2 * _NEAR  # of 255: so far off a pixel, at an edge mostly, still counts as explained
# Of what is drawn: to be believed; to look no further (scaled drawings reach 0.9); exact.
_EXPLAINED, _GOOD, _SURE = 0.6, 0.91, 0.96
_LIMB = 2.0  # pixels, half the width of a limb that is seen
_HEAP = 1.2  # how much wider than limbs discs are that lie over one another
_EQUAL = 0.03  # how far line widths are off in the end

LEAST_JOINTS, FEW_JOINTS = 4, 9


def is_pose_image(image: ImageArray) -> bool:
    """Whether an image uint8 (H, W, 3) is a drawn skeleton in the usual colours, on black."""
    bright = brightest(image)
    drawn = image[bright >= DARK].astype(np.float32)
    if len(drawn) < 16 or (bright < _BLACK).mean() < _BACKGROUND:
        return False
    saturated = drawn.min(axis=1) < drawn.max(axis=1) / 3
    return bool(
        saturated.mean() >= _SATURATED and (_colour_off(drawn) <= _NEAR).mean() >= _OF_PALETTE
    )


def _hex(joint: int) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in PALETTE[joint])


_UNDERSTOOD = (
    "understood are one person's 18 joints in the colours of OpenPose's drawings, from "
    f"nose {_hex(0)} over neck {_hex(1)} to left ear {_hex(17)} (published X-MDPT), or "
    "with red and blue swapped (controlnet-aux); better give the keypoints as JSON"
)


def _has_lines(image: ImageArray) -> bool:
    """Whether what is drawn is at least two pixels wide, mostly, and not noise."""
    drawn = (brightest(image) >= DARK).astype(np.uint8)
    solid = cv2.morphologyEx(drawn, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return bool(solid.sum() >= drawn.sum() / 2)


def _colour_off(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far pixels (n, 3) are from the next colour of a joint, or of a limb on black."""
    off = np.full(len(pixels), np.inf, dtype=np.float32)
    for colour in (*PALETTE, *(OPACITY * PALETTE)):
        np.minimum(off, np.abs(pixels - colour).max(axis=1), out=off)
    return off


def pose_image_keypoints(image: ImageArray) -> Keypoints | None:
    """The joints, (18, 2) in pixels of an image of one drawn pose; None if it is no such image.

    Understood at any size: the published drawing, and controlnet-aux's, each also with red and
    blue swapped. NaN for joints not drawn, or not recognised. Within 2 pixels of a drawing of
    256 for nearly all joints. XmdptError for other drawings, such as of several people.
    """
    if not is_pose_image(image):
        return None
    if not _has_lines(image):
        raise XmdptError("colours of a drawn pose, but no lines or discs of one", _UNDERSTOOD)
    corner, shown = _cropped(image)
    smaller = max(1.0, (shown.shape[0] * shown.shape[1] / _MOST_PIXELS) ** 0.5)
    if smaller > 1:
        shown = _scaled(shown, 1 / smaller)
    # wider lines than the published four pixels to either side: the drawing was enlarged
    scale = _line_width(shown) / (2 * RADIUS + 1)
    if scale <= 0 or abs(scale - 1) < _NATIVE:
        scale = 1.0
    scale = max(scale, (shown.shape[0] * shown.shape[1] / _MOST_PIXELS) ** 0.5 if scale < 1 else 0)
    work = Work(round(shown.shape[0] * shown.shape[1] / scale**2))
    kinds = [
        (one, manner, _begun(one, manner, scale, work).explained(_SAME, hands=True))
        for one in (shown, np.ascontiguousarray(shown[:, :, ::-1]))
        for manner in Manner
    ]
    best = _Found(np.full((len(JOINTS), 2), np.nan), 0.0)
    for one, manner, _ in sorted(kinds, key=lambda kind: -kind[2])[:2]:
        found = _recover(one, manner, scale, work)
        best = max(best, found, key=lambda one: one.explained)
        if best.explained >= _GOOD:
            break
    if best.explained < _EXPLAINED:
        raise XmdptError(
            f"a drawn pose, but joints that draw it were not found ({best.explained:.0%} of it)",
            _UNDERSTOOD,
        )
    return best.points * smaller + corner


class _Found(NamedTuple):
    points: Keypoints  # in pixels of what was searched
    explained: float  # share of what is drawn that the joints draw again


def _begun(image: ImageArray, manner: Manner, scale: float, work: Work) -> Search:
    """An image whose lines are ``scale`` times as wide as drawn, brought back to that."""
    if scale == 1.0:
        drawn = image[brightest(image) >= DARK].astype(np.float32)
        exact = (_colour_off(drawn) <= _EXACT).mean() >= _OF_PALETTE
        return Search(image, manner, _CLOSE if exact else _NEAR, work)
    return Search(_scaled(image, 1 / scale), manner, _NEAR, work)


def _recover(image: ImageArray, manner: Manner, scale: float, work: Work) -> _Found:
    """The joints, and the scale, with which the drawing comes closest."""
    found = _Found(np.full((len(JOINTS), 2), np.nan), 0.0)
    for _ in range(_REFINEMENTS):
        state = _begun(image, manner, scale, work)
        state.finish()
        explained = state.explained(_SAME)
        if explained > found.explained:
            per_pixel = np.array(image.shape[1::-1]) / state.drawn.shape[1::-1]
            found = _Found((state.points + _TRUNCATED) * per_pixel, explained)
        wider = state.wider()
        if explained >= _SURE or abs(wider - 1) < _EQUAL or not 0.2 < wider * scale < 20:
            break  # a pose has no lines of such a width
        scale *= wider
    return found


def _scaled(image: ImageArray, factor: float) -> ImageArray:
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kind), dtype=np.uint8)


def _cropped(image: ImageArray) -> tuple[tuple[int, int], ImageArray]:
    """((x, y), the part of an image from there that has something on it, with a margin)."""
    rows, columns = np.nonzero(brightest(image) >= DARK)
    margin = 4 * RADIUS
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    part = image[top : rows.max() + margin + 1, left : columns.max() + margin + 1]
    return (int(left), int(top)), np.ascontiguousarray(part)


def _line_width(image: ImageArray) -> float:
    """How wide, in pixels, the widest of the limbs and joints is.

    Hands that are drawn too are heaps of discs in the colour of a joint: then limbs alone count.
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
    """A warning if few of the 18 joints are seen, None if enough; XmdptError if too few."""
    seen = int(np.isfinite(keypoints).all(axis=1).sum())
    if seen < LEAST_JOINTS:
        raise XmdptError(
            f"the pose has {seen} of {len(JOINTS)} joints; it takes {LEAST_JOINTS} to say anything",
            "give a pose in which shoulders, hips and arms are seen",
        )
    if seen < FEW_JOINTS:
        return f"the pose has only {seen} of {len(JOINTS)} joints: the rest is left to the model"
    return None
