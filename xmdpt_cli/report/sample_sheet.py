"""The contact sheet: what went in, what was asked for, what came out, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmdpt_cli.images import Picture

COLUMNS = ("source", "pose", "truth", "generated")
GAP, HEADER, SMALLEST = 4, 20, 128


def contact_sheet(rows: Sequence[Sequence[Picture]], columns: Sequence[str] = COLUMNS) -> Picture:
    """Rows of equal pictures on white, named above; beyond four rows two rows stand abreast.

    Pictures under 128 px are enlarged, pixel by pixel.
    """
    if not rows:
        return np.full((1, 1, 3), 255, np.uint8)
    parts = 2 if len(rows) > 4 else 1
    enlarge = max(1, SMALLEST // rows[0][0].shape[0])
    across, down = (rows[0][0].shape[axis] * enlarge + GAP for axis in (1, 0))
    part_width = len(columns) * across + 4 * GAP
    lines = -(-len(rows) // parts)
    size = (parts * part_width - 3 * GAP, HEADER + lines * down)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, row in enumerate(rows):
        left, top = GAP + i // lines * part_width, HEADER + i % lines * down
        for column, picture in enumerate(row):
            big = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
            sheet.paste(Image.fromarray(np.ascontiguousarray(big)), (left + column * across, top))
            if i % lines == 0:
                draw.text((left + column * across, GAP), columns[column], fill="black", font=font)
    return np.asarray(sheet)
