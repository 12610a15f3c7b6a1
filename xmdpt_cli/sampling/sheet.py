"""The contact sheet: what went in, what was asked for, what came out, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmdpt_cli.images import Picture

COLUMNS = ("source", "pose", "truth", "generated")
GAP, HEADER, SMALLEST = 4, 20, 128


def contact_sheet(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Rows of four equal squares on white, named above; beyond four rows two pairs stand abreast.

    Pictures under 128 px are enlarged, pixel by pixel.
    """
    if not rows:
        return np.full((1, 1, 3), 255, np.uint8)
    parts = 2 if len(rows) > 4 else 1
    enlarge = max(1, SMALLEST // rows[0][0].shape[0])
    cell = rows[0][0].shape[0] * enlarge + GAP
    part_width = len(COLUMNS) * cell + 4 * GAP
    lines = -(-len(rows) // parts)
    size = (parts * part_width - 3 * GAP, HEADER + lines * cell)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, row in enumerate(rows):
        left, top = GAP + i // lines * part_width, HEADER + i % lines * cell
        for column, picture in enumerate(row):
            big = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
            sheet.paste(Image.fromarray(np.ascontiguousarray(big)), (left + column * cell, top))
            if i % lines == 0:
                draw.text((left + column * cell, GAP), COLUMNS[column], fill="black", font=font)
    return np.asarray(sheet)
