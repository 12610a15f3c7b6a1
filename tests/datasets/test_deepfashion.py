"""Names, lists and folders, against the published names and the real sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_dataset import annotation_row, flat_name, joints, make_dataset, tree_name
from PIL import Image

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.deepfashion_names import parse_name


def reasons(listing: Listing) -> dict[str, str]:
    return {problem.file: problem.reason for problem in listing.problems}


def rewrite(path: Path, line: int, text: str) -> None:
    """Replace one line, counted from 1."""
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def test_both_forms_of_a_name() -> None:
    name = parse_name("fashionMENShirts_Polosid0000180202_4full.jpg")
    assert name.path == "MEN/Shirts_Polos/id_00001802/02_4_full.jpg"
    assert name.item_key == "MEN-Shirts_Polos-id_00001802-02"
    assert name.view == "4_full"
    assert parse_name("img/" + name.path) == name


def test_all_published_test_names_round_trip(shared: Callable[[str], Path]) -> None:
    names = shared("lists/test.lst").read_text().split()
    assert len(names) == 4038
    for text in names:
        name = parse_name(text)
        assert name.flat == text
        assert parse_name(name.path).flat == text
    assert len({parse_name(text).path for text in names}) == 4038


@pytest.mark.parametrize(
    "text", ["", "me.jpg", "fashionWOMENDressesid000000020_1front.jpg", "WOMEN/id_00000002/01.jpg"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(XmdptError, match="not a DeepFashion name"):
        parse_name(text)


def link(sample: Path, root: Path, names: list[str]) -> Path:
    root.mkdir()
    for name in names:
        (root / name).symlink_to(sample / name)
    return root


def test_real_sample_by_csv_and_by_pidm_lists(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    sample = shared("deepfashion_sample")
    csv_files = [f"fasion-resize-{k}-{s}.csv" for k in ("pairs", "annotation")
                 for s in ("train", "test")]  # fmt: skip
    by_csv = find_dataset(link(sample, tmp_path / "csv", ["img_highres", *csv_files]))
    by_pidm = find_dataset(
        link(
            sample, tmp_path / "pidm", ["img_highres", "pose", "train_pairs.txt", "test_pairs.txt"]
        )
    )
    assert not by_csv.problems
    assert not by_pidm.problems
    for split, count in (("train", 96), ("test", 12)):
        named = [
            [(g.key, p.source, p.target, p.position) for g, p in listing.pairs(split)]
            for listing in (by_csv, by_pidm)
        ]
        assert named[0] == named[1]
        assert [position for *_, position in named[0]] == list(range(count))
    assert by_csv.images() == by_pidm.images() == 120
    pixel = np.array((176, 256))
    for one, other in zip(by_csv.items, by_pidm.items, strict=True):
        assert one.views.keys() == other.views.keys() == one.keypoints.keys()
        for view in one.views:
            a, b = one.keypoints[view] * pixel, other.keypoints[view] * pixel
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            assert np.nanmax(np.abs(a - b)) <= 1.0
    assert any("padded" in line for line in by_pidm.describe())
    assert "test: 12 pairs, 12 items, 24 images" in by_csv.describe()


def test_first_pair_of_the_real_csv_is_source_then_target(shared: Callable[[str], Path]) -> None:
    sample = shared("deepfashion_sample")
    first = (sample / "fasion-resize-pairs-test.csv").read_text().splitlines()[1].split(",")
    item, pair = find_dataset(sample).pairs("test")[0]
    assert item.key == parse_name(first[0]).item_key
    assert (pair.source, pair.target) == (parse_name(first[0]).view, parse_name(first[1]).view)


def test_fractions_of_the_176_frame(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, train=1, test=1)
    raw = np.full((18, 2), -1)
    raw[3] = (88, 64)
    row = annotation_row(flat_name("MEN", 1, "1_front"), raw).replace(", ", ",").replace(": ", ":")
    rewrite(root / "fasion-resize-annotation-train.csv", 2, row)  # the form without spaces
    points = find_dataset(root).split("train")[0].keypoints["1_front"]
    np.testing.assert_array_equal(points[3], (0.5, 0.25))
    assert np.isnan(points).sum() == 34


@pytest.mark.parametrize("stem", ["fasion-resize", "fasion", "fashion", "fashion-resize"])
def test_other_spellings_of_list_names(tmp_path: Path, stem: str) -> None:
    root = make_dataset(tmp_path)
    before = find_dataset(root).split("train")[0].keypoints["1_front"]
    for path in root.glob("*.csv"):
        path.rename(root / path.name.replace("fasion-resize", stem))
    assert find_dataset(root).split("train")[0].keypoints["1_front"] == pytest.approx(
        before, nan_ok=True
    )


@pytest.mark.parametrize("folder", ["img", ""])
def test_other_image_folders(tmp_path: Path, folder: str) -> None:
    root = make_dataset(tmp_path)
    images = root / "img_highres"
    if folder:
        images.rename(root / folder)
    else:
        for gender in ("MEN", "WOMEN"):
            (images / gender).rename(root / gender)
    listing = find_dataset(root)
    assert listing.images() == 21 - 2  # one view of each test item is in no pair
    assert all(p.path.is_file() for g in listing.items for p in g.views.values())


def test_unusable_pairs_are_reported(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    gone = tree_name("MEN", 1, "2_side")
    (root / "img_highres" / gone).unlink()
    annotations = root / "fasion-resize-annotation-train.csv"
    rewrite(annotations, 5, flat_name("WOMEN", 2, "1_front") + ": [1, 2]: [3, 4]")
    rewrite(annotations, 6, flat_name("WOMEN", 2, "2_side") + ": [1, x]: [3, 4]")
    rewrite(annotations, 7, "just some words")
    pairs = root / "fasion-resize-pairs-train.csv"
    front, side = flat_name("MEN", 3, "1_front"), flat_name("MEN", 3, "2_side")
    rewrite(pairs, 14, f"{front},{flat_name('MEN', 5, '1_front')}")
    rewrite(pairs, 15, f"{front},{front}")
    rewrite(pairs, 16, f"{front}")
    rewrite(pairs, 17, f"{front},portrait.jpg")
    test_name = flat_name("MEN", 501, "1_front")
    rewrite(pairs, 18, f"{test_name},{flat_name('MEN', 501, '2_side')}")
    listing = find_dataset(root)
    why = reasons(listing)
    assert why[gone] == "listed image not found"
    for line, text in ((5, "18"), (6, "not a list of numbers"), (7, "found 1 fields")):
        assert text in why[f"{annotations.name}:{line}"]
    for line, text in (
        (14, "across items"), (15, "identical views"), (16, "fields instead of 2"),
        (17, "portrait.jpg"), (18, "across splits"),
    ):  # fmt: skip
        assert text in why[f"{pairs.name}:{line}"]
    assert why[tree_name("WOMEN", 2, "1_front")] == "no keypoints for this image"
    keys = [item.key for item in listing.items]
    assert "WOMEN-Tees_Tanks-id_00000002-01" not in keys  # none of its views has keypoints
    kept = listing.split("train")[0]
    assert kept.key == "MEN-Tees_Tanks-id_00000001-01"
    assert [(p.source, p.target) for p in kept.pairs] == [
        ("1_front", "7_additional"), ("7_additional", "1_front"),
    ]  # fmt: skip
    # a pair's position is that of the published list, whatever was dropped before it
    assert [p.position for _, p in listing.pairs("train")][-1] == 29
    side_of_3 = next(p for g, p in listing.pairs("train") if g.key.endswith("00000003-01"))
    assert (side_of_3.position, side_of_3.source) == (17, "7_additional")
    assert side not in why


def test_same_image_under_two_names_is_reported_and_kept(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    folder = (root / "img_highres" / tree_name("MEN", 501, "1_front")).parent
    shutil.copy(folder / "01_1_front.jpg", folder / "01_2_side.jpg")
    listing = find_dataset(root)
    assert [(p.file, p.kept) for p in listing.problems] == [
        ("fasion-resize-pairs-test.csv:2", True)
    ]
    assert len(listing.pairs("test")) == 2


def test_png_in_place_of_a_listed_jpg(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    path = root / "img_highres" / tree_name("MEN", 1, "1_front")
    Image.open(path).save(path.with_suffix(".png"))
    path.unlink()
    listing = find_dataset(root)
    assert not listing.problems
    assert listing.split("train")[0].views["1_front"].where == str(path.with_suffix(".png"))


def test_pidm_lines_put_the_target_first(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, train=1, test=1)
    for path in root.glob("*.csv"):
        path.unlink()
    rng = np.random.Generator(np.random.PCG64(1))
    for path in (root / "img_highres").rglob("*.jpg"):
        pose = (root / "pose" / path.relative_to(root / "img_highres")).with_suffix(".txt")
        pose.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(pose, joints(rng) + np.array((40, 0)))
    front, side, more = (
        f"img/{tree_name('MEN', 1, v)}" for v in ("1_front", "2_side", "7_additional")
    )
    (root / "train_pairs.txt").write_text(f"{front},{side},{more}\n{side}\n{more},{front}\n")
    bad = root / "pose" / tree_name("MEN", 501, "2_side").replace(".jpg", ".txt")
    bad.write_text("1 2\n3 four\n")
    (root / "test_pairs.txt").write_text(
        f"{tree_name('MEN', 501, '1_front')},{tree_name('MEN', 501, '7_additional')}\n"
        f"{tree_name('MEN', 501, '1_front')},{tree_name('MEN', 501, '2_side')}\n"
    )
    listing = find_dataset(root)
    assert [(p.source, p.target, p.position) for _, p in listing.pairs("train")] == [
        ("2_side", "1_front", 0), ("7_additional", "1_front", 1), ("1_front", "7_additional", 2),
    ]  # fmt: skip
    why = reasons(listing)
    assert "without a source" in why["train_pairs.txt:2"]
    assert "line 2" in why[bad.relative_to(root).as_posix()]


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="does not exist") as error:
        find_dataset(tmp_path / "nowhere")
    assert "img_highres" in error.value.hint


def test_images_without_lists(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    for path in root.glob("*.csv"):
        path.unlink()
    with pytest.raises(XmdptError, match="no list of pairs") as error:
        find_dataset(root)
    for wanted in ("fasion-resize-pairs-train.csv", "train_pairs.txt", "pose/", "--layout people"):
        assert wanted in error.value.hint


def test_lists_without_images(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    shutil.rmtree(root / "img_highres")
    with pytest.raises(XmdptError, match="lists but no images") as error:
        find_dataset(root)
    assert "img_highres/WOMEN" in error.value.hint
    for path in root.glob("*.csv"):
        path.unlink()
    with pytest.raises(XmdptError, match="neither images nor lists"):
        find_dataset(root)


def test_a_dataset_without_usable_pairs_is_refused(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    for path in (root / "img_highres").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(XmdptError, match=r"no usable pair .*listed image not found"):
        find_dataset(root)
