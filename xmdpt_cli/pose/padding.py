"""Tell the benchmark's padded 256x256 images (img.zip) from images squashed to 256x256."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from xmdpt_cli.errors import XmdptError

# The columns that hold the photograph: 750 x 1101 at 256 rows is 174 columns wide, in the middle.
PADDED_SIZE, PADDED_BOX = (256, 256), (41, 0, 215, 256)
SAMPLE = 12  # images that are looked at
_READ_AT_MOST = 3 * SAMPLE  # some may be missing or broken
# The border is one grey (227 to 251 on real images, not always white), saved as JPEG: its
# columns deviate by at most 0.2. The photograph beside it deviates by 0.9 and more; a squashed
# photograph before an empty white wall has no such step, and nothing of it may be cut off.
_FLAT, _ALIVE = 0.5, 0.7
_MARGIN = 2  # columns on either side of the step that JPEG blurs
_INSIDE = 6  # columns beyond the margin in which the photograph must show


class Loadable(Protocol):
    """An image that can be opened."""

    def load(self) -> Image.Image: ...


def is_padded_image(image: Image.Image) -> tuple[bool, bool]:
    """(256 x 256 with a flat border where the padding would be, and a photograph beside it)."""
    if image.size != PADDED_SIZE:
        return False, False
    columns = np.asarray(image, dtype=np.float32).std(axis=0).max(axis=1)  # (256,), of 3 channels
    left, right = PADDED_BOX[0] - _MARGIN, PADDED_BOX[2] + _MARGIN
    border = np.concatenate((columns[:left], columns[right:]))
    starts = (left + 2 * _MARGIN, right - 2 * _MARGIN - _INSIDE)
    inside = np.concatenate([columns[start : start + _INSIDE] for start in starts])
    return bool(border.max() < _FLAT), bool(inside.max() > _ALIVE)


def are_padded(images: Sequence[Loadable]) -> bool:
    """Whether these are padded images, judged from a dozen of them, evenly spread.

    Nine tenths of those that can be read must have the border, and half of them the step.
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
