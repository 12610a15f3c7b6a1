"""Own images: a folder for each person, no lists."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_dataset import annotation_row, joints, make_dataset
from PIL import Image

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.datasets.folders import MOST_SOURCES
from xmdpt_cli.errors import XmdptError


def image(root: Path, name: str, value: int = 0) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 12), (value % 256, 0, 0)).save(path)
    return path


def crowd(root: Path, people: int, views: int = 3, first: int = 0) -> Path:
    for person, view in itertools.product(range(first, first + people), range(views)):
        image(root, f"person {person}/{view}.jpg", person * 7 + view)
    return root


def by_folder(listing: Listing) -> dict[str, str]:
    """folder -> split."""
    return {next(iter(g.views.values())).name.rsplit("/", 1)[0]: g.split for g in listing.items}


def reasons(listing: Listing) -> dict[str, str]:
    return {problem.file: problem.reason for problem in listing.problems}


def test_a_folder_for_each_person_at_any_depth(tmp_path: Path) -> None:
    for name in ("Zoë/front view.JPG", "Zoë/side (2).png", "team/bob/1.webp", "team/bob/2.bmp",
                 "team/bob/3.TIFF", "team/bob/.4.jpg", ".trash/x/1.jpg", ".trash/x/2.jpg",
                 "alone/1.jpg"):  # fmt: skip
        image(tmp_path, name)
    (tmp_path / "team" / "bob" / "notes.txt").write_text("not an image")
    listing = find_dataset(tmp_path)
    assert listing.layout == "people"
    assert sorted(by_folder(listing)) == ["Zoë", "team/bob"]
    assert reasons(listing) == {"alone/1.jpg": "the only image of this person"}
    assert {len(g.views): len(g.pairs) for g in listing.items} == {2: 2, 3: 6}
    assert listing.without_keypoints() == listing.images() == 5
    assert any(note == "keypoints: none there, OpenPose will find them" for note in listing.notes)
    for item in listing.items:
        for name in (item.key, *item.views):
            assert name.isascii()
            assert not set(name) & set("./ ")
        longest = max(f"{item.key}.{view}.keypoints.npy" for view in item.views)
        assert len(longest) < 100
        assert all(p.load().size == (8, 12) for p in item.views.values())
    with pytest.raises(XmdptError, match="the only image"):
        find_dataset(tmp_path, strict=True)


def test_both_splits_are_not_empty_and_new_people_do_not_move_others(tmp_path: Path) -> None:
    root = crowd(tmp_path / "root", 40)
    before = by_folder(find_dataset(root))
    assert before == by_folder(find_dataset(root))
    assert 1 <= list(before.values()).count("test") <= 10
    crowd(root, 60, first=40)
    after = by_folder(find_dataset(root))
    assert len(after) == 100
    assert {name: after[name] for name in before} == before
    assert by_folder(find_dataset(root, seed=1)) != after
    two = crowd(tmp_path / "two", 2)
    for seed in range(30):  # even where the hash would put both into one
        assert sorted(by_folder(find_dataset(two, seed=seed)).values()) == ["test", "train"]
    one = find_dataset(crowd(tmp_path / "one", 1))
    assert list(by_folder(one).values()) == ["train"]
    assert "one person only" in one.notes[-2]


def test_pairs_are_all_ordered_ones_up_to_a_number_of_sources(tmp_path: Path) -> None:
    crowd(tmp_path, 3, views=MOST_SOURCES + 1)
    crowd(tmp_path, 1, views=30, first=9)
    listing = find_dataset(tmp_path)
    for item in listing.items:
        pairs = [(pair.source, pair.target) for pair in item.pairs]
        assert len(set(pairs)) == len(pairs) == MOST_SOURCES * len(item.views)
        assert all(source != target for source, target in pairs)
        assert {target for _, target in pairs} == set(item.views)
    assert find_dataset(tmp_path).digest() == listing.digest()
    big = [[g.pairs for g in found.items if len(g.views) == 30]
           for found in (listing, find_dataset(tmp_path, seed=5))]  # fmt: skip
    assert big[0] != big[1]
    for split in ("train", "test"):
        positions = [pair.position for _, pair in listing.pairs(split)]
        assert positions == list(range(len(positions)))


def test_similar_folder_and_file_names_stay_distinct(tmp_path: Path) -> None:
    people = ["Ann", "ann", "Änn", "Ann ", "team/Ann", "team-Ann", "x" * 60, "x" * 61]
    for person, file in itertools.product(people, ("a.jpg", "a.png", "A.jpg", "a b.jpg")):
        image(tmp_path, f"{person}/{file}")
    listing = find_dataset(tmp_path)
    assert len({item.key for item in listing.items}) == len(people)
    assert all(len(item.views) == 4 for item in listing.items)


def test_all_images_in_one_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path, name)
    for layout in ("auto", "people"):
        with pytest.raises(XmdptError, match="no folder for each person") as error:
            find_dataset(tmp_path, layout=layout)
        assert "one folder per person" in error.value.hint
    crowd(tmp_path, 2)
    assert reasons(find_dataset(tmp_path))["a.jpg"] == "an image in no person's folder"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="neither images nor lists") as error:
        find_dataset(tmp_path)
    assert "one folder per person" in error.value.hint
    with pytest.raises(XmdptError, match="holds no images"):
        find_dataset(tmp_path, layout="people")
    image(tmp_path, "ann/1.jpg")
    with pytest.raises(XmdptError, match=r"no person .* has two images"):
        find_dataset(tmp_path)
    with pytest.raises(XmdptError, match="neither images nor lists of DeepFashion"):
        find_dataset(tmp_path, layout="deepfashion")


def test_unusable_files_are_reported(tmp_path: Path) -> None:
    root = crowd(tmp_path / "root", 2)
    (root / "person 0" / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "person 0" / "9.jpg").mkdir()
    (root / "person 1" / "round").symlink_to("..")
    (root / "person 1" / "up").symlink_to(tmp_path.parent)
    (root / "person 2").symlink_to("person 0")
    listing = find_dataset(root)
    assert sorted(by_folder(listing)) == ["person 0", "person 1"]
    assert {p.file: p.kept for p in listing.problems} == {
        "person 0/gone.jpg": False,
        "person 0/9.jpg": False,
        "person 1/round": True,
        "person 1/up": True,
        "person 2": True,
    }


def test_keypoint_files_of_own_images(tmp_path: Path) -> None:
    root = crowd(tmp_path, 2)
    image(root, "a: b/ü.jpg")
    image(root, "a: b/2.jpg")
    raw = joints(np.random.Generator(np.random.PCG64(0)))
    (root / "annotations.csv").write_text(
        "name:keypoints_y:keypoints_x\n"
        + annotation_row("a: b/u\u0308.jpg", raw)  # the same letter in its other form
        + "\n"
        + annotation_row("person 9/1.jpg", raw)
        + "\nperson 0/0.jpg: [1]: [2]\n",
        encoding="utf-8",
    )
    (root / "pose" / "person 0").mkdir(parents=True)
    padded = np.where(raw == -1, -1.0, raw + np.array((40, 0)))
    np.savetxt(root / "pose" / "person 0" / "0.txt", padded)
    np.savetxt(root / "pose" / "person 0" / "1.jpg.txt", padded)
    (root / "pose" / "person 0" / "2.txt").write_text("1 2\n")
    listing = find_dataset(root)
    want = np.where(raw == -1, np.nan, raw / np.array((176, 256)))
    found = {
        g.views[view].name: points for g in listing.items for view, points in g.keypoints.items()
    }
    assert sorted(found) == ["a: b/ü.jpg", "person 0/0.jpg", "person 0/1.jpg"]
    for points in found.values():
        np.testing.assert_allclose(points, want, atol=1e-12)
    why = reasons(listing)
    assert "1 numbers instead of 18" in why["annotations.csv:4"]
    assert "left to OpenPose" in why["pose/person 0/2.txt"]
    assert "no usable image" in why["person 9/1.jpg"]
    assert listing.without_keypoints() == 5
    assert "5 images without" in listing.notes[-1]
    assert find_dataset(root, detect=True).without_keypoints() == 8


def test_deepfashion_as_people_groups_by_item(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    listed = find_dataset(root)
    listing = find_dataset(root, layout="people")
    assert [g.key for g in listing.items] != []
    assert {g.key for g in listing.items} == {g.key for g in listed.items}
    assert {tuple(g.views) for g in listing.items} == {("1_front", "2_side", "7_additional")}
    assert listing.without_keypoints() == 0  # the published annotations serve
    one = listed.split("train")[0]
    other = next(g for g in listing.items if g.key == one.key)
    np.testing.assert_array_equal(one.keypoints["1_front"], other.keypoints["1_front"])
    # two colours of an item are worn by one model: they go to one side
    for item in (root / "img_highres" / "MEN" / "Tees_Tanks").iterdir():
        for path in list(item.glob("01_*")):
            shutil.copy(path, path.with_name("02" + path.name[2:]))
    split = {g.key: g.split for g in find_dataset(root, layout="people").items}
    for key in [key for key in split if key.endswith("-02")]:
        assert split[key] == split[key[:-1] + "1"]


def test_deepfashion_as_people_ignores_other_folders(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    want = find_dataset(root, layout="people").digest()
    shutil.copytree(root / "img_highres" / "MEN", root / "img" / "MEN")  # less good ones
    crowd(root / "official", 1)
    for name in ("a.jpg", "b.jpg"):
        image(root, name)
    assert find_dataset(root, layout="people").digest() == want
    # but a few such names among one's own images do not count
    own = crowd(tmp_path / "own", 10)
    for name in ("1_front", "2_side"):
        image(own, f"MEN/Denim/id_00000001/01_{name}.jpg")
    image(own, "person 1/fashionMENDenimid0000000101_1front.jpg")
    folders = by_folder(find_dataset(own, layout="people"))
    assert set(folders) == {f"person {i}" for i in range(10)} | {"MEN/Denim/id_00000001"}


def test_a_raw_tree_deeper_than_usual(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "a" / "b" / "c")
    item = next((root / "img_highres" / "MEN" / "Tees_Tanks").iterdir())
    for path in list(item.glob("01_*")):
        shutil.copy(path, path.with_name("02" + path.name[2:]))
    listing = find_dataset(tmp_path)
    assert "items of DeepFashion" in listing.notes[0]
    assert len(listing.items) == 8
    assert all(len(item.views) == 3 for item in listing.items)


def test_real_images_without_lists(shared: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "img_highres").symlink_to(shared("deepfashion_sample") / "img_highres")
    with pytest.raises(XmdptError, match="no list of pairs") as error:
        find_dataset(tmp_path)
    assert "--layout people" in error.value.hint
    listing = find_dataset(tmp_path, layout="people")
    assert listing.images() == listing.without_keypoints() == 120
    assert "items of DeepFashion" in listing.notes[0]
    json.dumps(listing.describe())
