"""Annotation files as people have them: the same keypoints in any frame, order and spelling."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.pose.formats.text_rows import read_annotations

Move = Callable[[NDArray[np.float64]], NDArray[np.float64]]
HEADER = "name:keypoints_y:keypoints_x"


def scaled(width: float, height: float, left: float = 0.0) -> Move:
    """From the 256x176 frame to pixels of an image of another size."""
    return lambda points: points * (width / 176, height / 256) + (left, 0)


def text_of(
    rows: Mapping[str, NDArray[np.float64]],
    move: Move = lambda points: points,
    *,
    header: str | None = HEADER,
    order: str = "yx",
    separator: str = ":",
    quote: bool = False,
    index: bool = False,
    missing: Any = -1,
    decimals: int = 0,
) -> str:
    """An annotation file of raw rows (18, 2) with NaN for missing."""
    lines = [] if header is None else [header]
    for number, (name, points) in enumerate(rows.items()):
        moved = np.round(move(points.copy()), decimals)
        cells = [str(number)] if index else []
        cells.append(name)
        for axis in order:
            values = moved[:, "xy".index(axis)].tolist()
            values = [missing if v != v else (v if decimals else int(v)) for v in values]
            text = json.dumps(values)
            cells.append(f'"{text}"' if quote else text)
        lines.append(separator.join(cells))
    return "\n".join(lines) + "\n"


def rows_of(path: Path) -> dict[str, NDArray[np.float64]]:
    """The rows of an annotation file by their names as they stand there."""
    return read_annotations(path, lambda name: name).points


def converted(
    source: Path,
    root: Path,
    move: Move = lambda points: points,
    stem: str = "fasion-resize",
    **how: Any,
) -> Path:
    """A dataset with the images and pairs of ``source`` and its annotations in another form."""
    root.mkdir()
    (root / "img_highres").symlink_to(source / "img_highres")
    for split in ("train", "test"):
        rows = rows_of(source / f"fasion-resize-annotation-{split}.csv")
        (root / f"{stem}-annotation-{split}.csv").write_text(text_of(rows, move, **how))
        pairs = f"fasion-resize-pairs-{split}.csv"
        shutil.copy(source / pairs, root / pairs.replace("fasion-resize", stem))
    return root
