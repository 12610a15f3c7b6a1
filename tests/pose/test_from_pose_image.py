"""Joints of pose images: the published ones, ours at any size, other programs' colours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Of

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import Manner, Window, draw_pose, render_pose
from xmdpt_cli.pose.formats.missing import without_missing
from xmdpt_cli.pose.frames import PADDED
from xmdpt_cli.pose.from_pose_image import check_joints, is_pose_image, pose_image_keypoints
from xmdpt_cli.pose.keypoints import JOINTS, from_fractions

Array = NDArray[np.float64]

WALKING = np.array([
    (0.52, 0.13), (0.51, 0.23), (0.42, 0.24), (0.36, 0.36), (0.43, 0.47), (0.60, 0.23),
    (0.68, 0.34), (0.74, 0.43), (0.46, 0.49), (0.37, 0.68), (0.30, 0.87), (0.56, 0.49),
    (0.61, 0.67), (0.60, 0.90), (0.49, 0.11), (0.55, 0.11), (0.45, 0.12), (0.59, 0.12),
])  # fmt: skip
# From behind, the legs not in the image.
HALF = WALKING * (1.3, 1.6) - (0.15, 0.02)
HALF[[0, 9, 10, 12, 13, 14, 15]] = np.nan


def errors(found: Array | None, want: Array, size: int) -> Array:
    """Distances in pixels of a 256 image; the same joints must be there."""
    assert found is not None
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    distances = np.hypot(*(found - want).T) * 256 / size
    return distances[np.isfinite(distances)]


def scaled(image: ImageArray, width: int, height: int) -> ImageArray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(image: ImageArray) -> ImageArray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=80)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize(("number", "size"), [*((n, 256) for n in range(7)), (4, 512)])
def test_published_pose_images(shared: Callable[[str], Path], number: int, size: int) -> None:
    raw = without_missing(np.loadtxt(shared(f"golden/pose/pose_{number}.txt")))
    want = from_fractions(PADDED.fractions(raw), size)
    rendered = np.asarray(Image.open(shared(f"golden/pose/pose_{number}_{size}.png")))
    off = errors(pose_image_keypoints(rendered), want, size)
    assert np.median(off) < 1
    assert (off <= 2).mean() >= 0.9


def test_official_pose_images_are_rendered_equal(shared: Callable[[str], Path]) -> None:
    folder = shared("deepfashion_sample/official")
    for path in sorted(folder.glob("*_pose.png"))[:3]:
        rendered = np.asarray(Image.open(path).convert("RGB"))
        found = pose_image_keypoints(rendered)
        assert found is not None
        again = draw_pose(found, rendered.shape[:2])
        apart = np.abs(again.astype(int) - rendered).max(axis=2) > 60
        assert apart.sum() < 0.25 * (rendered > 0).any(axis=2).sum()


@pytest.mark.parametrize("pose", [WALKING, HALF], ids=["walking", "half"])
@pytest.mark.parametrize(("rendered_at", "size"), [(256, 192), (256, 1024), (512, 256)])
def test_pose_images_of_any_size(pose: Array, rendered_at: int, size: int) -> None:
    image = scaled(draw_pose(pose * rendered_at, rendered_at), size, size)
    assert is_pose_image(image)
    off = errors(pose_image_keypoints(image), pose * size, size)
    assert np.median(off) < 1
    assert (off <= 2).mean() >= 0.9


def test_pose_images_that_are_not_square_and_jpeg_files() -> None:
    for width, height in ((176, 256), (420, 240)):
        rendered = draw_pose(WALKING * (width, height), (height, width))
        for image in (rendered, jpeg(rendered)):
            off = errors(pose_image_keypoints(image), WALKING * (width, height), height)
            assert np.median(off) < 1
            assert (off <= 2).mean() >= 0.9


@pytest.mark.parametrize("pose", [WALKING, HALF], ids=["walking", "half"])
@pytest.mark.parametrize("size", [(384, 256), (240, 360)])
def test_controlnet_aux_and_swapped_colours(pose: Array, size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        util = pytest.importorskip("controlnet_aux.open_pose.util")
    height, width = size
    points = [Of(x=x, y=y) if x == x else None for x, y in pose.tolist()]
    theirs = util.draw_bodypose(np.zeros((height, width, 3), dtype=np.uint8), points)
    half = scaled(theirs, width * 3 // 4, height * 3 // 4)
    swapped = np.ascontiguousarray(draw_pose(pose * (width, height), size)[:, :, ::-1])
    for image in (theirs, half, swapped):
        want = pose * image.shape[1::-1]
        off = errors(pose_image_keypoints(image), want, image.shape[0])
        assert np.median(off) < 1
        assert (off <= 2).mean() >= 0.9


def test_rendering_equals_the_published_one_and_controlnet_auxs() -> None:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        util = pytest.importorskip("controlnet_aux.open_pose.util")
    for _ in range(20):
        points = rng.uniform(-0.2, 1.2, (18, 2)) * (200, 300)
        points[rng.integers(18)] = np.nan
        whole = draw_pose(points, (300, 200))
        again = render_pose(points, Window(0, 0, 200, 300), Manner.BLENDED)
        np.testing.assert_array_equal(again, whole)
        part = render_pose(points, Window(40, 60, 150, 280), Manner.BLENDED)
        # OpenCV cuts a line off at the border: beside it a pixel may be another
        assert (part != whole[60:280, 40:150]).any(axis=2).mean() < 0.001
        canvas = np.zeros((300, 200, 3), dtype=np.uint8)
        theirs = util.draw_bodypose(
            canvas, [Of(x=x / 200, y=y / 300) if x == x else None for x, y in points.tolist()]
        )
        part = render_pose(points, Window(0, 0, 200, 300), Manner.OPAQUE)
        # they go by way of fractions: a rounding may move a joint by a pixel
        assert (part[:, :, ::-1] != theirs).any(axis=2).mean() < 0.01


def test_other_images_are_not_pose_images(shared: Callable[[str], Path]) -> None:
    for folder in ("photos", "deepfashion_sample/img_highres"):
        for path in sorted(shared(folder).rglob("*.jpg"))[:20]:
            photograph = np.asarray(Image.open(path).convert("RGB").resize((200, 280)))
            for light in (1.0, 0.3, 0.1):
                assert not is_pose_image((photograph * light).astype(np.uint8)), path.name


def test_dark_images_are_not_pose_images() -> None:
    rng = np.random.default_rng(0)
    black = np.zeros((256, 256, 3), dtype=np.uint8)
    assert not is_pose_image(black)
    assert pose_image_keypoints(black) is None
    noise = rng.integers(0, 40, (256, 256, 3), dtype=np.uint8)
    lamp = black.copy()
    lamp[100:140, 100:140] = (250, 240, 200)
    portrait = black.copy()
    portrait[60:200, 80:180] = (150, 105, 85)  # skin before black cloth
    dress = noise.copy()
    dress[60:230, 80:180] = (150, 20, 40)
    for image in (noise, lamp, portrait, dress):
        assert not is_pose_image(image)


def test_two_people_are_refused() -> None:
    one, two = WALKING * (200, 256), WALKING * (200, 256) + (250, 0)
    both = np.maximum(draw_pose(one, (256, 450)), draw_pose(two, (256, 450)))
    with pytest.raises(XmdptError, match="not found") as err:
        pose_image_keypoints(both)
    assert "#0000ff" in err.value.hint  # the published nose
    assert "one person" in err.value.hint


def test_few_joints() -> None:
    points = np.full((18, 2), np.nan)
    points[:3] = 5
    with pytest.raises(XmdptError, match="3 of 18 joints"):
        check_joints(points)
    points[:4] = 5
    assert "4 of 18" in (check_joints(points) or "")
    points[:9] = 5
    assert check_joints(points) is None
    assert len(JOINTS) == 18
