"""What fine-tuning did, to look at: truth, before, after, and the same heads enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmdpt_cli.images import Picture
from xmdpt_cli.pose.head import head_disc
from xmdpt_cli.pose.keypoints import Keypoints

COLUMNS = ("truth", "before", "after")
GAP, HEADER, SMALLEST = 4, 20, 160


class Rebuilt(NamedTuple):
    """One test picture and what the VAE made of it; all of one size."""

    truth: Picture
    before: Picture
    after: Picture
    keypoints: Keypoints


def before_after(rows: Sequence[Rebuilt]) -> Picture:
    """A sheet on white, a line for each picture; without a head its three places stay empty.

    Pictures under 160 px are enlarged pixel by pixel, heads to the same size, smoothly.
    """
    enlarge = max(1, -(-SMALLEST // rows[0].truth.shape[0]))
    side = rows[0].truth.shape[0] * enlarge
    cell = side + GAP
    sheet = Image.new("RGB", (6 * cell + 5 * GAP, HEADER + len(rows) * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column in range(6):
        name = COLUMNS[column % 3] + (", head" if column > 2 else "")
        pen.text((_left(column, cell), GAP), name, fill="black", font=font)
    for line, row in enumerate(rows):
        box = _head_box(row.keypoints, row.truth.shape[0])
        for column, picture in enumerate((row.truth, row.before, row.after)):
            image = Image.fromarray(np.ascontiguousarray(picture))
            top = HEADER + line * cell
            whole = image.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(whole, (_left(column, cell), top))
            if box is not None:
                head = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
                sheet.paste(head, (_left(column + 3, cell), top))
    return np.asarray(sheet)


def _left(column: int, cell: int) -> int:
    return GAP + column * cell + (3 * GAP if column > 2 else 0)


def _head_box(keypoints: Keypoints, side: int) -> tuple[float, float, float, float] | None:
    """The square around the head, (left, top, right, bottom) in pixels, inside the picture."""
    disc = head_disc(keypoints)
    if disc is None:
        return None
    x, y, radius = disc
    half = min(max(1.25 * radius, 4.0), side / 2)
    x, y = (min(max(value, half), side - half) for value in (x, y))
    return (x - half, y - half, x + half, y + half)
