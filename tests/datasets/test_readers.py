"""A dataset that the package does not know is one file: here Market-1501, from raw to batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_dataset import FakeEncoder, annotation_row, make_dataset
from market1501 import Market1501
from PIL import Image

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets import find
from xmdpt_cli.datasets.find import find_dataset, register
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset

PEOPLE = {"train": ("0002", "0007", "0011"), "test": ("0003",)}


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "READERS", dict(find.READERS))
    register(Market1501())


def make_market(root: Path) -> dict[str, np.ndarray]:
    """Three views of each person, pairs in a circle; the raw keypoints by file name."""
    rng = np.random.default_rng(0)
    raw = {}
    for split, people in PEOPLE.items():
        folder = root / f"bounding_box_{split}"
        folder.mkdir(parents=True)
        pairs, rows = ["from,to"], ["name:keypoints_y:keypoints_x"]
        for person in people:
            names = [f"{person}_c{camera}s1_000451_0{camera}.jpg" for camera in (1, 2, 3)]
            for name in names:
                small = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                Image.fromarray(small).resize((64, 128)).save(folder / name)
                points = np.stack((rng.integers(2, 62, 18), rng.integers(2, 126, 18)), axis=1)
                points[rng.random(18) < 0.2] = -1
                raw[name] = points
                rows.append(annotation_row(name, points))
            pairs += [f"{names[i]},{names[(i + 1) % 3]}" for i in range(3)]
        (root / f"market-pairs-{split}.csv").write_text("\n".join(pairs) + "\n")
        (root / f"market-annotation-{split}.csv").write_text("\n".join(rows) + "\n")
    return raw


@pytest.mark.usefixtures("market")
def test_a_reader_from_outside_prepares_end_to_end(tmp_path: Path) -> None:
    root, out = tmp_path / "raw", tmp_path / "out"
    raw = make_market(root)
    listing = find_dataset(root)
    assert (listing.layout, listing.problems) == ("market1501", [])
    assert listing.options["layout"] == "auto"
    prepare_dataset(listing, out, size=32, encoder=FakeEncoder())
    for split, people in PEOPLE.items():
        data = PairDataset(out, split)
        wanted = (root / f"market-pairs-{split}.csv").read_text().split()[1:]
        assert [(p.key, p.source, p.target) for p in data.pairs] == [
            (row[:4], *(name.removesuffix(".jpg") for name in row.split(","))) for row in wanted
        ]
        assert {pair.key for pair in data.pairs} == set(people)
        for key, view in data.views():
            points = raw[f"{view}.jpg"]
            seen = (points != -1).all(axis=1)
            found = data.keypoints(key, view)
            np.testing.assert_allclose(found[seen], points[seen] / (64, 128) * 32, atol=1e-4)
            assert np.isnan(found[~seen]).all()


@pytest.mark.usefixtures("market")
def test_missing_images_and_keypoints_are_reported(tmp_path: Path) -> None:
    make_market(tmp_path)
    (tmp_path / "bounding_box_train" / "0002_c1s1_000451_01.jpg").unlink()
    listing = find_dataset(tmp_path)
    assert {p.file for p in listing.problems} == {f"market-pairs-train.csv:{n}" for n in (2, 4)}
    with pytest.raises(XmdptError, match="no image or no keypoints: 0002_c1s1"):
        find_dataset(tmp_path, strict=True)
    waiting = find_dataset(tmp_path, detect=True)
    assert waiting.without_keypoints() == waiting.images() > 0


@pytest.mark.usefixtures("market")
def test_malformed_rows_are_problems(tmp_path: Path) -> None:
    raw = make_market(tmp_path)
    pairs = tmp_path / "market-pairs-train.csv"
    header, *rows = pairs.read_text().splitlines()
    one_cell, two_people = rows[0].split(",")[0], f"{rows[0].split(',')[0]},{rows[3].split(',')[0]}"
    pairs.write_text("\n".join([header, one_cell, two_people, *rows]) + "\n")
    outside = rows[-1].split(",")[1]  # in two pairs
    annotations = tmp_path / "market-annotation-train.csv"
    annotations.write_text(
        annotations.read_text().replace(
            annotation_row(outside, raw[outside]), annotation_row(outside, raw[outside] + 5000)
        )
    )
    listing = find_dataset(tmp_path)
    reasons = {problem.file: problem.reason for problem in listing.problems}
    assert reasons == {
        "market-pairs-train.csv:2": "found 1 fields instead of 2",
        "market-pairs-train.csv:3": "not two images of one person",
        "market-pairs-train.csv:10": "most joints lie outside of the image",
        "market-pairs-train.csv:12": "most joints lie outside of the image",
    }
    positions = [pair.position for i in listing.items if i.split == "train" for pair in i.pairs]
    assert positions == [2, 3, 4, 5, 6, 7, 9]


@pytest.mark.usefixtures("market")
def test_the_most_confident_reader_is_used(tmp_path: Path) -> None:
    make_market(tmp_path)
    assert find_dataset(tmp_path, layout="people").layout == "people"
    make_dataset(tmp_path, train=1, test=1)  # both at once: nothing tells which is meant
    with pytest.raises(XmdptError, match="several layouts: deepfashion, market1501") as error:
        find_dataset(tmp_path)
    assert error.value.hint == "name the one it is: --layout deepfashion"
    assert find_dataset(tmp_path, layout="market1501").layout == "market1501"
    assert find_dataset(tmp_path, layout="deepfashion").layout == "deepfashion"


def test_unregistered_layouts_are_refused(tmp_path: Path) -> None:
    known = ", ".join(("auto", *find.READERS))
    with pytest.raises(ConfigError, match=f"one of {known}, not 'unknown'"):
        find_dataset(tmp_path, layout="unknown")
