"""What the model is shown of a photograph: geometry, and DeepFashion's own images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.formats import read_poses
from xmdpt_cli.pose.framing import frame, frame_poses
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.pose.person_box import person_box

# Somebody standing in DeepFashion's frame, as fractions of its width and height.
STANDING = np.array([
    (0.51, 0.10), (0.51, 0.207), (0.40, 0.21), (0.37, 0.33), (0.36, 0.45), (0.62, 0.21),
    (0.65, 0.33), (0.66, 0.45), (0.45, 0.475), (0.45, 0.68), (0.45, 0.893), (0.57, 0.475),
    (0.57, 0.68), (0.57, 0.893), (0.49, 0.084), (0.53, 0.084), (0.46, 0.09), (0.56, 0.09),
])  # fmt: skip
LEGS = [JOINTS.index(f"{side}_{part}") for side in ("right", "left") for part in ("knee", "ankle")]
Array = NDArray[np.float64]


def placed(left: float, top: float, height: float) -> Array:
    """STANDING in a 176:256 frame of a larger image."""
    return STANDING * (height * 176 / 256, height) + (left, top)


def marked(width: int, height: int, points: Array, half: int = 3) -> Image.Image:
    """A grey image with a blot at every point; blots are as wide as high."""
    pixels = np.full((height, width, 3), 200, dtype=np.uint8)
    for x, y in points.round().astype(int):
        pixels[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = 0
    return Image.fromarray(pixels)


def darkness_at(image: NDArray[np.uint8], points: Array) -> NDArray[np.uint8]:
    x, y = np.clip(points.astype(int), 0, len(image) - 1).T
    return 255 - image[y, x, 0]


def test_squash_is_the_published_way(shared: Callable[[str], Path]) -> None:
    image = Image.open(shared("photos/deepfashion_raw_750x1101.jpg")).convert("RGB")
    want = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC))
    framed = frame(image, None, 256)
    np.testing.assert_array_equal(framed.image, want)
    assert framed.box == (0, 0, 750, 1101)
    assert "750 x 1101 squashed" in framed.note


@pytest.mark.parametrize("fit", ["squash", "pad", "person"])
@pytest.mark.parametrize(("width", "height"), [(900, 600), (400, 800), (600, 600)])
def test_keypoints_follow_the_image(fit: str, width: int, height: int) -> None:
    points = placed(100, 30, 400)
    framed = frame(marked(width, height, points), points, 256, fit)
    assert framed.image.shape == (256, 256, 3)
    assert framed.keypoints is not None
    assert darkness_at(framed.image, framed.keypoints).min() > 150
    assert darkness_at(framed.image, framed.keypoints + (14, -14)).mean() < 100


def test_pad_keeps_the_proportions_of_176_to_256() -> None:
    image = Image.new("RGB", (900, 600), (10, 120, 230))
    framed = frame(image, np.array([[450.0, 300.0], [650.0, 500.0]] * 9), 256, "pad")
    assert framed.box.left == 0
    assert framed.box.right == 900
    assert framed.box.width / framed.box.height == pytest.approx(176 / 256)
    assert framed.keypoints is not None
    np.testing.assert_allclose(framed.keypoints[0], (128, 128))
    # 200 pixels to the right and down: in the square as far apart as after squashing 176:256
    across, down = framed.keypoints[1] - framed.keypoints[0]
    assert across / down == pytest.approx(256 / 176)
    assert (framed.image == (10, 120, 230)).all(), "the border continues beyond it"


def test_the_background_continues_without_the_body_at_the_edge() -> None:
    pixels = np.full((300, 600, 3), 220, dtype=np.uint8)
    pixels[100:, 200:400] = (200, 20, 20)  # cut by the bottom
    framed = frame(Image.fromarray(pixels), None, 128, "pad")
    assert (framed.image[-20:] == 220).all()
    assert (framed.image[:20] == 220).all()
    assert (framed.image[64, 64] == (200, 20, 20)).all()


@pytest.mark.parametrize("cut", ["ankles", "knees", "hips"])
def test_the_person_box_is_the_frame_it_came_from(cut: str) -> None:
    points = STANDING.copy()
    if cut == "knees":  # the medians of that kind of image
        points[LEGS] = [(0.45, 0.965), (np.nan, np.nan), (0.57, 0.965), (np.nan, np.nan)]
        points[:, 1] += np.where(points[:, 1] < 0.1, 0.018, 0)
    elif cut == "hips":
        points[LEGS] = np.nan
        points[[8, 11], 1] = 0.781
        points[:, 1] += np.where(points[:, 1] < 0.1, 0.029, 0)
    for left, top, height in ((0, 0, 256), (300, 500, 512), (-40, -30, 1000)):
        here = points * (height * 176 / 256, height) + (left, top)
        box = person_box(here, (4000, 3000))
        want = (left, top, left + height * 176 / 256, top + height)
        np.testing.assert_allclose(box, want, atol=0.025 * height)


def test_real_frames_are_found_again(shared: Callable[[str], Path]) -> None:
    frames = read_poses(shared("deepfashion_sample/fasion-resize-annotation-train.csv"))
    overlaps = []
    for points in (one.people[0] for one in frames):
        box = person_box(points * (176, 256) + (400, 100), (356, 1000))
        across = min(box.right, 576) - max(box.left, 400)
        down = min(box.bottom, 356) - max(box.top, 100)
        both = max(across, 0) * max(down, 0)
        overlaps.append(both / (box.width * box.height + 176 * 256 - both))
    assert np.median(overlaps) > 0.8
    assert np.percentile(overlaps, 10) > 0.6


def test_every_joint_is_inside_the_box() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        points = rng.uniform((0, 0), (800, 600), (18, 2))  # lying, spread, upside down
        points[rng.random(18) < rng.uniform(0, 0.9)] = np.nan
        points[rng.integers(18)] = (400, 300)
        box = person_box(points, (600, 800))
        seen = points[np.isfinite(points).all(axis=1)]
        assert ((seen >= box[:2]) & (seen <= box[2:])).all()
        assert box.width / box.height == pytest.approx(176 / 256)


def test_a_body_that_leaves_the_image_leaves_the_box() -> None:
    half = placed(300, 60, 700)
    half[LEGS] = np.nan
    cut_below_the_hips = int(half[8, 1] + 20)
    assert person_box(half, (2000, 1000)).bottom > cut_below_the_hips + 50
    assert person_box(half, (cut_below_the_hips, 1000)).bottom == cut_below_the_hips
    whole = placed(300, 60, 700)
    assert person_box(whole, (690, 1000)).bottom > 690, "feet stand on ground, not on the edge"


def test_auto_squashes_images_of_the_shape() -> None:
    near = placed(0, 0, 560)
    for width, height in ((176, 256), (750, 1101), (420, 560), (585, 879)):
        assert "squashed" in frame(Image.new("RGB", (width, height)), None, 64).note
    assert "squashed" in frame(Image.new("RGB", (420, 560)), near, 64).note
    assert "the person's" in frame(Image.new("RGB", (420, 560)), placed(100, 200, 250), 64).note
    wide = frame(Image.new("RGB", (1920, 1080)), placed(900, 100, 800), 64)
    assert "the person's 550 x 800 of 1920 x 1080" in wide.note
    with pytest.raises(XmdptError, match=r"1920 x 1080.*176 x 256") as err:
        frame(Image.new("RGB", (1920, 1080)), None, 64)
    assert all(f"--fit {fit}" in err.value.hint for fit in ("pad", "squash", "person"))
    with pytest.raises(XmdptError, match="needs the place of the person"):
        frame(Image.new("RGB", (176, 256)), np.full((18, 2), np.nan), 64, "person")
    with pytest.raises(ConfigError, match="no such fit"):
        frame(Image.new("RGB", (176, 256)), None, 64, "stretch")  # type: ignore[arg-type]


def test_grey_columns_are_cut_off() -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((256, 256, 3), 240, dtype=np.uint8)
    pixels[:, 41:215] = rng.integers(0, 256, (256, 174, 3), dtype=np.uint8)
    points = STANDING * (174, 256) + (41, 0)
    framed = frame(Image.fromarray(pixels), points, 128)
    want = Image.fromarray(pixels[:, 41:215].copy()).resize((128, 128), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(framed.image, np.asarray(want))
    assert framed.keypoints is not None
    np.testing.assert_allclose(framed.keypoints, STANDING * 128)
    assert framed.box == (41, 0, 215, 256)
    assert "grey columns" in framed.note


def test_small_and_empty_images() -> None:
    with pytest.raises(XmdptError, match="1 x 1"):
        frame(Image.new("RGB", (1, 1)), None, 64, "squash")
    assert "only 44 x 64 pixels" in frame(Image.new("RGB", (44, 64)), None, 64).note
    note = frame(Image.new("RGB", (1920, 1080)), placed(900, 100, 80), 64).note
    assert "only 55 x 80 pixels" in note
    with pytest.raises(XmdptError, match="nothing of the 400 x 300"):
        frame(Image.new("RGB", (400, 300)), placed(900, 700, 200), 64, "person")
    with pytest.raises(XmdptError, match="nothing of the 20000 x 100"):
        frame(Image.new("RGB", (20_000, 100)), None, 64, "pad")


def test_poses_are_framed_as_images_are() -> None:
    points = placed(900, 100, 800)
    framed = frame(Image.new("RGB", (1920, 1080)), points, 256)
    (moved,), note = frame_poses([points], (1080, 1920), 256)
    np.testing.assert_allclose(moved, framed.keypoints)
    assert note == framed.note
    np.testing.assert_allclose(moved / 256, STANDING, atol=0.02)
    # far away in an image of the right shape: as large as in the training data all the same
    (moved,), _ = frame_poses([placed(200, 700, 300)], (1600, 1100), 512)
    np.testing.assert_allclose(moved / 512, STANDING, atol=0.02)
    # fractions are of 176 x 256
    (moved,), note = frame_poses([STANDING], None, 256)
    np.testing.assert_allclose(moved, STANDING * 256)
    with pytest.raises(XmdptError, match="without a single joint"):
        frame_poses([np.full((18, 2), np.nan)], (100, 100), 64)


def test_a_sequence_moves_in_one_box() -> None:
    walk = [placed(100 + 40 * step, 100, 800) for step in range(5)]
    moved, _ = frame_poses(walk, (1080, 1920), 256)
    steps = [b - a for a, b in pairwise(moved)]
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], (4, 18, 2)))
    assert steps[0][0, 0] > 0
    assert steps[0][0, 1] == pytest.approx(0)
    assert np.min(moved) > 0
    assert np.max(moved) < 256
