"""Example people and poses come from the dataset of the model, if it is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.images import resize_square
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.toy.encoders import toy_encoders
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.ui.examples import PEOPLE, POSES, Examples, find_examples

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    make_synthetic(root / "raw", people_train=1, people_test=9, views=3, height=64, workers=1)
    listing = find_dataset(root / "raw")
    prepare_dataset(listing, root / "data", size=SIZE, encoder=toy_encoders(SIZE))
    return root / "data"


def pipe(data: Any, folder: Path | None = None, resolution: int = SIZE) -> Any:
    sampler = SimpleNamespace(metadata={"data": data}, folder=folder)
    return SimpleNamespace(sampler=sampler, resolution=resolution)


def test_example_people_and_poses_are_from_the_test_split(data: Path) -> None:
    found = find_examples(pipe(str(data)))
    assert len(found.people) == PEOPLE
    assert 1 <= len(found.poses) <= POSES
    dataset = PairDataset(data, "test")
    views = [dataset.view(*label) for label in dataset.views()]
    known = [points / SIZE for _, points in views]
    for person in found.people:
        assert person.image.size == (SIZE, round(SIZE * 256 / 176))
        (view,) = [i for i, p in enumerate(known) if np.array_equal(p, person.keypoints, True)]
        stored = views[view][0].astype(int)
        # squashed again, it differs from the stored image only by two resizings
        assert abs(resize_square(person.image, SIZE) - stored).mean() < 6
    for pose in found.poses:
        assert any(np.array_equal(pose, p, True) for p in known)
    again = find_examples(pipe(str(data)))
    np.testing.assert_array_equal(again.people[0].keypoints, found.people[0].keypoints)
    file = found.file(1)
    assert file.name == "test person 2.png"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(found.people[1].image))
    shutil.rmtree(file.parent)


def test_a_run_that_was_moved_with_its_data_has_examples(data: Path) -> None:
    moved = pipe("/missing/data", data.parent / "run-tokens" / "model")
    assert len(find_examples(moved).people) == PEOPLE


@pytest.mark.parametrize(
    "place", [None, "", "/missing/data", "http://127.0.0.1:9/data", "s3://bucket/data"]
)
def test_without_the_dataset_there_are_no_examples(place: Any, tmp_path: Path) -> None:
    assert find_examples(pipe(place, tmp_path / "run" / "model")) == Examples()


def test_a_dataset_of_another_resolution_or_a_broken_one_gives_no_examples(
    data: Path, tmp_path: Path
) -> None:
    assert find_examples(pipe(str(data), resolution=64)) == Examples()
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    manifest = json.loads((broken / "dataset.json").read_text())
    shard = next(s["name"] for s in manifest["shards"] if s["split"] == "test")
    content = (broken / shard).read_bytes()
    (broken / shard).write_bytes(bytes(len(content)))
    assert find_examples(pipe(str(broken))) == Examples()
    (broken / shard).write_bytes(content[:100])
    assert find_examples(pipe(str(broken))) == Examples()
    (broken / "dataset.json").write_text("{")
    assert find_examples(pipe(str(broken))) == Examples()
