"""Contact sheets: images in rows and named columns on white."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xmdpt_cli.images import ImageArray

GAP, HEADER, FONT = 4, 24, 13  # pixels: between images, above the first row, of the text
LABEL = 20  # above a row that has a label
MARGIN = 16  # between blocks
SMALLEST = 128


def contact_sheet(
    rows: Sequence[Sequence[ImageArray | None]],
    columns: Sequence[str],
    *,
    labels: Sequence[str] = (),
    blocks: int = 1,
    smallest: int = SMALLEST,
    largest: int | None = None,
) -> ImageArray:
    """uint8 (H, W, 3). All images have one shape; None leaves its place empty.

    Images lower than ``smallest`` are enlarged by an integer factor, pixel by pixel; those higher
    than ``largest`` are averaged down to it. ``labels``: a line of text above each row.
    ``blocks``: the rows are split into this many blocks side by side, from left to right.
    """
    scaled = [[_scaled(image, smallest, largest) for image in row] for row in rows]
    shape = next((image.size for row in scaled for image in row if image is not None), None)
    if shape is None:
        return np.full((1, 1, 3), 255, np.uint8)
    across, down = shape[0] + GAP, shape[1] + GAP + (LABEL if labels else 0)
    block_width, lines = len(columns) * across + MARGIN, -(-len(rows) // blocks)
    size = (GAP + blocks * block_width - MARGIN, HEADER + lines * down)
    sheet = Image.new("RGB", size, "white")
    for i, row in enumerate(scaled):
        block, line = divmod(i, lines)
        left, top = GAP + block * block_width, HEADER + line * down
        if line == 0:
            for column, name in enumerate(columns):
                _write(sheet, (left + column * across, GAP), name, "black")
        if labels:
            _write(sheet, (left, top), labels[i], "#444444")
            top += LABEL
        for column, image in enumerate(row):
            if image is not None:
                sheet.paste(image, (left + column * across, top))
    return np.asarray(sheet)


def stacked(sheets: Sequence[tuple[str, ImageArray]]) -> ImageArray:
    """Sheets below one another, each under its title."""
    width = max(sheet.shape[1] for _, sheet in sheets)
    canvas = Image.new("RGB", (width, sum(HEADER + sheet.shape[0] for _, sheet in sheets)), "white")
    top = 0
    for title, sheet in sheets:
        _write(canvas, (GAP, top + GAP), title, "black", FONT + 3)
        canvas.paste(Image.fromarray(sheet), (0, top + HEADER))
        top += HEADER + sheet.shape[0]
    return np.asarray(canvas)


def _scaled(image: ImageArray | None, smallest: int, largest: int | None) -> Image.Image | None:
    if image is None:
        return None
    height, width = image.shape[:2]
    made = Image.fromarray(np.ascontiguousarray(image))
    if largest is not None and height > largest:
        size = (round(width * largest / height), largest)
        return made.resize(size, Image.Resampling.BOX)
    factor = max(1, smallest // height)
    return made.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def _write(sheet: Image.Image, at: tuple[int, int], text: str, fill: str, size: int = FONT) -> None:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: Latin-1 only
        text = text.encode("ascii", "replace").decode()
    ImageDraw.Draw(sheet).text(at, text, fill=fill, font=font)
