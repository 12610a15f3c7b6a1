"""Joints that were not found: one rule in every format; and the orders of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stick_people import FIGURE

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.formats import read_poses
from xmdpt_cli.pose.formats.missing import MIN_SCORE, not_found
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.sampling.user_inputs import fractions

COCO = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)  # our joints in COCO's order
HIDDEN = {"left_wrist": 7, "right_wrist": 4}
CANVAS = {"width": 176, "height": 256}


def listed(count: int) -> list[Any]:
    """The figure in the order of ``count`` joints, as [x, y] rows in pixels of 176 x 256."""
    body = (FIGURE * (176, 256)).tolist()
    far = [[150.0, 250.0]]  # hands, feet and faces: none of ours
    if count == 18:
        return body
    if count == 25:
        return body[:8] + far + body[8:] + far * 6
    coco = [body[joint] for joint in COCO]
    if count in (26, 136):
        return coco + far + [body[1]] + far * (count - 19)
    return coco + far * (count - 17)


def place(count: int, joint: int) -> int:
    """Where one of our joints stands in the order of ``count``."""
    if count == 18:
        return joint
    if count == 25:
        return joint if joint < 8 else joint + 1
    return COCO.index(joint)


def read(path: Path, data: Any, **more: Any) -> Keypoints:
    path.write_text(json.dumps(data))
    [frame] = read_poses(path, **more)
    [points] = frame.people
    return points


@pytest.mark.parametrize("count", [17, 18, 25, 26, 133, 136])
def test_every_order_gives_the_same_joints(tmp_path: Path, count: int) -> None:
    points = read(tmp_path / "a.json", {"keypoints": listed(count), **CANVAS})
    want = FIGURE * (176, 256)
    if count in (17, 133):
        want[1] = (want[2] + want[5]) / 2  # COCO has no neck
    np.testing.assert_allclose(points, want)


def test_other_numbers_of_joints_are_refused_with_the_accepted_ones(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match=r"21 joints; 17 \(COCO\), .*133 \(COCO-WholeBody\)"):
        read(tmp_path / "a.json", {"keypoints": [[1, 2]] * 21, **CANVAS})


@pytest.mark.parametrize("count", [17, 18, 25, 26, 133])
@pytest.mark.parametrize(
    "missing",
    [None, [0, 0], [0, 0, 0.09], [0, 0, 1], [-1, -1], [-1, -1, 0.9], [80, 90, 0.05], [80, 90, 0],
     [None, None]],
    ids=str,
)  # fmt: skip
def test_a_joint_that_was_not_found_is_missing(tmp_path: Path, count: int, missing: Any) -> None:
    rows = [[*row, 0.9] for row in listed(count)]
    for joint in HIDDEN.values():
        rows[place(count, joint)] = missing
    flat = [rows]
    if missing not in (None, [None, None]) and len(missing) == 3:
        flat.append([value for row in rows for value in row])
    for keypoints in flat:
        points = read(tmp_path / "a.json", {"keypoints": keypoints, **CANVAS})
        gone = np.flatnonzero(np.isnan(points).all(axis=1)).tolist()
        assert gone == sorted(HIDDEN.values())


@pytest.mark.parametrize("name", ["keypoint_scores", "scores", "score", "confidences"])
@pytest.mark.parametrize("flat", [False, True])
def test_scores_in_a_separate_list(tmp_path: Path, name: str, flat: bool) -> None:
    rows = listed(17)
    scores: list[Any] = [0.8] * 17
    scores[place(17, 7)], scores[place(17, 4)] = 0.02, None
    keypoints = [value for row in rows for value in row] if flat else rows
    notes: list[str] = []
    data = {"keypoints": keypoints, name: scores, **CANVAS}
    points = read(tmp_path / "a.json", data, notes=notes)
    assert np.flatnonzero(np.isnan(points).all(axis=1)).tolist() == [4, 7]
    assert any("2 of 18 joints have a score below 0.1" in note for note in notes)
    with pytest.raises(XmdptError, match=f"{name} is a list of 16, not 17 numbers"):
        read(tmp_path / "a.json", {"keypoints": keypoints, name: scores[:16], **CANVAS})


def test_mmpose(tmp_path: Path) -> None:
    """Its files of an image (a list of people), of a video, and its inferencer's answer."""
    person = {
        "keypoints": listed(17),
        "keypoint_scores": [0.9] * 9 + [0.2] * 8,
        "bbox": [[0, 0, 176, 256]],
        "bbox_score": 0.99,
    }
    size = (256, 176)
    for data, frames, people in (
        ([person, person], 1, 2),
        (
            {"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": [person] * 2}] * 3},
            3,
            2,
        ),
        ({"visualization": [], "predictions": [[person], [person]]}, 2, 1),
    ):
        (tmp_path / "a.json").write_text(json.dumps(data))
        found = read_poses(tmp_path / "a.json", lambda _: size, min_score=0.3)
        assert len(found) == frames
        assert all(len(frame.people) == people for frame in found)
        # from the left wrist on COCO's list is below the threshold
        assert np.isfinite(found[0].people[0]).all(axis=1).sum() == 10
        assert found[0].size == size


