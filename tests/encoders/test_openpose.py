"""OpenPose's wrapper: loading, coordinates, errors. The network itself is controlnet-aux's."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace as Of
from typing import Any

import numpy as np
import pytest
import torch
from stick_people import StickPeople, grey, standing, with_network

from xmdpt_cli.encoders.openpose import DETECT_HEIGHT, OpenPose
from xmdpt_cli.errors import XmdptError


class FixedPeople:
    """Replaces controlnet-aux's detector; returns normalised keypoints."""

    def __init__(self, *people: tuple[float, list[Any]]) -> None:
        self.people = [Of(body=Of(total_score=s, keypoints=k)) for s, k in people]

    def detect_poses(self, image: np.ndarray) -> list[Any]:
        return self.people


def test_the_most_confident_person_in_pixels() -> None:
    blank = np.zeros((200, 100, 3), dtype=np.uint8)
    nose, ear = Of(x=0.25, y=0.5), Of(x=0.5, y=0.125)
    weak = (3.0, [Of(x=0.9, y=0.9)] * 18)
    strong = (9.0, [nose, *[None] * 16, ear])
    points = OpenPose(FixedPeople(weak, strong)).keypoints(blank)
    assert points is not None
    assert points.dtype == np.float64
    assert points[0].tolist() == [25.0, 100.0]
    assert points[17].tolist() == [50.0, 25.0]
    assert np.isnan(points[1:17]).all()
    assert OpenPose(FixedPeople()).keypoints(blank) is None


