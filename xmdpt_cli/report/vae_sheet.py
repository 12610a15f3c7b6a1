"""Two reconstructions of test images beside the ground truth, and the heads enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.head import head_disc
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.report.contact_sheet import contact_sheet

SMALLEST = 160  # side of an image on the sheet


class Rebuilt(NamedTuple):
    """One test image and its reconstructions; all of one size."""

    ground_truth: ImageArray
    first: ImageArray
    second: ImageArray
    keypoints: Keypoints


def reconstructions(rows: Sequence[Rebuilt], first: str, second: str) -> ImageArray:
    """A sheet with a line for each image; the places of a head that is not known stay empty.

    ``first``, ``second``: the headings of both reconstructions ("before", "after"). Images under
    160 px are enlarged pixel by pixel, heads to the same size, smoothly.
    """
    size = rows[0].ground_truth.shape[0]
    side = size * max(1, -(-SMALLEST // size))
    names = ("ground truth", first, second)
    columns = (*names, *(f"{name}, head" for name in names))
    return contact_sheet([_line(row, side) for row in rows], columns)


def _line(row: Rebuilt, side: int) -> list[ImageArray | None]:
    """The images and their heads, (side, side, 3) each."""
    images = [Image.fromarray(image) for image in row[:3]]
    enlarged = [image.resize((side, side), Image.Resampling.NEAREST) for image in images]
    box = _head_box(row.keypoints, row.ground_truth.shape[0])
    if box is None:
        return [*map(np.asarray, enlarged), None, None, None]
    how = Image.Resampling.BICUBIC
    return list(map(np.asarray, [*enlarged, *(i.resize((side, side), how, box) for i in images)]))


def _head_box(keypoints: Keypoints, side: int) -> tuple[float, float, float, float] | None:
    """The square around the head, (left, top, right, bottom) in pixels, inside the image."""
    disc = head_disc(keypoints)
    if disc is None:
        return None
    x, y, radius = disc
    half = min(max(1.25 * radius, 4.0), side / 2)
    x, y = (min(max(value, half), side - half) for value in (x, y))
    return (x - half, y - half, x + half, y + half)
