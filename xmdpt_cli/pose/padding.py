"""Distinguish the benchmark's padded 256x256 images (img.zip) from images squashed to 256x256."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from xmdpt_cli.errors import XmdptError

# the columns of the photograph: 750 x 1101 at 256 rows is 174 columns wide, in the middle
PADDED_SIZE, PADDED_BOX = (256, 256), (41, 0, 215, 256)
SAMPLE = 12  # images that are inspected
_READ_AT_MOST = 3 * SAMPLE  # some may be missing or broken
# The border has one grey (227 to 251 in real images, not always white), saved as JPEG: the standard
# deviation of its columns is at most 0.2, that of the photograph's beside it 0.9 and more. A
# squashed photograph in front of a white wall has no such step, and must not be cropped.
_FLAT, _ALIVE = 0.5, 0.7
_MARGIN = 2  # columns on either side of the step that JPEG blurs
_INSIDE = 6  # columns inside of the margin that must show the photograph


class Loadable(Protocol):
    """An image that can be opened."""

    def load(self) -> Image.Image: ...


def is_padded_image(image: Image.Image) -> tuple[bool, bool]:
    """(whether it is 256 x 256 with a flat border where the padding would be, whether there is a
    photograph beside the border)."""
    if image.size != PADDED_SIZE:
        return False, False
    columns = np.asarray(image, dtype=np.float32).std(axis=0).max(axis=1)  # (256,), of 3 channels
    left, right = PADDED_BOX[0] - _MARGIN, PADDED_BOX[2] + _MARGIN
    border = np.concatenate((columns[:left], columns[right:]))
    starts = (left + 2 * _MARGIN, right - 2 * _MARGIN - _INSIDE)
    inside = np.concatenate([columns[start : start + _INSIDE] for start in starts])
    return bool(border.max() < _FLAT), bool(inside.max() > _ALIVE)


def are_padded(images: Sequence[Loadable]) -> bool:
    """Whether these are padded images, according to a dozen of them, evenly spread.

    Nine tenths of the readable ones must have the border, half of them a photograph beside it.
    """
    read = bordered = stepped = 0
    for index in np.linspace(0, len(images) - 1, min(_READ_AT_MOST, len(images))).astype(int):
        try:
            border, step = is_padded_image(images[index].load())
        except XmdptError:
            continue
        read, bordered, stepped = read + 1, bordered + border, stepped + (border and step)
        if read == SAMPLE:
            break
    return read > 0 and bordered >= 0.9 * read and stepped >= 0.5 * read
