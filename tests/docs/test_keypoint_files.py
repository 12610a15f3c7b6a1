"""The files to copy in docs/keypoints describe one person, and docs/keypoints.md links each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.pose.formats import SUFFIXES, read_poses
from xmdpt_cli.pose.from_pose_image import pose_image_keypoints

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "keypoints"
HEIGHT, WIDTH = 256, 176  # of person.jpg
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in SUFFIXES)


def person() -> np.ndarray:
    """The joints (18, 2) in fractions, read from the plainest file without xmdpt."""
    node = json.loads((FOLDER / "xmdpt.json").read_text(encoding="utf-8"))
    assert (node["width"], node["height"]) == (WIDTH, HEIGHT)
    return np.array(node["keypoints"]) / (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_person(name: str) -> None:
    frames = read_poses(FOLDER / name, lambda _: (HEIGHT, WIDTH))
    points = frames[0].people[0]
    if frames[0].size is not None:
        points = points / frames[0].size[::-1]
    if name == "wave.json":  # a sequence: the right wrist moves
        assert len(frames) == 6
        points[4] = person()[4]
    assert points == pytest.approx(person(), abs=1e-9)


def test_the_pose_image_shows_the_same_person() -> None:
    points = pose_image_keypoints(np.asarray(Image.open(FOLDER / "pose.png").convert("RGB")))
    assert points is not None
    off = np.hypot(*(points - person() * 256).T)
    assert off.max() < 6  # the limit that the page states
    assert np.median(off) < 1


def test_the_page_links_every_file() -> None:
    text = (DOCS / "keypoints.md").read_text(encoding="utf-8")
    missing = [path.name for path in FOLDER.iterdir() if f"](keypoints/{path.name})" not in text]
    assert not missing