@pytest.fixture(scope="module")
def body_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body file of the right shape; its weights are random, its maps full of peaks."""
    pytest.importorskip("controlnet_aux.open_pose")
    from controlnet_aux.open_pose.model import bodypose_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = bodypose_model()
        for part in net.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(part.weight)
                torch.nn.init.normal_(part.bias, std=0.05)
    # the published file names layers without the submodule's name
    state = {key.split(".", 1)[1]: value for key, value in net.state_dict().items()}
    folder = tmp_path_factory.mktemp("openpose")
    torch.save(state, folder / "body_pose_model.pth")
    return folder


@pytest.fixture(scope="module")
def random_openpose(body_folder: Path) -> OpenPose:
    return OpenPose.load(body_folder)


def assert_same(many: list[Any], one_by_one: list[Any]) -> None:
    assert len(many) == len(one_by_one)
    for a, b in zip(many, one_by_one, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_batches_give_the_same_keypoints_as_single_images(random_openpose: OpenPose) -> None:
    openpose = random_openpose
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (40, 24), (96, 72)]  # two shapes for the network
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    many = openpose.keypoints_batch(images)
    assert_same(many, [openpose.keypoints(image) for image in images])
    assert any(points is not None for points in many), "no person is found"
    assert openpose.keypoints_batch([]) == []


def test_describe_identifies_the_network(body_folder: Path, random_openpose: OpenPose) -> None:
    file = body_folder / "body_pose_model.pth"
    described = random_openpose.describe()
    assert described["kind"] == "local"
    assert described["id"] == str(body_folder)
    assert described["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (described["joints"], described["dtype"]) == (18, "float32")
    assert json.loads(json.dumps(described)) == described


ALONE, CROWD, EMPTY, ARMLESS = 40, 90, 140, 190
PEOPLE = {
    ALONE: [standing(0.2, 0.8)],
    CROWD: [standing(0.02, 0.48, confidence=0.6), standing(0.52, 0.98, confidence=0.95)],
    ARMLESS: [standing(0.2, 0.8, absent=4)],
}


def test_known_joints_are_detected() -> None:
    network = StickPeople(PEOPLE)
    openpose = with_network(network)
    images = [
        grey(ALONE, 368, 256), grey(EMPTY, 184, 128), grey(CROWD, 184, 216),
        grey(ARMLESS, 368, 256), grey(ALONE, 1101, 766), grey(ALONE, 64, 64),
    ]  # fmt: skip
    found = openpose.keypoints_batch(images, threads=2)
    # four of them scale to 184 x 128, one to 184 x 216, one to 184 x 184
    assert sorted(network.batches) == [1, 1, 4]
    assert found[1] is None
    persons = [ALONE, EMPTY, CROWD, ARMLESS, ALONE, ALONE]
    for value, image, points in zip(persons, images, found, strict=True):
        if value == EMPTY:
            continue
        assert points is not None
        height, width = image.shape[:2]
        _, joints = max(PEOPLE[value], key=lambda person: person[0])
        np.testing.assert_array_equal(np.isnan(points), np.isnan(joints))
        off = np.nanmax(np.abs(points - joints * (width, height)))
        # a third of a map's cell, of which there are 23 in the height; joints are whole pixels
        assert off <= max(height / 23 / 3, 1.0)
    assert_same(found, [openpose.keypoints(image) for image in images])


def test_people_are_sorted_by_size() -> None:
    small, large = standing(0.02, 0.3, confidence=0.95), standing(0.4, 0.98, confidence=0.6)
    openpose = with_network(StickPeople({CROWD: [small, large], EMPTY: []}))
    image = grey(CROWD, 184, 216)
    found = openpose.people(image)
    assert len(found) == 2
    for points, (_, joints) in zip(found, (large, small), strict=True):
        assert np.nanmax(np.abs(points - joints * (216, 184))) <= 184 / 23 / 3
    best = openpose.keypoints(image)
    assert best is not None
    np.testing.assert_array_equal(best, found[1])  # prepare takes the most confident
    assert openpose.people(grey(EMPTY, 184, 216)) == []
    assert openpose.people(grey(CROWD, 2, 3000)) == []


def test_equally_large_people_are_sorted_by_score() -> None:
    joints = [Of(x=0.25, y=0.5), *[None] * 16, Of(x=0.5, y=0.125)]
    moved = [Of(x=0.35, y=0.5), *[None] * 16, Of(x=0.6, y=0.125)]
    hidden = (99.0, [None] * 18)
    found = OpenPose(FixedPeople((3.0, joints), hidden, (9.0, moved))).people(grey(ALONE, 200, 100))
    assert [points[0].tolist() for points in found] == [[35.0, 100.0], [25.0, 100.0]]


def test_threads_share_one_openpose() -> None:
    openpose = with_network(StickPeople(PEOPLE))
    parts = [[grey(ALONE, 92, 64)], [grey(EMPTY, 92, 64)], [grey(CROWD, 92, 108)]] * 3
    alone = [openpose.keypoints_batch(part)[0] for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = [found[0] for found in pool.map(openpose.keypoints_batch, parts)]
    assert_same(together, alone)


def test_tall_images_are_reduced_and_strips_are_skipped() -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(FixedPeople):
        def detect_poses(self, image: np.ndarray) -> list[Any]:
            seen.append(image.shape)
            return self.people

    openpose = OpenPose(Watched((9.0, [Of(x=0.5, y=0.25)] * 18)))
    points = openpose.keypoints(grey(ALONE, 4 * DETECT_HEIGHT, 1000))
    assert seen == [(DETECT_HEIGHT, 250, 3)]
    assert points is not None
    # pixel 125 of 250 is the middle of pixels 500 to 503
    assert points[0].tolist() == [501.5, DETECT_HEIGHT + 1.5]
    assert openpose.keypoints(grey(ALONE, 3000, 2)) is None
    assert with_network(StickPeople(PEOPLE)).keypoints_batch([grey(ALONE, 2, 3000)]) == [None]


def test_errors_name_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(XmdptError, match="lllyasviel/Annotators is not on this machine") as err:
        OpenPose.load()
    assert "hf download lllyasviel/Annotators body_pose_model.pth" in err.value.hint
    with pytest.raises(XmdptError, match=r"no body_pose_model\.pth in"):
        OpenPose.load(tmp_path)
    with pytest.raises(XmdptError, match="no such OpenPose file"):
        OpenPose.load(tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(XmdptError, match="not OpenPose's body network"):
        OpenPose.load(tmp_path / "broken.pth")
