"""The contact sheet of a training run: the same pairs, one column a validation.

``samples/step_0001000.png`` holds its pairs as rows of four squares, pixel by pixel: source, pose,
ground truth, generated. ``samples/sheet.png`` is made from these files alone, so that a resumed run
ends with the same sheet as an uninterrupted one.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from xmdpt_cli.images import ImageArray, load_image, save_png
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.utils.image_types import open_image

SHEET = "sheet.png"
MOST = 12  # columns of steps
LARGEST = 256  # a square's side on the sheet


def step_image(rows: list[list[ImageArray]]) -> ImageArray:
    """Rows of four squares (S, S, 3) -> (rows * S, 4 * S, 3)."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def step_name(step: int) -> str:
    return f"step_{step:07d}.png"


def forget_after(folder: Path, done: int) -> None:
    """Remove the images of steps that will be done again."""
    for step, path in _steps(folder):
        if step > done:
            path.unlink()


def write_step(folder: Path, step: int, rows: list[list[ImageArray]]) -> ImageArray:
    """Write the image of ``step`` and then the sheet; returns the sheet."""
    save_png(folder / step_name(step), step_image(rows))
    side = rows[0][0].shape[0]
    fitting = [
        (s, path) for s, path in _steps(folder) if _size(path) == (4 * side, len(rows) * side)
    ]
    images = {s: np.asarray(load_image(path)) for s, path in thinned(fitting)}
    sheet = growing_sheet(images, side)
    save_png(folder / SHEET, sheet)
    return sheet


def thinned(steps: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most ``MOST`` of them, evenly: the first and the newest always."""
    if len(steps) <= MOST:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST - 1))] for i in range(MOST)]


def growing_sheet(images: dict[int, ImageArray], side: int) -> ImageArray:
    """Step images by step, oldest first -> source, pose, ground truth, one column per step.

    Squares under 128 px are enlarged pixel by pixel, those over 256 px are averaged down.
    """
    newest = images[max(images)]
    columns = [newest[:, i * side : (i + 1) * side] for i in range(3)]
    columns += [image[:, 3 * side :] for image in images.values()]
    titles = ["source", "pose", "ground truth", *(f"step {step}" for step in images)]
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
