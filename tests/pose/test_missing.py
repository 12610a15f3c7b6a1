"""Missing joints that were scaled along with a file are missing in every format, with a note."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from stick_people import FIGURE

from xmdpt_cli.pose.formats import open_file, read_poses
from xmdpt_cli.pose.formats.missing import scaled_missing
from xmdpt_cli.pose.formats.text_rows import HEADER, read_annotations

FRAME = np.array((176.0, 256.0))
HIDDEN = [4, 7, 10]
SCALES = [(750, 1101), (1, 1), (64, 128)]


def table(sides: tuple[int, int], hidden: list[int]) -> np.ndarray:
    """The figure in the 176 frame, -1 missing, times one scale a column."""
    points = (FIGURE * 0.8 + 0.1) * FRAME
    points[hidden] = -1
    return np.round(points * sides / FRAME, 4)


@pytest.mark.parametrize("hidden", [HIDDEN, [7]])
@pytest.mark.parametrize("sides", SCALES)
@pytest.mark.parametrize("kind", ["csv", "csv of rows", "json", "txt"])
def test_scaled_missing_joints_in_every_format(
    tmp_path: Path, kind: str, sides: tuple[int, int], hidden: list[int]
) -> None:
    points = table(sides, hidden)
    path = tmp_path / f"a.{kind[:4].strip()}"
    notes: list[str] = []
    rows = 3 if "rows" in kind else 1
    if kind == "json":
        path.write_text(json.dumps({"keypoints": points.tolist(), "width": 2, "height": 2}
                                   if sides == (1, 1) else
                                   {"keypoints": points.tolist(), "width": sides[0],
                                    "height": sides[1]}))  # fmt: skip
        [[found]] = [frame.people for frame in read_poses(path, notes=notes)]
    elif kind == "txt":
        path.write_text("".join(f"{x} {y}\n" for x, y in points))
        file = open_file(path)
        notes, [[found]] = file.notes, [frame.people for frame in file.frames]
    else:
        y, x = points[:, 1].tolist(), points[:, 0].tolist()
        path.write_text(HEADER + "\n" + "".join(f"{i}.jpg: {y}: {x}\n" for i in range(rows)))
        read = read_annotations(path, str)
        notes, found = read.notes, read.points["0.jpg"]
    missing = np.flatnonzero(np.isnan(found).any(axis=1)).tolist()
    assert missing == hidden
    x, y = points[hidden[0]]
    count = rows * len(hidden)
    [note] = [note for note in notes if "taken as not seen" in note]
    assert f"{count} joint{'s' * (count > 1)} at ({x:.3g}, {y:.3g}) " in note


def test_a_pair_of_any_size_that_many_rows_hold(tmp_path: Path) -> None:
    points = table((176, 256), [4])
    points[4] = (-30, -30)
    y, x = points[:, 1].tolist(), points[:, 0].tolist()
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "\n" + "".join(f"{i}.jpg: {y}: {x}\n" for i in range(3)))
    read = read_annotations(path, str)
    assert all(np.isnan(points[4]).all() for points in read.points.values())
    assert "3 joints at (-30, -30) are taken as not seen" in " ".join(read.notes)


def test_joints_outside_of_the_image_are_kept() -> None:
    points = FIGURE * FRAME
    points[4], points[7], points[10] = (-4, 100), (80, -4), (-40, -60)
    assert not scaled_missing(points).any()
    points[13] = (-40.1, -60)  # the same place, up to rounding
    assert np.flatnonzero(scaled_missing(points)).tolist() == [10, 13]
