"""Keypoint files as other programs write them: small ones made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import read_poses, write_pose_json
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.keypoints import JOINTS

# The orders of the other programs, by name, as their documentation lists them.
BODY_25 = [
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "mid_hip",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
    "left_big_toe",
    "left_small_toe",
    "left_heel",
    "right_big_toe",
    "right_small_toe",
    "right_heel",
]
COCO = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]


def places(names: tuple[str, ...] | list[str], start: int = 10) -> dict[str, tuple[int, int]]:
    return {name: (start + i, 100 + start + 2 * i) for i, name in enumerate(names)}


def flat(names: tuple[str, ...] | list[str], at: dict[str, Any], **seen: float) -> list[float]:
    return [value for name in names for value in (*at[name], seen.get(name, 0.9))]


def people(*persons: list[float], **more: Any) -> dict[str, Any]:
    listed = [{"person_id": [-1], "pose_keypoints_2d": person} for person in persons]
    return {"version": 1.3, "people": listed, **more}


CANVAS = {"canvas_width": 512, "canvas_height": 768}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], list[ImagePoses]]:
    def write_and_read(data: Any) -> list[ImagePoses]:
        path = tmp_path / "pose.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return read_poses(path)

    return write_and_read


Read = Callable[[Any], list[ImagePoses]]


@pytest.mark.parametrize("names", [JOINTS, BODY_25], ids=["18", "25"])
def test_openpose(read: Read, names: list[str]) -> None:
    at = places(names)
    [frame] = read(people(flat(names, at, left_knee=0), **CANVAS))
    assert frame.size == (768, 512)
    assert frame.where.endswith("pose.json")
    [points] = frame.people
    for joint, name in enumerate(JOINTS):
        want = (math.nan, math.nan) if name == "left_knee" else at[name]
        np.testing.assert_array_equal(points[joint], want, err_msg=name)


def test_a_list_of_frames_and_several_people(read: Read) -> None:
    first, second = places(JOINTS), places(JOINTS, 200)
    nobody = [0.0] * 54
    hands_only = {"pose_keypoints_2d": [], "hand_left_keypoints_2d": [1, 2, 3] * 21}
    one = people(nobody, flat(JOINTS, second), flat(JOINTS, first), **CANVAS)
    two = people(flat(JOINTS, first), **CANVAS)
    two["people"].append(hands_only)
    frames = read([one, two])
    assert [len(frame.people) for frame in frames] == [2, 1]
    assert frames[0].people[0][0].tolist() == [200, 300]
    assert frames[1].people[0][0].tolist() == [10, 110]
    assert "frame 2" in frames[1].where


def test_coco(read: Read) -> None:
    at = places(COCO)
    entry = {"image_id": 7, "category_id": 1, "keypoints": flat(COCO, at, nose=0), "score": 0.8}
    images = [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}]
    [frame] = read({"images": images, "annotations": [entry]})
    assert frame.size == (480, 640)
    [points] = frame.people
    assert np.isnan(points[0]).all()
    left, right = np.array(at["left_shoulder"]), np.array(at["right_shoulder"])
    np.testing.assert_array_equal(points[JOINTS.index("neck")], (left + right) / 2)
    for name in COCO[1:]:
        np.testing.assert_array_equal(points[JOINTS.index(name)], at[name], err_msg=name)
    # a list of results: two persons of one image, one of another, sizes unknown
    results = [entry, {**entry, "image_id": 9}, {**entry, "width": 640, "height": 480}]
    with pytest.raises(XmdptError, match="image 7: coordinates in pixels"):
        read(results)
    thousandths = [{**e, "keypoints": [v / 1000 for v in e["keypoints"]]} for e in results]
    for e in thousandths:
        e["keypoints"][2::3] = [2] * 17
    assert [len(frame.people) for frame in read(thousandths)] == [2, 1]


def test_no_neck_where_a_shoulder_is_missing(read: Read) -> None:
    entry = {"keypoints": flat(COCO, places(COCO), left_shoulder=0), "width": 640, "height": 480}
    [[points]] = [frame.people for frame in read(entry)]
    assert np.isnan(points[JOINTS.index("neck")]).all()
    assert np.isfinite(points).all(axis=1).sum() == 16


def test_our_own_json_form(read: Read) -> None:
    pose = [[i + 1, 2 * i] for i in range(18)]
    pose[4] = None  # type: ignore[call-overload]
    [frame] = read({"keypoints": pose, "width": 176, "height": 256})
    assert frame.size == (256, 176)
    np.testing.assert_array_equal(np.isnan(frame.people[0]).all(axis=1).nonzero()[0], [4])
    frames = read({"width": 176, "height": 256, "frames": [{"keypoints": pose}] * 3})
    assert [f.size for f in frames] == [(256, 176)] * 3
    other = {"keypoints": pose, "width": 352, "height": 512}
    frames = read({"width": 176, "height": 256, "frames": [{"keypoints": pose}, other]})
    assert [f.size for f in frames] == [(256, 176), (512, 352)]


def test_fractions_and_pixels(read: Read) -> None:
    part = [[0.5, i / 20] for i in range(18)]
    [frame] = read({"keypoints": part})
    assert frame.size is None
    np.testing.assert_array_equal(frame.people[0], part)
    # normalised, with the canvas they are of
    [frame] = read(people([v for x, y in part for v in (x, y, 1)], **CANVAS))
    assert frame.size == (768, 512)
    np.testing.assert_allclose(frame.people[0], np.array(part) * (512, 768))
    # in one sequence, a small figure near the corner does not change what the numbers are
    corner = {"keypoints": [[1, 1]] + [None] * 17}
    far = {"keypoints": [[300, 300]] * 18}
    frames = read({"frames": [corner, far], "width": 512, "height": 768})
    assert frames[0].people[0][0].tolist() == [1, 1]


def test_pixels_need_a_size(read: Read) -> None:
    with pytest.raises(XmdptError, match="size of their image is not known") as err:
        read(people(flat(JOINTS, places(JOINTS))))
    assert "canvas_width" in err.value.hint
    for bad in (0, -5, "512", None, True, [512]):
        with pytest.raises(XmdptError, match="positive numbers"):
            read(people(flat(JOINTS, places(JOINTS)), canvas_width=bad, canvas_height=768))
    with pytest.raises(XmdptError, match="positive numbers"):
        read(people(flat(JOINTS, places(JOINTS)), canvas_width=512))


GOOD = [1.0] * 54
BAD = {
    "3 numbers": people([1, 2, 3], **CANVAS),
    "16 numbers": people([1] * 16, **CANVAS),
    "21 joints": {"keypoints": [[1, 2]] * 21},
    "no person in it": people(**CANVAS),
    "no person in it ": people([0.0] * 54, **CANVAS),
    "all 2 frames: no person in it": [people(**CANVAS), people([0.0] * 54, **CANVAS)],
    "frame 2, person 2: 3 numbers": [people(GOOD, **CANVAS), people(GOOD, [1] * 3, **CANVAS)],
    "frame 2: no pose (null)": [people(GOOD, **CANVAS), None],
    "joint 2 is [a-z ]*of 2 instead": {"keypoints": [[1, 2], ["a", 2]] + [[1, 2]] * 16},
    "joint 1 is true": {"keypoints": [True] + [[1, 2]] * 17},
    "joint 1 is not a place": {"keypoints": [[1e9, 2]] * 18},
    "keypoints are .NOSE., not a list": {"keypoints": "NOSE"},
    "people is 5 instead": {"people": 5},
    "frames is 3 instead": {"frames": 3},
    "frame 1: no pose": {"frames": [{"frames": []}]},
    "no poses in it": {"frames": []},
    "it holds: a, b": {"a": 1, "b": 2},
    "no pose .a list of 0": [],
    "no pose .7": "7",
    "no pose .null": "null",
    "no person in it  ": json.dumps({"keypoints": [[math.nan, 1]] * 18}),
    "-Infinity is not a number": json.dumps({"keypoints": [[-math.inf, 1]] * 18}),
    "Infinity is not a number": json.dumps({"keypoints": [[math.inf, 1]] * 18}),
    "joint 1 is a list": '{"keypoints": [[1e999, 1]' + ", [1, 1]" * 17 + "]}",
    "joint 1 is a list ": '{"keypoints": [[1' + "0" * 400 + ", 1]" + ", [1, 1]" * 17 + "]}",
    "not JSON .Expecting": '{"people": [',
    "not JSON .too deeply": "[" * 100_000,
    "annotation 1: no image_id": {"annotations": [4]},
    "annotation 1: 50 numbers": {"annotations": [{"image_id": 1, "keypoints": [1] * 50}]},
}


@pytest.mark.parametrize("what", list(BAD))
def test_other_json_is_refused(read: Read, what: str) -> None:
    pattern = what.strip().replace("(null)", ".null.")
    with pytest.raises(XmdptError, match=pattern) as err:
        read(BAD[what])
    assert "pose.json" in err.value.message
    assert "OpenPose" in err.value.hint


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="no such file"):
        read_poses(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(XmdptError, match="a folder"):
        read_poses(tmp_path / "folder.json")
    with pytest.raises(XmdptError, match="not a file of keypoints") as err:
        read_poses(tmp_path / "pose.yaml")
    assert ".json" in err.value.hint
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(XmdptError, match="cannot read"):
        read_poses(tmp_path / "binary.json")
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(100 * 2**20)  # a sparse file
    with pytest.raises(XmdptError, match="100 MiB"):
        read_poses(tmp_path / "huge.json")


def test_text_and_rows(tmp_path: Path) -> None:
    rows = [f"{40 + 10 * i} {12.8 * i}" for i in range(17)] + ["-1 -1"]
    (tmp_path / "pose.txt").write_text("\n".join(rows))
    [frame] = read_poses(tmp_path / "pose.txt")
    assert frame.size is None
    np.testing.assert_allclose(frame.people[0][1], (10 / 176, 12.8 / 256))
    assert np.isnan(frame.people[0][17]).all()
    (tmp_path / "short.txt").write_text("1 2\n3 4\n")
    with pytest.raises(XmdptError, match=r"short\.txt: holds 2 joints instead of 18"):
        read_poses(tmp_path / "short.txt")
    ys, xs = [[128] * 18, [64] * 18], [[88] * 18, [44] * 17 + [-1]]
    lines = [f"walk_{i}.jpg: {y}: {x}" for i, (y, x) in enumerate(zip(ys, xs, strict=True))]
    (tmp_path / "walk.csv").write_text("\n".join(["name:keypoints_y:keypoints_x", *lines]))
    frames = read_poses(tmp_path / "walk.csv")
    assert [f.people[0][0].tolist() for f in frames] == [[0.5, 0.5], [0.25, 0.25]]
    assert frames[1].where.endswith("walk_1.jpg")
    (tmp_path / "bad.csv").write_text(lines[0] + "\nwalk_9.jpg: [1, 2]: [3, 4]\n")
    with pytest.raises(XmdptError, match=r"bad\.csv:2: .* 2 numbers instead of 18"):
        read_poses(tmp_path / "bad.csv")
    (tmp_path / "empty.csv").write_text("name:keypoints_y:keypoints_x\n")
    with pytest.raises(XmdptError, match="no rows"):
        read_poses(tmp_path / "empty.csv")


def test_real_rows_and_text(shared: Callable[[str], Path]) -> None:
    frames = read_poses(shared("deepfashion_sample/fasion-resize-annotation-test.csv"))
    assert len(frames) == 24
    for i in range(8):
        [frame] = read_poses(shared(f"golden/pose/pose_{i}.txt"))
        assert 0.3 < np.nanmedian(frame.people[0][:, 0]) < 0.7


def test_written_poses_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 500, (3, 18, 2))
    points[0, 3] = points[2, 17] = np.nan
    frames = [
        ImagePoses([points[0], points[1]], (768, 512), "a"),
        ImagePoses([points[2]], (500, 600), "b"),
    ]
    for some in (frames, frames[:1], frames[1:]):
        write_pose_json(tmp_path / "out.json", some)
        for one, two in zip(read_poses(tmp_path / "out.json"), some, strict=True):
            assert one.size == two.size
            np.testing.assert_allclose(one.people, two.people, atol=6e-4)
    write_pose_json(tmp_path / "out.json", [ImagePoses([points[2] / 500], None, "c")])
    [back] = read_poses(tmp_path / "out.json")
    assert back.size is None
    np.testing.assert_allclose(back.people, [points[2] / 500], atol=1e-6)
