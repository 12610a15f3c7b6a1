"""Keypoints files beside images: which are read, for which image, and errors of unusable ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE
from toy_models import leaning

from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose import formats as keypoint_formats
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside, largest_fractions

W, H = 80, 120


def image(path: Path, width: int = W, height: int = H) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # no two alike: identical views are left out
    value = sum(path.as_posix().encode()) % 255
    Image.new("RGB", (width, height), (value, 0, 0)).save(path)
    return path


def openpose(path: Path, points: Any, *more: Any) -> Path:
    people = [
        {"pose_keypoints_2d": [v for x, y in (one * (W, H)).tolist() for v in (x, y, 1)]}
        for one in (points, *more)
    ]
    path.write_text(json.dumps({"version": 1.3, "people": people}))
    return path


def coco(names: dict[str, Any]) -> str:
    """17 joints each, in pixels; the images' sizes are not stated."""
    order = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    annotations = [
        {"image_id": i, "keypoints": [v for j in order for v in (*(one[j] * (W, H)).tolist(), 2)]}
        for i, one in enumerate(names.values())
    ]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": annotations})


def csv_row(name: str, points: Any) -> str:
    y, x = (np.round(points[:, i] * (176, 256)[i]).astype(int).tolist() for i in (1, 0))
    return f"{name}: {y}: {x}"


def found(path: Path, **more: Any) -> Any:
    one = KeypointsBeside().find(path, **more)
    return None if one is None else (one.file.name, largest_fractions(one.frame))


def check(path: Path, name: str, points: Any, atol: float = 1e-9, **more: Any) -> None:
    file, got = found(path, **more)
    assert file == name
    joints = [j for j in range(18) if j != 1]  # COCO's form has no neck
    np.testing.assert_allclose(got[joints], points[joints], atol=atol)


def test_one_file_an_image(tmp_path: Path) -> None:
    path = image(tmp_path / "front.jpg")
    assert found(path) is None
    (tmp_path / "front.txt").write_text("a woman in a red dress\n")  # a caption
    assert found(path) is None
    padded = [f"{x * 176 + 40} {y * 256}" for x, y in leaning(0.3).tolist()]
    (tmp_path / "front.txt").write_text("\n".join(padded))
    check(path, "front.txt", leaning(0.3))
    (tmp_path / "front.txt").unlink()
    (tmp_path / "front.csv").write_text(csv_row("whatever.jpg", leaning(-0.1)))
    check(path, "front.csv", leaning(-0.1), 0.01)
    openpose(tmp_path / "front.json", leaning(0.1))
    check(path, "front.json", leaning(0.1))
    openpose(tmp_path / "front_keypoints.json", FIGURE)
    check(path, "front_keypoints.json", FIGURE)
    assert found(image(tmp_path / "back.jpg")) is None


def test_the_largest_of_several_people_is_used(tmp_path: Path) -> None:
    path = image(tmp_path / "front.jpg")
    openpose(tmp_path / "front.json", FIGURE * 0.3, FIGURE)
    check(path, "front.json", FIGURE)


def test_one_file_for_all(tmp_path: Path) -> None:
    front, side = image(tmp_path / "zoe/front.jpg"), image(tmp_path / "zoe/side.jpg")
    names = {"front.jpg": FIGURE, "side.jpg": leaning(0.1), "top.jpg": leaning(0.2)}
    (tmp_path / "zoe" / "keypoints.json").write_text(coco(names))
    check(front, "keypoints.json", FIGURE)
    check(side, "keypoints.json", leaning(0.1))
    assert found(image(tmp_path / "zoe/else.jpg")) is None
    openpose(tmp_path / "zoe" / "side.json", leaning(0.3))  # its own file before the list
    check(side, "side.json", leaning(0.3))
    (tmp_path / "zoe" / "keypoints.json").unlink()
    rows = [
        "name:keypoints_y:keypoints_x",
        csv_row("zoe/front.jpg", leaning(-0.1)),
        "bad: [1]: [2]",
    ]
    (tmp_path / "annotations.csv").write_text("\n".join(rows))
    assert found(front) is None, "only with a root is looked above the image's folder"
    check(front, "annotations.csv", leaning(-0.1), 0.01, root=tmp_path)


