"""Every layout in which people have DeepFashion on disk, and what goes wrong with files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_dataset import annotation_row, flat_name, joints, make_dataset, tree_name
from PIL import Image

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.datasets.listing import ImageFile
from xmdpt_cli.datasets.stored import FileComparison
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.padding import are_padded
from xmdpt_cli.utils.deepfashion_names import parse_name


def contents(listing: Listing) -> list[object]:
    """Everything but where the images lie."""
    return [
        (g.key, g.split, list(g.views), g.pairs, {v: k.tolist() for v, k in g.keypoints.items()})
        for g in listing.items
    ]


def same(one: Listing, other: Listing) -> bool:
    return repr(contents(one)) == repr(contents(other))  # repr: NaN equals NaN


def reasons(listing: Listing) -> dict[str, str]:
    return {problem.file: problem.reason for problem in listing.problems}


def flatten(root: Path, folder_of: Callable[[str], str]) -> None:
    """Turn img_highres/ into flat names in ``folder_of(flat name)``."""
    for path in sorted((root / "img_highres").rglob("*.jpg")):
        name = parse_name(path.as_posix()).flat
        (root / folder_of(name)).mkdir(exist_ok=True)
        path.rename(root / folder_of(name) / name)
    shutil.rmtree(root / "img_highres")


def is_test(name: str) -> bool:
    return "id000005" in name


@pytest.mark.parametrize(
    ("folder_of", "label"),
    [
        (lambda n: "test_highres" if is_test(n) else "train_highres", "train_highres and test_hig"),
        (lambda n: "test" if is_test(n) else "train", "flat names in train and test"),
        (lambda n: "", "flat names in the root"),
        (lambda n: "img", "flat names in img"),
        (lambda n: "img_highres_flat/../img", "flat names in img"),
    ],
)
def test_flat_names(tmp_path: Path, folder_of: Callable[[str], str], label: str) -> None:
    root = make_dataset(tmp_path)
    before = find_dataset(root)
    (root / "img_highres_flat").mkdir()
    flatten(root, folder_of)
    listing = find_dataset(root)
    assert same(listing, before)
    assert label in listing.notes[0]
    assert all(p.load().size == (88, 128) for g in listing.items for p in g.views.values())


def test_the_dataset_is_described_in_one_sentence(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    assert find_dataset(root).notes[0] == (
        "raw img_highres, pairs CSV (fasion-resize), annotations (frame 256x176)"
    )
    (root / "img_highres").rename(root / "img")
    for path in root.glob("fasion-resize-pairs*"):
        path.rename(root / path.name.replace("fasion-resize", "fashion"))
    assert find_dataset(root).notes[0].startswith("raw img, pairs CSV (fashion), ")


def test_lists_one_folder_below_and_images_too(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "root")
    before = find_dataset(root)
    assert same(find_dataset(tmp_path), before)  # all of it one folder below
    (root / "lists").mkdir()
    for path in list(root.glob("*.csv")):
        path.rename(root / "lists" / path.name)
    listing = find_dataset(root)
    assert listing.digest() == before.digest()
    assert "lists/fasion-resize-pairs-train.csv" in " ".join(listing.notes)
    # a list inside an image folder is not looked at
    for path in (root / "lists").glob("*pairs-test.csv"):
        path.rename(root / "img_highres" / path.name)
    assert "pairs of test: no list" in find_dataset(root).notes


def test_a_few_stray_images_do_not_hide_the_dataset(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    before = find_dataset(root)
    flatten(root, lambda n: "test_highres" if is_test(n) else "train_highres")
    stray = root / "train_highres" / flat_name("MEN", 1, "1_front")
    shutil.copy(stray, root / stray.name)
    listing = find_dataset(root)
    assert same(listing, before)
    assert "images not used: flat names in the root" in listing.notes


def test_images_still_in_their_archive(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    shutil.rmtree(root / "img_highres")
    (root / "img_highres.zip").write_bytes(b"PK")
    for remove in (False, True):
        for path in root.glob("*.csv") if remove else ():
            path.unlink()
        with pytest.raises(XmdptError) as error:
            find_dataset(root)
        assert error.value.hint.startswith("unpack img_highres.zip; put the raw images")


def test_layout_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auto, deepfashion, people"):
        find_dataset(tmp_path, layout="coco")


# --- low-resolution images ---------------------------------------------------------------


def padded_sample(sample: Path, root: Path) -> dict[str, Path]:
    """Real padded images, two to an item, as img/ and pose/ with a PIDM list."""
    originals = sorted((sample / "img").rglob("*.jpg"))
    made, lines = {}, []
    for item, two in enumerate(zip(originals[::2], originals[1::2], strict=True), start=1):
        names = [f"WOMEN/Dresses/id_{item:08d}/01_{view}.jpg" for view in ("1_front", "2_side")]
        for name, original in zip(names, two, strict=True):
            pose = (sample / "pose" / original.relative_to(sample / "img")).with_suffix(".txt")
            for there, below in ((original, f"img/{name}"), (pose, f"pose/{name[:-4]}.txt")):
                (root / below).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(there, root / below)
            made[name] = original
        lines.append(f"img/{names[0]},img/{names[1]}")
    (root / "train_pairs.txt").write_text("\n".join(lines) + "\n")
    return made


def test_real_padded_images_are_cut_and_keypoints_follow(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    sample = shared("deepfashion_lowres_sample")
    made = padded_sample(sample, tmp_path / "data")
    link = tmp_path / "link"  # a linked root of linked folders
    link.mkdir()
    for path in (tmp_path / "data").iterdir():
        (link / path.name).symlink_to(path)
    (tmp_path / "root").symlink_to(link)
    listing = find_dataset(tmp_path / "root")
    assert "padded 256x256" in listing.notes[0]
    assert "PIDM pair lists" in listing.notes[0]
    assert listing.images() == len(made) == 8
    for item in listing.items:
        for view, image in item.views.items():
            original = made[image.name.removeprefix("img/")]
            whole = np.asarray(Image.open(original).convert("RGB"))
            np.testing.assert_array_equal(np.asarray(image.load()), whole[:, 41:215])
            pose = sample / "pose" / original.relative_to(sample / "img").with_suffix(".txt")
            raw = np.loadtxt(pose)
            raw[(raw == -1).any(axis=1)] = np.nan
            want = np.stack(((raw[:, 0] - 40) / 176, raw[:, 1] / 256), axis=1)
            np.testing.assert_allclose(item.keypoints[view], want, rtol=0, atol=1e-12)
    assert "(padded)" in listing.items[0].views["1_front"].identity
    # the same images as people's items are cut as well
    people = find_dataset(tmp_path / "root", layout="people")
    assert {p.load().size for g in people.items for p in g.views.values()} == {(174, 256)}
    assert people.without_keypoints() == 0


def test_one_broken_image_among_padded_ones(shared: Callable[[str], Path], tmp_path: Path) -> None:
    padded_sample(shared("deepfashion_lowres_sample"), tmp_path)
    first, second = sorted((tmp_path / "img").rglob("*.jpg"))[:2]
    first.write_bytes(b"")
    other = Image.open(second).resize((100, 100))
    listing = find_dataset(tmp_path)
    assert "padded" in listing.notes[0]
    other.save(second)
    with pytest.raises(XmdptError, match=r"2_side.jpg is 100x100"):
        listing.items[0].views["2_side"].load()


def test_squashed_images_are_not_cropped(shared: Callable[[str], Path], tmp_path: Path) -> None:
    padded_sample(shared("deepfashion_lowres_sample"), tmp_path)
    for path in (tmp_path / "img").rglob("*.jpg"):
        Image.open(path).crop((41, 0, 215, 256)).resize((256, 256)).save(path)
    listing = find_dataset(tmp_path)
    assert listing.notes[0].startswith("raw img, ")
    assert listing.items[0].views["1_front"].load().size == (256, 256)


def test_squashed_images_before_an_empty_white_wall_are_not_cropped(tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (200, 60, 3), dtype=np.uint8)
    refs = []
    for number in range(5):
        image = np.full((256, 256, 3), 255, dtype=np.uint8)
        image[28:228, 98:158] = noise
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        refs.append(ImageFile(path.name, path))
    assert not are_padded(refs)
    assert not are_padded([])


# --- keypoints -----------------------------------------------------------------------------


def test_images_without_keypoints_are_left_to_openpose(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    with_files = find_dataset(root)
    detected = find_dataset(root, detect=True)
    for path in root.glob("*annotation*"):
        path.unlink()
    listing = find_dataset(root)
    assert "keypoints: none there, OpenPose will find them" in listing.notes
    for one in (listing, detected):
        assert one.images() == one.without_keypoints() == with_files.images()
        assert all(not item.keypoints for item in one.items)
        assert [g.pairs for g in one.items] == [g.pairs for g in with_files.items]
    assert with_files.without_keypoints() == 0
    assert "keypoints: OpenPose will find them" in detected.notes


def test_detect_reads_no_keypoint_file(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    (root / "fasion-resize-annotation-train.csv").write_bytes(b"\xff\xfe broken")
    assert find_dataset(root, detect=True).without_keypoints() == 19
    with pytest.raises(XmdptError, match=r"fasion-resize-annotation-train\.csv"):
        find_dataset(root)


def test_the_first_of_two_annotation_rows_is_used(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    file = root / "fasion-resize-annotation-train.csv"
    first = find_dataset(root)
    name = flat_name("MEN", 1, "1_front")
    row = file.read_text().splitlines()[1]
    assert row.startswith(name)
    with file.open("a") as lines:
        lines.write(row + "\n")  # an equal row is not reported
        lines.write(annotation_row(name, joints(np.random.Generator(np.random.PCG64(9)))) + "\n")
    listing = find_dataset(root)
    assert listing.digest() == first.digest()
    assert [(p.file, p.kept) for p in listing.problems] == [(f"{file.name}:18", True)]
    assert "first one" in listing.problems[0].reason


# --- files that are not what they seem -------------------------------------------------------


def test_a_folder_named_like_an_image(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    path = root / "img_highres" / tree_name("MEN", 1, "1_front")
    path.unlink()
    path.mkdir()
    listing = find_dataset(root)
    name = path.relative_to(root).as_posix()
    assert reasons(listing) == {name: "a folder that is named like an image"}
    assert listing.images() == 18
    with pytest.raises(XmdptError, match=f"{name}: a folder that is named like an image"):
        find_dataset(root, strict=True)


def test_strict_reports_the_first_unusable_image_and_accepts_odd_ones(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    assert not find_dataset(root, strict=True).problems
    one = root / "img_highres" / tree_name("MEN", 501, "1_front")
    shutil.copy(one, one.with_name("01_2_side.jpg"))
    assert find_dataset(root, strict=True).problems[0].kept
    (root / "img_highres" / tree_name("MEN", 1, "1_front")).unlink()
    with pytest.raises(XmdptError, match=r"id_00000001/01_1_front.jpg: listed image not found"):
        find_dataset(root, strict=True)


def test_one_image_in_two_folders_or_two_forms(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    flatten(root, lambda n: "test_highres" if is_test(n) else "train_highres")
    twice = flat_name("MEN", 501, "1_front")
    shutil.copy(root / "test_highres" / twice, root / "train_highres" / twice)
    png = root / "train_highres" / flat_name("MEN", 1, "1_front").replace(".jpg", ".png")
    Image.new("RGB", (8, 8)).save(png)
    listing = find_dataset(root)
    views = {g.key: g.views["1_front"].name for g in listing.items}
    # the folders in the order in which they are named, then the suffix that is listed
    assert views["MEN-Tees_Tanks-id_00000501-01"] == f"train_highres/{twice}"
    assert views["MEN-Tees_Tanks-id_00000001-01"].endswith("_1front.jpg")
    assert {p.file: p.kept for p in listing.problems} == {
        f"train_highres/{twice}": True,
        f"train_highres/{png.stem}.jpg": True,
    }
    assert "test_highres" in reasons(listing)[f"train_highres/{twice}"]


def test_comparing_files_reads_limited_bytes(tmp_path: Path) -> None:
    refs = []
    for name, data in (("a", b"x" * 100), ("b", b"x" * 100), ("c", b"y" * 100), ("d", b"x")):
        (tmp_path / name).write_bytes(data)
        refs.append(ImageFile(name, tmp_path / name))
    a, b, c, d = refs
    files = FileComparison(left=400)
    for _ in range(3):  # the result is kept, in either order
        assert files.equal(a, b)
        assert files.equal(b, a)
    assert not files.equal(a, d)  # of another size: not read
    assert files.left == 200
    assert not files.equal(a, c)
    assert not files.stopped
    assert not files.equal(b, c)
    assert files.stopped
    assert not FileComparison().equal(a, ImageFile("gone", tmp_path / "gone"))


def test_circular_links_are_not_followed(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data")
    before = find_dataset(root)
    category = root / "img_highres" / "MEN" / "Tees_Tanks"
    (category / "again").symlink_to("..")
    (category / "AAA").symlink_to(root)
    (root / "img_highres" / "WOMEN" / "everything").symlink_to("/")
    loop = category / "id_00000001" / "01_3_back.jpg"
    loop.symlink_to(loop.name)  # to itself
    (root / "self").symlink_to(".")
    listing = find_dataset(root)
    assert same(listing, before)
    assert all(problem.kept for problem in listing.problems)


def test_spaces_accents_and_parentheses_in_folders(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "Données (copie) 2")
    for kind in ("MEN", "WOMEN"):
        folder = root / "img_highres" / kind
        (folder / "Tees_Tanks").rename(folder / "Été (v1.2)")
    for path in root.glob("*.csv"):
        path.write_text(path.read_text().replace("Tees_Tanks", "Été (v1.2)"), encoding="utf-8")
    listing = find_dataset(root)
    assert not listing.problems
    assert listing.images() == 19
    for item in listing.items:  # fit for a shard's members
        assert item.key.isascii()
        assert not set(item.key) & set("./ ()")
    assert len({item.key for item in listing.items}) == 7


@pytest.mark.skipif(sys.platform == "darwin", reason="the system refuses such names")
def test_names_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    bad = os.fsencode(root / "img_highres" / "MEN" / "Tees_Tanks" / "id_00000001") + b"/\xff.jpg"
    Path(os.fsdecode(bad)).write_bytes(b"")
    listing = find_dataset(root)
    assert listing.images() == 19
    assert [p.reason for p in listing.problems] == ["its name is not UTF-8"]
    listing.problems[0].file.encode()  # can be printed and stored


# --- cost ------------------------------------------------------------------------------------


def test_a_few_thousand_images_are_listed_quickly(tmp_path: Path) -> None:
    """The full thing (50,000 images, 110,536 pairs) takes seconds; this a twentieth of it."""
    root = tmp_path / "root"
    image = make_dataset(tmp_path / "one", train=1, test=1) / "img_highres"
    data = (image / tree_name("MEN", 1, "1_front")).read_bytes()
    rng = np.random.Generator(np.random.PCG64(0))
    views = ("1_front", "2_side", "3_back", "4_full", "7_additional")
    annotations, pairs = ["name:keypoints_y:keypoints_x"], ["from,to"]
    for item in range(500):
        folder = (root / "img_highres" / tree_name("MEN", item, "1_front")).parent
        folder.mkdir(parents=True)
        for view in views:
            (folder / f"01_{view}.jpg").write_bytes(data)
            annotations.append(annotation_row(flat_name("MEN", item, view), joints(rng)))
        both = [(a, b) for a in views for b in views if a != b][:11]
        pairs += [f"{flat_name('MEN', item, a)},{flat_name('MEN', item, b)}" for a, b in both]
    (root / "fasion-resize-annotation-train.csv").write_text("\n".join(annotations))
    (root / "fasion-resize-pairs-train.csv").write_text("\n".join(pairs))
    before = time.process_time()
    listing = find_dataset(root)
    assert time.process_time() - before < 5  # 0.6 s on two busy cores
    assert len(listing.pairs("train")) == 5500
    assert listing.images() == 2500


def test_finding_a_dataset_imports_no_torch() -> None:
    code = (
        "import sys, xmdpt_cli.datasets.find, xmdpt_cli.datasets.lmdb_images, "
        "xmdpt_cli.datasets.export, xmdpt_cli.datasets.folders\n"
        "assert 'torch' not in sys.modules and 'lmdb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "inner",
    [
        "img_highres/img_highres",
        "In-shop Clothes Retrieval Benchmark/Img/img_highres",
        "In-shop Clothes Retrieval Benchmark/Img/img",
        "Img/img_highres",
        "DeepFashion/img/img_highres",
    ],
)
def test_folders_that_unpacking_adds(tmp_path: Path, inner: str) -> None:
    root = make_dataset(tmp_path / "data")
    plain = find_dataset(root)
    (root / "img_highres").rename(tmp_path / "images")
    (root / inner).parent.mkdir(parents=True)
    (tmp_path / "images").rename(root / inner)
    listing = find_dataset(root, strict=True)
    assert listing.notes[0].startswith(f"raw {inner}, pairs CSV")
    assert listing.images() == plain.images()
    assert len(listing.pairs("train")) == len(plain.pairs("train"))
    assert not any("not used" in note for note in listing.notes)
