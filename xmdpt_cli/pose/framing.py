"""Frame any photograph like the model's training images.

DeepFashion's images are 750 x 1101, their annotations 176 x 256 (width to height 0.681 and
0.6875); the published code squashes the whole image to a square. So an image must have that shape
before it is squashed, and show the person as large as DeepFashion does. A ``Fit`` is how it gets
that shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import ImageArray, resize_square
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, Keypoints
from xmdpt_cli.pose.padding import PADDED_BOX, is_padded_image
from xmdpt_cli.pose.person_box import ASPECT, Box, box_around, person_box, widened

Fit = Literal["auto", "squash", "pad", "person"]
FITS: tuple[str, ...] = get_args(Fit)

_SQUASHABLE = 0.10  # relative difference from 176:256 up to which "auto" squashes an image
_FAR = 0.5  # of the image's height: "auto" crops around a person whose box is smaller
_TINY = 64  # pixels of the box's narrower side that get a warning
_END = (0.03, 0.12)  # depth and length of the ends of a side, as fractions


class Framed(NamedTuple):
    """An image in the model's shape."""

    image: ImageArray  # uint8 (size, size, 3)
    keypoints: Keypoints | None  # (18, 2) in pixels of ``image``; None if they are unknown
    box: Box  # the part of the original, in its pixels; may extend beyond it
    note: str  # what was done


def frame(image: Image.Image, keypoints: Keypoints | None, size: int, fit: Fit = "auto") -> Framed:
    """Frame a photograph (RGB), and the keypoints of its person in its pixels, to ``size``.

    ``squash``: the whole image, as published. ``pad``: the whole image in the middle of a
    176:256 canvas. ``person``: the 176:256 box around the person (needs keypoints). ``auto``:
    squash if the image is within 10 % of that shape and the person, if known, is not far away;
    else person. DeepFashion's grey columns are removed first. Raises XmdptError if the fit is not
    possible.
    """
    check_fit_name(fit)
    check_size(image.size)
    shown, cut = _without_columns(image)
    if keypoints is not None:
        keypoints = keypoints - shown[:2]
        if not np.isfinite(keypoints).all(axis=1).any():
            keypoints = None
    poses = [] if keypoints is None else [keypoints]
    inside, note = _box(poses, (round(shown.height), round(shown.width)), fit)
    box = Box(*(inside[i] + shown[i % 2] for i in range(4)))
    square = _render(image.crop(_whole_pixels(shown)) if cut else image, inside, size)
    moved = None if keypoints is None else _to_square(keypoints, inside, size)
    note = f"grey columns cut off, {note}" if cut else note
    return Framed(square, moved, box, note)


def frame_poses(
    poses: Sequence[Keypoints], frame_size: tuple[int, int] | None, size: int, fit: Fit = "auto"
) -> tuple[list[Keypoints], str]:
    """Frame poses (18, 2) of one image size to pixels of a square of ``size``; also a note.

    ``frame_size``: (H, W) of the image of their pixels; None: they are fractions of a 176 x 256
    image. The fits are those of ``frame``. A sequence has one box around all its frames, in which
    the figure moves and keeps its size.
    """
    if frame_size is None:
        frame_size = (int(FRAME_HEIGHT), int(FRAME_WIDTH))
        poses = [points * frame_size[::-1] for points in poses]
    check_fit_name(fit)
    check_size(frame_size[::-1])
    if not all(np.isfinite(points).all(axis=1).any() for points in poses):
        raise XmdptError("a pose without a single joint", "give keypoints of a person")
    box, note = _box(poses, frame_size, fit)
    return [_to_square(points, box, size) for points in poses], note


def check_fit_name(fit: str) -> None:
    """ConfigError unless it is one of ``FITS``."""
    if fit not in FITS:
        raise ConfigError(f"no such fit: {fit}", f"one of {', '.join(FITS)}")


def check_size(size: tuple[int, int]) -> None:
    """XmdptError for an image of (width, height) less than 2 pixels wide or high."""
    if min(size) < 2:
        raise XmdptError(
            f"the image is {size[0]} x {size[1]} pixels", "give a photograph of a person"
        )


