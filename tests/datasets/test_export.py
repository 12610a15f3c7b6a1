"""Keypoints written in both published forms are read back as they were."""

from __future__ import annotations

import filecmp
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_dataset import make_dataset
from PIL import Image

from xmdpt_cli.datasets.export import annotation_rows, write_annotations
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.text_rows import read_annotations, read_pose_txt
from xmdpt_cli.pose.frames import PADDED, PUBLISHED
from xmdpt_cli.utils.deepfashion_names import parse_name


def image(name: str) -> str:
    return parse_name(name).key


def read_padded(path: Path) -> np.ndarray:
    """Fractions (18, 2) of a pose file in the padded frame."""
    return PADDED.fractions(read_pose_txt(path).points)


def test_real_annotations_are_exported_byte_for_byte(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    sample = shared("deepfashion_sample")
    rows = []
    for split in ("train", "test"):
        file = read_annotations(sample / f"fasion-resize-annotation-{split}.csv", image)
        assert not file.problems
        names = (sample / f"{split}.lst").read_text().split()
        rows += [
            (split, name, PUBLISHED.fractions(file.points[name.key]))
            for name in map(parse_name, names)
        ]
    written = write_annotations(rows, tmp_path)
    assert len(rows) == 120
    assert [path.name for path in written] == [
        "fasion-resize-annotation-train.csv", "fasion-resize-annotation-test.csv", "pose",
    ]  # fmt: skip
    for path in written[:2]:
        assert filecmp.cmp(path, sample / path.name, shallow=False)
    for _, name, points in rows:
        back = read_padded(tmp_path / "pose" / name.path.replace(".jpg", ".txt"))
        np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)


def test_real_pose_files_are_exported_equal(shared: Callable[[str], Path], tmp_path: Path) -> None:
    sample = shared("deepfashion_sample")
    for split in ("train", "test"):
        (tmp_path / f"{split}_pairs.txt").symlink_to(sample / f"{split}_pairs.txt")
    for name in ("img_highres", "pose"):
        (tmp_path / name).symlink_to(sample / name)
    listing = find_dataset(tmp_path)
    out = tmp_path / "out"
    write_annotations(annotation_rows(listing), out, csv=False)
    poses = sorted((out / "pose").rglob("*.txt"))
    assert len(poses) == 120
    for path in poses:
        original = sample / "pose" / path.relative_to(out / "pose")
        np.testing.assert_allclose(np.loadtxt(path), np.loadtxt(original), rtol=0, atol=1e-9)
        np.testing.assert_allclose(read_padded(path), read_padded(original), atol=1e-9)


def test_a_joint_just_outside_the_image_does_not_become_missing(tmp_path: Path) -> None:
    points = np.full((18, 2), np.nan)
    points[0] = (-1 / 176, 0.5)  # x is -1 in the frame of the CSV
    points[1] = (0.5, -1.3 / 256)
    points[2] = (-41 / 176, -1 / 256)  # both are -1 in the padded frame
    points[3] = (-5 / 176, 1.2)
    points[4] = (0.2 / 176, 0.1 / 256)  # (0, 0) would mean that it is missing
    name = parse_name("WOMEN/Denim/id_00000001/01_1_front.jpg")
    write_annotations([("train", name, points)], tmp_path)
    file = read_annotations(tmp_path / "fasion-resize-annotation-train.csv", image)
    raw = file.points[name.key]
    assert raw[:5].tolist() == [[0, 128], [88, 0], [-41, 0], [-5, 307], [0, 1]]
    assert np.isnan(raw[5:]).all()
    back = read_padded(tmp_path / "pose/WOMEN/Denim/id_00000001/01_1_front.txt")
    np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)


def test_found_keypoints_serve_as_the_dataset_s_own(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "root")
    listing = find_dataset(root)
    for path in root.glob("*annotation*"):
        path.unlink()
    write_annotations(annotation_rows(listing), root, txt=False)
    assert find_dataset(root).digest() == listing.digest()


@pytest.mark.parametrize("form", ["csv", "txt"])
def test_keypoints_of_own_images_are_exported(tmp_path: Path, form: str) -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    root = tmp_path / "root"
    for person, file in itertools.product(
        ("Zoë: 1, 2", "b [x]", " c\u2028d "), ("a.jpg", "a.png", "x.y.jpg", " .jpg")
    ):
        (root / person).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / person / file)
    waiting = find_dataset(root)
    assert waiting.images() == waiting.without_keypoints() == 12
    for item in waiting.items:
        for view in item.views:
            points = rng.integers(0, 176, (18, 2)) / np.array((176, 256))
            points[rng.random(18) < 0.3] = np.nan
            item.keypoints[view] = points
    written = write_annotations(
        annotation_rows(waiting), root, csv=form == "csv", txt=form == "txt"
    )
    assert [path.name for path in written] == [{"csv": "annotations.csv", "txt": "pose"}[form]]
    listing = find_dataset(root)
    assert not listing.problems
    assert listing.without_keypoints() == 0
    for one, other in zip(listing.items, waiting.items, strict=True):
        assert (one.key, one.split, one.pairs) == (other.key, other.split, other.pairs)
        for view, points in one.keypoints.items():
            np.testing.assert_allclose(points, other.keypoints[view], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\nb.jpg", ""])
def test_paths_outside_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(XmdptError, match="not a path below"):
        write_annotations([("train", name, np.zeros((18, 2)))], tmp_path / "out")


def test_wrong_shapes_and_splits(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match=r"\(17, 2\)"):
        write_annotations([("train", "a/b.jpg", np.zeros((17, 2)))], tmp_path)
    with pytest.raises(XmdptError, match="train or test"):
        write_annotations([("val", "a/b.jpg", np.zeros((18, 2)))], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(XmdptError, match="cannot write"):
        write_annotations([("train", "a/b.jpg", np.zeros((18, 2)))], tmp_path / "file")