def test_the_threshold_can_be_set(tmp_path: Path) -> None:
    rows = [[*row, 0.04 * (i + 1)] for i, row in enumerate(listed(18))]
    for threshold, missing in ((0.0, 0), (MIN_SCORE, 2), (0.5, 12)):
        points = read(tmp_path / "a.json", {"keypoints": rows, **CANVAS}, min_score=threshold)
        assert np.isnan(points).all(axis=1).sum() == missing
    for bad in (-0.1, 1.5, float("nan"), "0.3", True):
        with pytest.raises(ConfigError, match="minimum score"):
            read_poses(tmp_path / "a.json", min_score=bad)  # type: ignore[arg-type]
    with pytest.raises(
        XmdptError, match=r"no person in it.*18 joints have a score below 0\.9"
    ) as err:
        read(tmp_path / "a.json", {"keypoints": rows, **CANVAS}, min_score=0.9)
    assert "--min-score" in err.value.hint


@pytest.mark.parametrize("missing", [(0, 0), (-1, -1)])
def test_rows_text_and_arrays(tmp_path: Path, missing: tuple[int, int]) -> None:
    raw = FIGURE * (176, 256)
    raw[7] = missing
    x, y = raw.round(2).T.tolist()
    (tmp_path / "a.csv").write_text(f"name:keypoints_y:keypoints_x\na.jpg: {y}: {x}\n")
    padded = raw + (40, 0)
    padded[7] = missing
    np.savetxt(tmp_path / "a.txt", padded)
    array = raw / (176, 256)
    array[7] = missing
    read_files = [read_poses(tmp_path / name)[0].people[0] for name in ("a.csv", "a.txt")]
    for points in (*read_files, fractions(array, "array")):
        assert np.flatnonzero(np.isnan(points).all(axis=1)).tolist() == [7]


def test_the_rule_for_missing_joints() -> None:
    points = np.array([(0, 0), (0, 5), (-1, 5), (-1, -1), (np.nan, 5), (7, 8), (7, 8)], float)
    scores = np.array([1, 1, 1, 1, 1, 0.05, np.nan])
    assert not_found(points, scores).tolist() == [True, False, True, True, True, True, True]
    assert not_found(points).tolist() == [True, False, True, True, True, False, False]


def test_a_broken_annotation_is_left_out_and_reported(tmp_path: Path) -> None:
    """Of a COCO file, of a list of results too; not the whole file."""
    flat = [value for row in listed(17) for value in (*row, 2)]
    good = [{"image_id": i, "keypoints": flat} for i in range(5)]
    broken: list[Any] = [{"image_id": 9, "keypoints": flat[:-1]}, {"image_id": 9}, None, 7]
    broken.append({"image_id": 9, "keypoints": ["x", *flat[1:]]})
    images = [{"id": i, "file_name": f"{i}.jpg", **CANVAS} for i in range(5)]
    for data in (
        {"images": images, "annotations": [good[0], *broken, *good[1:]]},
        [good[0], *broken, *good[1:]],
    ):
        (tmp_path / "coco.json").write_text(json.dumps(data))
        notes: list[str] = []
        frames = read_poses(tmp_path / "coco.json", lambda _: (256, 176), notes=notes)
        assert len(frames) == 5
        [message] = [note for note in notes if "annotation" in note]
        assert "5 annotations are left out (coco.json, annotation 2: 50 numbers" in message


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_nan_is_missing_in_json(tmp_path: Path, nothing: Any) -> None:
    """As Python writes it: in pairs, with scores, in a row, and as a score."""
    rows: list[list[Any]] = [[20.0 + i, 5.0 * i + 3, 0.9] for i in range(18)]
    rows[4], rows[7], rows[9] = [nothing] * 3, [nothing, 8.0, 0.9], [60.0, 8.0, nothing]
    pairs = [row[:2] if row[2] == 0.9 else [nothing] * 2 for row in rows]
    size = {"canvas_width": 100, "canvas_height": 128}
    file = tmp_path / "a.json"
    for entry in (
        {"keypoints": rows},
        {"keypoints": pairs},
        {"people": [{"pose_keypoints_2d": [value for row in rows for value in row]}]},
        {"keypoints": [row[:2] for row in rows], "scores": [row[2] for row in rows]},
        {"keypoints": [nothing if i in (4, 7, 9) else row for i, row in enumerate(rows)]},
    ):
        file.write_text(json.dumps(entry | size))
        [frame] = read_poses(file)
        [points] = frame.people
        assert np.flatnonzero(np.isnan(points).all(axis=1)).tolist() == [4, 7, 9]
        np.testing.assert_allclose(points[5], rows[5][:2])
    file.write_text(json.dumps({"people": [{"pose_keypoints_2d": [nothing] * 54}]} | size))
    with pytest.raises(XmdptError, match="no person in it"):
        read_poses(file)
