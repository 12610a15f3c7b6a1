"""Write keypoints in both published formats, which other programs and this one read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.datasets.own_keypoints import ANNOTATIONS, POSE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import atomic_write, write_text
from xmdpt_cli.pose.formats.text_rows import HEADER
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, JOINTS, PADDING, Keypoints
from xmdpt_cli.utils.deepfashion_names import ImageName, match_key
from xmdpt_cli.utils.splits import SPLITS

# (train or test, DeepFashion's name or the path below the dataset root, fractions (18, 2))
AnnotationRow = tuple[str, "ImageName | str", Keypoints]


def annotation_rows(listing: Listing) -> Iterator[AnnotationRow]:
    """The known keypoints of a listing as rows for ``write_annotations``."""
    for item in listing.items:
        for view, points in item.keypoints.items():
            image = item.views[view].name
            name = match_key(image) if listing.layout == "deepfashion" else None
            yield item.split, name or image, points


def write_annotations(
    rows: Iterable[AnnotationRow], out_dir: str | Path, *, csv: bool = True, txt: bool = True
) -> list[Path]:
    """Write keypoints, fractions of width and height with NaN for missing, below ``out_dir``.

    ``csv``: ``fasion-resize-annotation-{train,test}.csv`` for DeepFashion's names,
    ``annotations.csv`` for paths below a root: whole pixels of the 256x176 frame. ``txt``:
    ``pose/WOMEN/.../02_1_front.txt`` or ``pose/<path>.txt``: pixels of the padded 256x256 frame,
    to the last digit. Both keep the order of ``rows``; existing files are replaced.

    Returns the CSV files written and the folder ``pose``. Raises XmdptError for a name that the
    formats cannot hold, keypoints of another shape, or if writing fails.
    """
    out = Path(out_dir)
    lines: dict[str, list[str]] = {}
    poses = False
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, name, points in rows:
            _check(split, name, points)
            if csv:
                own = isinstance(name, str)
                file = ANNOTATIONS if own else f"fasion-resize-annotation-{split}.csv"
                text = name if isinstance(name, str) else name.flat
                lines.setdefault(file, [HEADER]).append(f"{text}: {_csv_columns(points)}")
            if txt:
                _write_txt(out / POSE / _pose_path(name), points)
                poses = True
        for file, content in lines.items():
            write_text(out / file, "\n".join(content) + "\n")
    except OSError as err:
        raise XmdptError(f"cannot write keypoints to {out}: {err}") from None
    return [out / file for file in lines] + ([out / POSE] if poses else [])


def _check(split: str, name: ImageName | str, points: Keypoints) -> None:
    if split not in SPLITS:
        raise XmdptError(f"the split is train or test, not {split!r}")
    if np.shape(points) != (len(JOINTS), 2):
        raise XmdptError(f"keypoints of {name} are {np.shape(points)}, not {(len(JOINTS), 2)}")
    if isinstance(name, str):
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or parts[0] == "/" or "\n" in name or "\r" in name:
            raise XmdptError(f"not a path below a dataset root: {name!r}")


def _pose_path(name: ImageName | str) -> str:
    """The pose file; own images keep their suffix, as a.jpg and a.png may be in one folder."""
    return f"{name}.txt" if isinstance(name, str) else f"{name.path.rsplit('.', 1)[0]}.txt"


def _csv_columns(points: Keypoints) -> str:
    """The columns keypoints_y and keypoints_x of a published row."""
    missing = _missing(points)
    pixels = np.where(missing[:, None], 0.0, points) * (FRAME_WIDTH, FRAME_HEIGHT)
    whole = np.rint(pixels).astype(int)
    whole[whole == -1] = 0  # -1 means that there is no joint
    whole[(whole == 0).all(axis=1), 1] = 1  # two zeros mean a missing joint too
    whole[missing] = -1
    return f"{json.dumps(whole[:, 1].tolist())}: {json.dumps(whole[:, 0].tolist())}"


def _missing(points: Keypoints) -> NDArray[np.bool_]:
    x, y = np.isfinite(points).T
    return ~(x & y)  # (18,)


def _write_txt(path: Path, points: Keypoints) -> None:
    missing = _missing(points)
    pixels = points * (FRAME_WIDTH, FRAME_HEIGHT) + (PADDING, 0.0)
    pixels[pixels == -1] = np.nextafter(-1.0, 0.0)
    pixels[missing] = -1
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:  # tens of thousands: renamed, not flushed to disk
        part.write_text("".join(f"{x:.18e} {y:.18e}\n" for x, y in pixels), encoding="utf-8")
