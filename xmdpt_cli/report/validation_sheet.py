"""The contact sheet of a training run: the same pairs, one column a validation.

``samples/step_0001000.png`` holds its pairs as rows of squares, pixel by pixel: source, pose,
ground truth, the teacher's image where there is a teacher, generated. ``samples/sheet.png`` is made
from these files alone, so that a resumed run ends with the same sheet as an uninterrupted one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmdpt_cli.images import ImageArray, load_image, save_png
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.utils.image_types import open_image

SHEET = "sheet.png"
#: what a row begins with, the same at every step
COLUMNS = ("source", "pose", "ground truth")
MOST = 12  # columns of steps
LARGEST = 256  # a square's side on the sheet


def step_image(rows: list[list[ImageArray]]) -> ImageArray:
    """Rows of K squares (S, S, 3) -> (rows * S, K * S, 3)."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def step_name(step: int) -> str:
    return f"step_{step:07d}.png"


def forget_after(folder: Path, done: int) -> None:
    """Remove the images of steps that will be done again."""
    for step, path in _steps(folder):
        if step > done:
            path.unlink()


def write_step(
    folder: Path,
    step: int,
    rows: list[list[ImageArray]],
    columns: Sequence[str] = COLUMNS,
) -> ImageArray:
    """Write the image of ``step`` and then the sheet; returns the sheet. ``columns``: titles of the
    squares of a row without the generated one."""
    save_png(folder / step_name(step), step_image(rows))
    side = rows[0][0].shape[0]
    fitting = [
        (s, path)
        for s, path in _steps(folder)
        if _size(path) == (len(rows[0]) * side, len(rows) * side)
    ]
    images = {s: np.asarray(load_image(path)) for s, path in thinned(fitting)}
    sheet = growing_sheet(images, side, columns)
    save_png(folder / SHEET, sheet)
    return sheet


def thinned(steps: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most ``MOST`` of them, evenly: the first and the newest always."""
    if len(steps) <= MOST:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST - 1))] for i in range(MOST)]


def growing_sheet(
    images: dict[int, ImageArray], side: int, fixed: Sequence[str] = COLUMNS
) -> ImageArray:
    """Step images by step, oldest first -> the fixed columns of the newest, one column per step.

    Squares under 128 px are enlarged pixel by pixel, those over 256 px are averaged down.
    """
    newest = images[max(images)]
    columns = [newest[:, i * side : (i + 1) * side] for i in range(len(fixed))]
    columns += [image[:, len(fixed) * side :] for image in images.values()]
    titles = [*fixed, *(f"step {step}" for step in images)]
    starts = range(0, newest.shape[0], side)
    rows = [[column[top : top + side] for column in columns] for top in starts]
    return contact_sheet(rows, titles, largest=LARGEST)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    found = ((re.fullmatch(r"step_(\d{7,})\.png", p.name), p) for p in folder.glob("step_*.png"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height), or None if it is not an image."""
    try:
        with open_image(path) as image:
            return image.size
    except OSError:
        return None
