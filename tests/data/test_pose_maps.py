"""Kept pose maps equal drawn ones, and stay below a limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from xmdpt_cli.data.pose_maps import PoseMaps
from xmdpt_cli.pose.drawing import draw_pose_map
from xmdpt_cli.pose.keypoints import Keypoints


def poses(size: int, count: int = 20) -> list[Keypoints]:
    """Random poses, some joints missing or outside of the image; the first has no joint at all."""
    rng = np.random.default_rng(0)
    made = rng.uniform(-0.1, 1.1, (count, 18, 2)) * size
    made[rng.uniform(size=(count, 18)) < 0.3] = np.nan
    made[0] = np.nan
    return list(made)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_kept_maps_equal_drawn_ones(size: int) -> None:
    maps, points, asked = PoseMaps(size), poses(size), []

    def keypoints(row: int) -> Keypoints:
        asked.append(row)
        return points[row]

    for _ in range(2):
        for row, pose in enumerate(points):
            image = maps.get(row, partial(keypoints, row))
            np.testing.assert_array_equal(image, draw_pose_map(pose, size))
    assert asked == list(range(len(points)))  # drawn once


def test_a_map_that_a_caller_changes_is_not_changed_for_others() -> None:
    maps, points = PoseMaps(64), poses(64)
    for _ in range(3):
        image = maps.get(1, partial(points.__getitem__, 1))
        np.testing.assert_array_equal(image, draw_pose_map(points[1], 64))
        image[:] = 7


def test_the_least_recently_used_maps_are_dropped() -> None:
    points = poses(64)
    maps = PoseMaps(64)
    for row in range(1, 5):
        maps.get(row, partial(points.__getitem__, row))
    limit = maps.nbytes
    maps = PoseMaps(64, limit)
    for row in (1, 2, 3, 4):
        maps.get(row, partial(points.__getitem__, row))
    refuse: list[Keypoints] = []
    maps.get(1, refuse.pop)  # kept, and used now
    for row in (5, 6):
        maps.get(row, partial(points.__getitem__, row))
        assert maps.nbytes <= limit
    with pytest.raises(IndexError):
        maps.get(2, refuse.pop)  # dropped
    maps.get(6, refuse.pop)


def test_threads_share_it() -> None:
    points = poses(64)
    maps = PoseMaps(64, limit=4000)
    rows = np.random.default_rng(1).integers(0, len(points), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda row: maps.get(row, partial(points.__getitem__, row)), rows))
    for row, image in zip(rows, made, strict=True):
        np.testing.assert_array_equal(image, draw_pose_map(points[row], 64))
    assert 0 < maps.nbytes <= 4000
