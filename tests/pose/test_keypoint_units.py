"""What the numbers of a keypoints file are: all joints decide, and the image's size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import read_poses
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import UnstatedSize

CANVAS = {"width": 300, "height": 400}


def write(path: Path, points: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"keypoints": np.asarray(points).tolist(), **more}))
    return path


def rows(path: Path, *poses: Any) -> Path:
    lines = []
    for i, points in enumerate(poses):
        x, y = np.asarray(points).round(2).T.tolist()
        lines.append(f"p{i}.jpg: {y}: {x}")
    path.write_text("\n".join(["name:keypoints_y:keypoints_x", *lines]))
    return path


def as_fractions(frame: ImagePoses) -> Any:
    [points] = frame.people
    return points if frame.size is None else points / frame.size[::-1]


@pytest.mark.parametrize("far", [1.6, 2.9, 40.0])
@pytest.mark.parametrize("canvas", [{}, CANVAS])
def test_one_joint_far_out_does_not_make_fractions_pixels(
    tmp_path: Path, far: float, canvas: dict[str, int]
) -> None:
    points = FIGURE.copy()
    points[10, 1] = far  # an ankle
    notes: list[str] = []
    [frame] = read_poses(write(tmp_path / "a.json", points, **canvas), notes=notes)
    np.testing.assert_allclose(as_fractions(frame), points)
    assert any("a.json: in fractions of" in note for note in notes)


def test_all_frames_of_a_sequence_decide_together(tmp_path: Path) -> None:
    small = {"keypoints": (FIGURE * 2).tolist(), **CANVAS}  # somebody tiny in the corner
    frames = [small, *({"keypoints": (FIGURE * (300, 400)).tolist(), **CANVAS},) * 9]
    (tmp_path / "a.json").write_text(json.dumps(frames))
    notes: list[str] = []
    found = read_poses(tmp_path / "a.json", notes=notes)
    np.testing.assert_allclose(found[0].people[0], FIGURE * 2)
    assert "a.json: in pixels of 300 x 400, as the file states" in notes


def test_a_size_of_one_by_one_means_fractions(tmp_path: Path) -> None:
    [frame] = read_poses(write(tmp_path / "a.json", FIGURE, width=1, height=1))
    assert frame.size is None


def test_pixels_of_twice_the_canvas_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", FIGURE * (600, 800), **CANVAS)
    with pytest.raises(XmdptError, match=r"1\d of 18 joints lie outside.* 300 x 400") as err:
        read_poses(file)
    assert "Tried: pixels of that size, and fractions" in err.value.message
    assert "--pose-size" in err.value.hint
    # estimators put some joints outside: those of legs that the image cuts off
    points = FIGURE * (300, 400)
    points[[9, 10, 12, 13], 1] += 200
    assert read_poses(write(tmp_path / "a.json", points, **CANVAS))


def test_an_ambiguous_unit_is_refused(tmp_path: Path) -> None:
    for points in (FIGURE * 4 - 2, np.concatenate((FIGURE[:9], FIGURE[9:] * 300))):
        with pytest.raises(XmdptError, match="unit of the coordinates is ambiguous") as err:
            read_poses(write(tmp_path / "a.json", points))
        assert "Tried: fractions" in err.value.message
        assert "a.json" in err.value.message


PERSON = FIGURE * (0.6, 0.9) + (0.2, 0.05)  # somebody in the middle


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        ((176, 256), (0, 0), "256x176"),
        ((176, 256), (40, 0), "256x256 padded"),
        ((1, 1), (0, 0), "fractions of the sides"),
        ((200, 300), (0, 0), "pixels of the images"),
    ],
)
def test_the_frame_of_rows_is_decided_by_their_values_and_the_images(
    tmp_path: Path, scale: Any, shift: Any, message: str
) -> None:
    if scale[0] == 1:
        file = tmp_path / "a.csv"
        x, y = PERSON.T.tolist()
        file.write_text(f"p0.jpg: {y}: {x}")
    else:
        file = rows(tmp_path / "a.csv", PERSON * scale + shift)
    Image.new("RGB", (200, 300)).save(tmp_path / "p0.jpg")
    notes: list[str] = []
    [frame] = read_poses(file, UnstatedSize(file), notes=notes)
    np.testing.assert_allclose(as_fractions(frame), PERSON, atol=1e-4)
    assert f"a.csv: in {message}" in notes


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        ((176, 256), (0, 0), "256x176"),
        ((176, 256), (40, 0), "256x256 padded"),
        ((1, 1), (0, 0), "fractions of the sides"),
        ((750, 1101), (0, 0), "pixels of the images"),
    ],
)
def test_the_frame_of_a_pose_in_txt(tmp_path: Path, scale: Any, shift: Any, message: str) -> None:
    file = tmp_path / "p0.txt"
    file.write_text("".join(f"{x} {y}\n" for x, y in PERSON * scale + shift))
    Image.new("RGB", (750, 1101)).save(tmp_path / "p0.jpg")
    notes: list[str] = []
    size_of = UnstatedSize(file)
    [frame] = read_poses(file, size_of, notes=notes)
    np.testing.assert_allclose(as_fractions(frame), PERSON, atol=1e-4)
    assert notes == [f"p0.txt: in {message}"]
    # no other note contradicts: published frames have a size of their own
    unit = {"pixels of the images": "in pixels of", "fractions of the sides": "in fractions of"}
    assert [f" {unit.get(message)} an image of 750 x 1101 " in note for note in size_of.notes] == (
        [True] if message in unit else []
    )


def test_rows_without_a_known_image(tmp_path: Path) -> None:
    walk = [PERSON * (176, 256) + (step, 0) for step in (-20, -10, 0, 10, 20)]
    for shift in (0, 40):
        found = read_poses(rows(tmp_path / "a.csv", *(one + (shift, 0) for one in walk)))
        want = [one / (176, 256) for one in walk]
        np.testing.assert_allclose([as_fractions(one) for one in found], want, atol=1e-4)
    # one joint beyond the frame makes no other frame of it
    walk[2][4, 0] = 182
    found = read_poses(rows(tmp_path / "a.csv", *walk))
    np.testing.assert_allclose(as_fractions(found[0]), walk[0] / (176, 256), atol=1e-4)


def test_rows_in_pixels_of_an_image_that_is_not_known_are_refused(tmp_path: Path) -> None:
    file = rows(tmp_path / "a.csv", PERSON * (750, 1101))
    with pytest.raises(XmdptError, match="in no known frame") as err:
        read_poses(file)
    assert "256x256 padded: 0%" in err.value.message
    assert "--pose-size" in err.value.hint
    [frame] = read_poses(file, UnstatedSize(file, given=(750, 1101)))
    np.testing.assert_allclose(as_fractions(frame), PERSON, atol=1e-4)
    with pytest.raises(XmdptError, match=r"Tried: .*pixels of the images: "):
        read_poses(file, UnstatedSize(file, given=(90, 90)))
