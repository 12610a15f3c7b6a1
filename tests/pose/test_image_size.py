"""OpenPose's own JSON, which does not state the size of its image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.images import generated_metadata, save_png
from xmdpt_cli.pose.formats import read_poses
from xmdpt_cli.pose.formats.image_size import (
    UnstatedSize,
    check_pose_size,
    image_beside,
    parse_size,
)


def openpose(*people: Any) -> dict[str, Any]:
    """What OpenPose writes: version 1.3, pixels, 0 0 0 for a joint that is not seen."""
    listed = [
        {"person_id": [-1], "pose_keypoints_2d": [v for x, y in one for v in (x, y, 0.9)]}
        for one in people
    ]
    return {"version": 1.3, "people": listed}


def write(path: Path, *people: Any) -> Path:
    path.write_text(json.dumps(openpose(*(np.asarray(one).tolist() for one in people))))
    return path


def image(path: Path, width: int, height: int, **more: Any) -> Path:
    Image.new("RGB", (width, height)).save(path, **more)
    return path


def test_sources_of_the_size_in_order(tmp_path: Path) -> None:
    file = write(tmp_path / "walk_keypoints.json", FIGURE * (300, 400))
    with pytest.raises(XmdptError, match="size of their image is not known") as err:
        read_poses(file)
    for way in ("--pose-size WxH", "the same name, beside the file", "source image", "canvas"):
        assert way in err.value.hint
    source = UnstatedSize(file, source=(900, 800))
    assert read_poses(file, source)[0].size == (900, 800)
    assert "800 x 900 (the size of the source image" in source.notes[0]
    image(tmp_path / "walk.JPG", 320, 480)
    beside = UnstatedSize(file, source=(900, 800))
    [frame] = read_poses(file, beside)
    assert frame.size == (480, 320)
    np.testing.assert_allclose(frame.people[0], FIGURE * (300, 400))
    assert "320 x 480 (the size of walk.JPG beside it)" in beside.notes[0]
    given = UnstatedSize(file, given=(310, 410), source=(900, 800))
    assert read_poses(file, given)[0].size == (410, 310)
    assert "--pose-size" in given.notes[0]


def test_the_stated_size_is_used(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    points = (FIGURE * (90, 120)).tolist()
    file.write_text(json.dumps({"keypoints": points, "width": 100, "height": 130}))
    image(tmp_path / "a.png", 320, 480)
    size_of = UnstatedSize(file, given=(310, 410))
    assert read_poses(file, size_of)[0].size == (130, 100)
    assert size_of.notes == []


def test_the_size_of_a_rotated_photograph_is_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image(tmp_path / "a.jpg", 480, 320, exif=exif)
    file = write(tmp_path / "a.json", FIGURE * (300, 400))
    assert read_poses(file, UnstatedSize(file))[0].size == (480, 320)


def test_images_that_the_file_names(tmp_path: Path) -> None:
    """COCO's form without sizes: each frame's own image."""
    coco = [
        {"image_id": f"{name}.jpg", "keypoints": [v for x, y in rows for v in (x, y, 2)]}
        for name, rows in (("a", (FIGURE[:17] * 90).tolist()), ("b", (FIGURE[:17] * 190).tolist()))
    ]
    (tmp_path / "all.json").write_text(json.dumps(coco))
    image(tmp_path / "a.jpg", 100, 110)
    image(tmp_path / "b.jpg", 200, 210)
    file = tmp_path / "all.json"
    assert [f.size for f in read_poses(file, UnstatedSize(file))] == [(110, 100), (210, 200)]


def test_several_images_of_one_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", FIGURE * (90, 100))
    image(tmp_path / "a.jpg", 100, 110)
    image(tmp_path / "a.png", 100, 110)
    assert image_beside(file) == tmp_path / "a.jpg"
    image(tmp_path / "a.png", 200, 210)
    with pytest.raises(XmdptError, match=r"a\.jpg, a\.png beside it .* different sizes") as err:
        read_poses(file, UnstatedSize(file))
    assert "--pose-size" in err.value.hint
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(XmdptError, match=r"not an image .*a\.png"):
        read_poses(file, UnstatedSize(file))
    assert read_poses(file, UnstatedSize(file, given=(100, 110)))[0].size == (110, 100)


def test_joints_outside_of_that_size(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", FIGURE * (300, 400))
    with pytest.raises(
        XmdptError, match=r"of 18 joints lie outside of an image of 100 x 90"
    ) as err:
        read_poses(file, UnstatedSize(file, given=(100, 90)))
    assert "go up to 276, 384" in err.value.message
    assert "--pose-size" in err.value.hint
    # an estimator puts a hidden foot a little below the image
    assert read_poses(file, UnstatedSize(file, given=(300, 370)))


@pytest.mark.parametrize(
    "bad", ["0x0", "abc", "", "100", "1x100", "-5x10", "10x", "1e3x10", "100x999999", "10x20x30"]
)
def test_an_unknown_size_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError) as err:
        parse_size(bad)
    assert "750x1101" in err.value.hint
    assert bad in err.value.message


def test_sizes() -> None:
    assert parse_size("750x1101") == parse_size(" 750 X 1101 ") == (750, 1101)
    for bad in ((0, 5), (5,), (5, 5, 5), ("5", "6"), (5.5, 6), (True, 5)):
        with pytest.raises(ConfigError, match="pose size"):
            check_pose_size(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_a_generated_image_is_not_taken_for_the_image_of_the_pose(
    tmp_path: Path, suffix: str
) -> None:
    """``--pose walk.json --animate walk.webp`` leaves an image of the same name beside it."""
    from xmdpt_cli.sampling.animation import write_animation
    from xmdpt_cli.sampling.png_writer import png_text

    made, metadata = tmp_path / f"walk.{suffix}", {"toy": True, "note": "\"a\" & 'b' < c"}
    pixels = np.zeros((64, 44, 3), np.uint8)
    if suffix == "png":
        save_png(made, pixels, png_text(metadata))
    else:
        write_animation(made, [pixels, pixels + 9], 10, metadata)
    assert generated_metadata(made) == metadata
    assert image_beside(tmp_path / "walk.json") is None
    Image.new("RGB", (750, 1101)).save(tmp_path / "walk.jpg")
    assert image_beside(tmp_path / "walk.json") == tmp_path / "walk.jpg"
    assert generated_metadata(tmp_path / "walk.jpg") is None