def _box(poses: Sequence[Keypoints], size: tuple[int, int], fit: str) -> tuple[Box, str]:
    """The part of an image of (H, W) that is shown, and its description."""
    height, width = size
    whole = Box(0.0, 0.0, float(width), float(height))
    person = box_around([person_box(points, size) for points in poses]) if poses else None
    fit = _chosen(person, size) if fit == "auto" else fit
    if fit == "person" and person is None:
        raise XmdptError(
            f"the fit person needs the place of the person ({width} x {height} image)",
            "give keypoints, or OpenPose's weights (--openpose DIR), or --fit pad",
        )
    if fit == "person" and person is not None:
        note = f"the person's {_size(person)} of {width} x {height}"
        return person, note + _tiny(person)
    if fit == "pad":
        return widened(whole), f"{width} x {height} padded to {_size(widened(whole))}{_tiny(whole)}"
    return whole, f"the whole {width} x {height} squashed{_tiny(whole)}"


def _chosen(person: Box | None, size: tuple[int, int]) -> str:
    """The fit of "auto"."""
    height, width = size
    squashable = 1 / (1 + _SQUASHABLE) <= width / height / ASPECT <= 1 + _SQUASHABLE
    if person is not None:
        return "squash" if squashable and person.height >= _FAR * height else "person"
    if squashable:
        return "squash"
    raise XmdptError(
        f"the image is {width} x {height}; the model is for images of the shape 176 x 256",
        "`--fit pad` adds borders, `--fit squash` distorts; with keypoints or OpenPose's weights "
        "(--openpose DIR) `--fit person` cuts the person out",
    )


def _size(box: Box) -> str:
    return f"{box.width:.0f} x {box.height:.0f}"


def _tiny(box: Box) -> str:
    if min(box.width, box.height) >= _TINY:
        return ""
    return f" (only {_size(box)} pixels: expect little detail)"


def _without_columns(image: Image.Image) -> tuple[Box, bool]:
    """The part of an image without grey columns, and whether it has such columns."""
    if all(is_padded_image(image)):
        return Box(*(float(side) for side in PADDED_BOX)), True
    return Box(0.0, 0.0, float(image.width), float(image.height)), False


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    return round(box.left), round(box.top), round(box.right), round(box.bottom)


def _to_square(keypoints: Keypoints, box: Box, size: int) -> Keypoints:
    return (keypoints - box[:2]) * (size / box.width, size / box.height)


def _render(image: Image.Image, box: Box, size: int) -> ImageArray:
    """``box`` of the image squashed to ``size``; filled with background beyond the image."""
    if box == (0, 0, *image.size):
        return resize_square(image, size)
    scale = np.array((size / box.width, size / box.height))
    # the square's pixels that lie completely in the image
    first = np.ceil(np.maximum(-np.array(box[:2]), 0) * scale - 1e-6).astype(int)
    beyond = np.maximum(np.array(box[2:]) - image.size, 0)
    last = size - np.ceil(beyond * scale - 1e-6).astype(int)
    if (last <= first).any():
        raise XmdptError(
            f"nothing of the {image.width} x {image.height} image would be seen in a box of "
            f"{_size(box)}",
            "is it a photograph of a person, and are the keypoints, if given, of this image?",
        )
    part = (*(first / scale + box[:2]), *(last / scale + box[:2]))
    limits = (*image.size, *image.size)
    part = tuple(float(min(max(side, 0), limit)) for side, limit in zip(part, limits, strict=True))
    shape = (int(last[0] - first[0]), int(last[1] - first[1]))
    inner = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box=part), dtype=np.uint8)
    return _filled(inner, size, (int(first[0]), int(first[1])))


def _filled(inner: ImageArray, size: int, at: tuple[int, int]) -> ImageArray:
    """``inner`` at (x, y) of a square, surrounded by the background colour of each of its sides.

    The background of a side is measured at its two ends, since the person may be in its middle.
    """
    x, y = at
    height, width = inner.shape[:2]
    across = inner.swapaxes(0, 1)
    canvas = np.zeros((size, size, 3), dtype=np.uint8)
    canvas[:, :x] = _background(across)
    canvas[:, x + width :] = _background(across[::-1])
    canvas[:y, :] = _background(inner)
    canvas[y + height :, :] = _background(inner[::-1])
    canvas[y : y + height, x : x + width] = inner
    return canvas


def _background(rows: ImageArray) -> ImageArray:
    """The median colour at the ends of the first rows."""
    deep, long = (
        max(1, round(share * side)) for share, side in zip(_END, rows.shape, strict=False)
    )
    ends = np.concatenate((rows[:deep, :long], rows[:deep, -long:])).reshape(-1, 3)
    return np.median(ends, axis=0).astype(np.uint8)
