"""The pose image against the published drawing, and against a straight transcription of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmdpt_cli.pose.drawing import COLOURS, draw_pose, draw_pose_map
from xmdpt_cli.pose.formats.missing import without_missing
from xmdpt_cli.pose.frames import PADDED, PUBLISHED, CoordinateFrame
from xmdpt_cli.pose.keypoints import JOINTS, LIMBS, from_fractions


def placed(
    raw: NDArray[np.float64], frame: CoordinateFrame, size: int | tuple[int, int]
) -> NDArray[np.float64]:
    """Keypoints of a published file -> pixels of an image of ``size``."""
    return from_fractions(frame.fractions(without_missing(raw)), size)


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("number", range(8))
def test_published_rendering(shared: Callable[[str], Path], number: int, size: int) -> None:
    raw = np.loadtxt(shared(f"golden/pose/pose_{number}.txt"))
    want = np.asarray(Image.open(shared(f"golden/pose/pose_{number}_{size}.png")))
    np.testing.assert_array_equal(draw_pose(placed(raw, PADDED, size), size), want)


def draw_straight(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """The published rendering, written plainly: the whole image is blended for every limb."""
    canvas = np.zeros((height, width, 3), np.uint8)
    seen = ~np.isnan(points).any(axis=1)
    for joint in range(18):
        if seen[joint]:
            centre = (int(points[joint, 0]), int(points[joint, 1]))
            cv2.circle(canvas, centre, 4, COLOURS[joint], thickness=-1)
    for limb, (a, b) in enumerate(LIMBS):
        if seen[a] and seen[b]:
            (xa, ya), (xb, yb) = points[a], points[b]
            length = math.sqrt((xa - xb) ** 2 + (ya - yb) ** 2)
            centre = (int(np.mean([xa, xb])), int(np.mean([ya, yb])))
            angle = int(math.degrees(math.atan2(ya - yb, xa - xb)))
            polygon = cv2.ellipse2Poly(centre, (int(length / 2), 4), angle, 0, 360, 1)
            copy = canvas.copy()
            cv2.fillConvexPoly(copy, np.asarray(polygon), COLOURS[limb])
            canvas = cv2.addWeighted(canvas, 0.4, copy, 0.6, 0)
    return canvas[:, :, ::-1]


def test_rendering_by_bounding_boxes_equals_the_full_rendering() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(32, 400, 2))
        # some joints lie outside the image: limbs are cut off at its border
        points = rng.uniform(-0.3, 1.3, (18, 2)) * (width, height)
        points[rng.random(18) < 0.2] = np.nan
        want = draw_straight(points, height, width)
        np.testing.assert_array_equal(draw_pose(points, (height, width)), want)


def test_no_joints_is_black() -> None:
    for missing in (np.nan, -1.0):
        rendered = draw_pose(np.full((18, 2), missing), (64, 44))
        assert rendered.shape == (64, 44, 3)
        assert rendered.dtype == np.uint8
        assert not rendered.any()


def test_one_joint_has_its_colour_reversed() -> None:
    points = np.full((18, 2), np.nan)
    points[1] = (20.9, 30.9)
    rendered = draw_pose(points, 64)
    assert rendered[30, 20].tolist() == [0, 85, 255]  # 255, 85, 0 with its channels reversed
    assert rendered.any(axis=2).sum() == cv2.circle(np.zeros((64, 64)), (20, 30), 4, 1, -1).sum()


def test_frames() -> None:
    raw = np.full((18, 2), -1.0)
    raw[0] = (40 + 88, 128)
    raw[1] = (39.3125, 0)  # becomes exactly x = -1 at 256 px: left of the image, not missing
    padded = placed(raw, PADDED, (512, 352))
    np.testing.assert_allclose(padded[0], (176, 256))
    assert np.isnan(padded[2:]).all()
    np.testing.assert_allclose(placed(raw, PADDED, 256)[1], (-1, 0))
    narrow = placed(raw - np.where(raw == -1, 0, (40, 0)), PUBLISHED, (512, 352))
    np.testing.assert_allclose(narrow, padded)


def test_a_joint_left_of_the_image_is_rendered() -> None:
    points = np.full((18, 2), np.nan)
    points[0] = (-1, 10)
    assert draw_pose(points, 32)[10, 0].tolist() == [0, 0, 255]


def test_eighteen_names() -> None:
    assert len(JOINTS) == len(set(JOINTS)) == 18
    assert JOINTS[0] == "nose"
    assert JOINTS[4] == "right_wrist"
    assert JOINTS[17] == "left_ear"


def test_pose_maps_are_the_rendering_or_its_block_means() -> None:
    points = np.random.default_rng(0).uniform(10, 54, (18, 2))
    points[3] = np.nan
    points[4] = -1
    big = np.where(points == -1, -1, points * 4)
    assert np.array_equal(draw_pose_map(big, 256), draw_pose(big, 256))
    blocks = draw_pose(big, 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(draw_pose_map(points, 64) - blocks).max() <= 0.5 + 1e-6
    assert draw_pose_map(np.full((18, 2), np.nan), 32).max() == 0