def test_a_pose_of_another_name_in_the_folder_is_not_used(tmp_path: Path) -> None:
    path = image(tmp_path / "person.jpg")
    openpose(tmp_path / "pose.json", FIGURE)
    openpose(tmp_path / "keypoints.json", FIGURE)  # one frame, of no named image
    (tmp_path / "package.json").write_text("{")
    assert found(path) is None


@pytest.mark.parametrize("name", ["person.json", "person_keypoints.json", "annotations.json"])
@pytest.mark.parametrize("text", ["{", '{"made_with": "a camera"}', '{"people": []}'])
def test_broken_files_are_reported(tmp_path: Path, name: str, text: str) -> None:
    path = image(tmp_path / "person.jpg")
    (tmp_path / name).write_text(text)
    with pytest.raises(XmdptError) as err:
        found(path)
    assert str(tmp_path / name) in err.value.message
    assert "--source-keypoints" in err.value.hint


def test_prepare_reads_files_beside_images(tmp_path: Path) -> None:
    """Files beside the images, a list in a person's folder, one in the root; no OpenPose."""
    for name in ("ann/front.jpg", "ann/back.jpg", "bob/1.png", "bob/2.png", "cy/a.jpg", "cy/b.jpg"):
        image(tmp_path / name)
    openpose(tmp_path / "ann/front.json", FIGURE, FIGURE * 0.4)
    openpose(tmp_path / "ann/back_keypoints.json", leaning(0.1))
    (tmp_path / "bob/annotations.json").write_text(coco({"1.png": leaning(0.2), "2.png": FIGURE}))
    (tmp_path / "coco.json").write_text(coco({"cy/a.jpg": FIGURE, "cy/b.jpg": leaning(0.1)}))
    listing = find_dataset(tmp_path)
    assert listing.without_keypoints() == 0
    got = {
        g.views[view].name: points for g in listing.items for view, points in g.keypoints.items()
    }
    want = {"ann/front.jpg": 0, "ann/back.jpg": 0.1, "bob/1.png": 0.2, "bob/2.png": 0,
            "cy/a.jpg": 0, "cy/b.jpg": 0.1}  # fmt: skip
    assert got.keys() == want.keys()
    joints = [j for j in range(18) if j != 1]
    for name, amount in want.items():
        np.testing.assert_allclose(got[name][joints], leaning(amount)[joints], atol=1e-9)
    assert "keypoints of 6 images in 4 files beside them" in listing.notes[0]
    assert [p.file for p in listing.problems if "several people" in p.reason] == ["ann/front.jpg"]
    assert find_dataset(tmp_path, detect=True).without_keypoints() == 6


def test_prepare_reports_unusable_files(tmp_path: Path) -> None:
    for name in ("ann/front.jpg", "ann/back.jpg", "bob/1.png", "bob/2.png"):
        image(tmp_path / name)
    openpose(tmp_path / "ann/front.json", FIGURE)
    (tmp_path / "ann/back.json").write_text('{"people": [')
    (tmp_path / "keypoints.json").write_text("[")
    listing = find_dataset(tmp_path)
    assert listing.without_keypoints() == 3
    why = {p.file: p.reason for p in listing.problems}
    assert sorted(why) == ["ann/back.json", "keypoints.json"]
    assert all("left to OpenPose" in reason for reason in why.values())


def test_a_large_list_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all images; but read again after it was changed."""
    reads = []
    read = keypoint_formats.read_json
    monkeypatch.setattr(
        keypoint_formats, "read_json", lambda p, *rest: (reads.append(p), read(p, *rest))[1]
    )
    names = {f"{i}.jpg": leaning(i / 100) for i in range(5)}
    (tmp_path / "keypoints.json").write_text(coco(names))
    for name, points in names.items():
        check(image(tmp_path / name), "keypoints.json", points)
    assert len(reads) == 1
    (tmp_path / "keypoints.json").write_text(coco({**names, "0.jpg": leaning(0.123)}))
    check(tmp_path / "0.jpg", "keypoints.json", leaning(0.123))
