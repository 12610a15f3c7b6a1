"""The frame of keypoint files is decided from the values and the images, or it is an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conventions import HEADER, Move, converted, rows_of, scaled, text_of
from PIL import Image
from stick_people import FIGURE

from xmdpt_cli.datasets.find import Listing, find_dataset
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.frame_decision import decide, decide_alone
from xmdpt_cli.pose.frames import ANYWHERE, PADDED, PHOTOGRAPHS, PUBLISHED, parse_frame
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.utils.deepfashion_names import parse_name

NAN = np.nan
PADDING = scaled(176, 256, 40)


def people(count: int, seed: int = 0) -> np.ndarray:
    """(count, 18, 2) fractions: standing, half-length, from behind, and head and shoulders."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for number in range(count):
        points = FIGURE * (0.55, 0.85) + (0.23, 0.06)
        if number % 4 == 1:  # half-length: the same, larger, without what is below the frame
            points = FIGURE * (0.8, 1.5) + (0.1, 0.08)
            points[points[:, 1] > 1] = NAN
        elif number % 4 == 2:  # from behind
            points[[0, 14, 15]] = NAN
        elif number % 4 == 3:
            points = FIGURE * (1.2, 2.6) + (-0.1, 0.1)
            points[(points < 0).any(axis=1) | (points > 1).any(axis=1)] = NAN
        found.append(points + (rng.normal(0, 0.03), 0) + rng.normal(0, 0.01, (18, 2)))
    return np.array(found)


def chosen(fractions: np.ndarray, move: Move, size: tuple[int, int], placement: Any) -> Any:
    raw = move(fractions * (176, 256))
    keys = [f"a.csv:{i + 2}" for i in range(len(raw))]
    return decide("a.csv", keys, raw, np.tile(np.array(size, float), (len(raw), 1)), placement)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 60])
@pytest.mark.parametrize(
    ("move", "size", "name"),
    [
        (scaled(176, 256), (750, 1101), "256x176"),
        (PADDING, (750, 1101), "256x256-padded"),
        (PADDING, (256, 256), "256x256-padded"),
        (scaled(750, 1101), (750, 1101), "pixels"),
        (scaled(750, 1101), (256, 256), "750x1101"),
        (scaled(352, 512), (750, 1101), "512x352"),
        (scaled(1, 1), (750, 1101), "fractions"),
        (scaled(64, 128), (64, 128), "pixels"),
    ],
)
def test_photographs(count: int, move: Move, size: tuple[int, int], name: str) -> None:
    assert chosen(people(count), move, size, PHOTOGRAPHS).frame.name == name


@pytest.mark.parametrize("count", [2, 8, 60])
@pytest.mark.parametrize("size", [(1200, 800), (750, 1101), (3000, 4000)])
@pytest.mark.parametrize(
    ("move", "name"), [("176", "256x176"), ("pixels", "pixels"), ("fractions", "fractions")]
)
def test_own_images_with_people_anywhere(
    count: int, size: tuple[int, int], move: str, name: str
) -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    small = people(count) * (0.4, 0.7) + rng.random((count, 1, 2)) * (0.5, 0.25)
    how = {"176": scaled(176, 256), "pixels": scaled(*size), "fractions": scaled(1, 1)}[move]
    assert chosen(small, how, size, ANYWHERE).frame.name == name


def test_squashed_images_are_distinguished_from_padded_ones_by_the_padding() -> None:
    wide = people(60)
    wide[::5, 4, 0], wide[::5, 7, 0] = 0.05, 0.95  # arms spread
    assert chosen(wide, scaled(256, 256), (750, 1101), PHOTOGRAPHS).frame.name == "256x256"
    assert chosen(wide, PADDING, (256, 256), PHOTOGRAPHS).frame is PADDED
    few = chosen(people(2), scaled(256, 256), (750, 1101), PHOTOGRAPHS)
    assert (few.frame, "256x256 squashed" in few.how) == (PADDED, True)


def test_ambiguous_frames_are_an_error() -> None:
    with pytest.raises(XmdptError, match="frame is ambiguous in its row") as error:
        chosen(people(1), scaled(176, 256), (200, 300), ANYWHERE)
    assert "256x176: " in error.value.message
    assert "pixels of the images: " in error.value.message
    assert "--frame 256x176|256x256-padded|pixels" in error.value.hint
    assert chosen(people(1), scaled(176, 256), (176, 256), ANYWHERE).frame is PUBLISHED


@pytest.mark.parametrize("move", [scaled(192, 256), scaled(224, 224), scaled(160, 256)])
def test_other_sizes_are_refused_where_many_people_are_off_centre(move: Move) -> None:
    middle = people(100) + (0.01, 0)
    with pytest.raises(XmdptError, match=r"are people in the middle|ambiguous|no known frame"):
        chosen(middle, move, (750, 1101), PHOTOGRAPHS)
    assert chosen(middle, scaled(176, 256), (750, 1101), PHOTOGRAPHS).frame is PUBLISHED


def test_fractions_of_the_padded_image() -> None:
    wide = people(100)
    wide[::5, 4, 0], wide[::5, 7, 0] = 0.05, 0.95  # arms spread
    padded = wide * (176 / 256, 1) + (40 / 256, 0)
    whole = scaled(1, 1)
    assert chosen(wide, whole, (750, 1101), PHOTOGRAPHS).frame.name == "fractions"
    assert chosen(padded, whole, (750, 1101), PHOTOGRAPHS).frame.name == "fractions-padded"
    few = chosen(padded[:6], whole, (750, 1101), PHOTOGRAPHS)
    assert few.frame.name == "fractions"
    assert "fit fractions of the padded 256x256 image too: --frame" in few.how


@pytest.mark.parametrize("count", [1, 2, 3, 6, 24])
def test_pixels_of_images_of_known_size_come_before_usual_sizes(count: int) -> None:
    decided = chosen(people(count), scaled(375, 550), (375, 550), PHOTOGRAPHS)
    assert decided.frame.name == "pixels"


def test_many_rows_of_another_size_are_not_pixels_of_the_images() -> None:
    with pytest.raises(XmdptError, match="frame is ambiguous in 100 rows"):
        chosen(people(100) + (0.01, -0.05), scaled(384, 512), (375, 550), PHOTOGRAPHS)


def test_poses_without_images() -> None:
    for move, frame in ((scaled(176, 256), "256x176"), (PADDING, "256x256-padded"),
                        (scaled(1, 1), "fractions")):  # fmt: skip
        raw = move(people(3) * (176, 256))
        assert decide_alone("a.csv", "a.csv:2", raw).frame.name == frame
    with pytest.raises(XmdptError, match="in no known frame") as error:
        decide_alone("a.csv", "a.csv:2", scaled(750, 1101)(people(3) * (176, 256)))
    assert "--frame" not in error.value.hint  # of prepare only


@pytest.mark.parametrize(("published", "move"), [(PUBLISHED, scaled(176, 256)), (PADDED, PADDING)])
def test_one_row_is_as_published_where_that_fits_and_the_other_frame_is_reported(
    published: Any, move: Move
) -> None:
    aside = 0.12 if published is PUBLISHED else -0.12
    raw = move((people(1) + (aside, 0)) * (176, 256))
    decided = decide_alone("a", "a", raw, published=published)
    assert decided.frame is published
    assert decided.how.startswith("as published; the values fit ")
    other = PADDED if published is PUBLISHED else PUBLISHED
    assert str(other) in decided.how
    centred = move(people(1) * (176, 256))
    assert decide_alone("a", "a", centred, published=published).how == ""
    assert decide_alone("a", "a", centred, published=other).frame is published


def test_one_row_in_pixels_of_the_image_beside_it() -> None:
    raw = scaled(192, 256)(people(1) * (176, 256))
    size = np.array([[192.0, 256.0]])
    decided = decide_alone("a", "a", raw, size)
    assert (decided.frame.name, decided.how) == ("pixels", "the values fit 256x176 too")
    assert decide_alone("a", "a", raw, size, guessed=True).frame is PUBLISHED  # of the source


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("256x176", "256x176"), ("256x256-padded", "256x256-padded"), ("Pixels", "pixels"),
        ("352x512", "352x512"), ("64x128", "64x128"),
    ],
)  # fmt: skip
def test_names_of_frames(text: str, name: str) -> None:
    frame = parse_frame(text)
    assert frame is not None
    assert frame.name == name
    assert parse_frame("auto") is None
    assert parse_frame("176x256").width == 176  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "padding", "0x5", "176", "1x2x3", "99999999x1"])
def test_invalid_frame_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--frame is auto, 256x176, "):
        parse_frame(text)


@pytest.fixture(scope="module")
def people_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic people, 88 x 128 pixels, 36 to train and 9 to test."""
    root = tmp_path_factory.mktemp("people_root") / "raw"
    make_synthetic(root, people_train=12, people_test=3, views=3, height=128, workers=1)
    return root


def apart(one: Listing, other: Listing) -> float:
    """Pixels of the 256x176 frame; the same joints must be missing."""
    assert [g.key for g in one.items] == [g.key for g in other.items]
    far = 0.0
    for a, b in zip(one.items, other.items, strict=True):
        assert a.keypoints.keys() == b.keypoints.keys() == a.views.keys()
        for view in a.views:
            found, wanted = a.keypoints[view], b.keypoints[view]
            np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
            far = max(far, float(np.nanmax(np.abs((found - wanted) * (176, 256)))))
    return far


CONVENTIONS: list[tuple[dict[str, Any], float, str]] = [
    ({}, 0, "256x176"),
    ({"move": PADDING}, 0, "256x256 padded"),
    ({"move": PADDING, "stem": "fasion"}, 0, "256x256 padded"),
    ({"move": PADDING, "stem": "fashion-resize"}, 0, "256x256 padded"),
    ({"stem": "fashion"}, 0, "256x176"),
    ({"move": scaled(750, 1101)}, 0.2, "750x1101 original"),
    ({"move": scaled(352, 512)}, 0, "512x352"),
    ({"move": scaled(1, 1), "decimals": 5}, 0.01, "fractions of the sides"),
    ({"header": "name:keypoints_x:keypoints_y", "order": "xy"}, 0, "256x176"),
    ({"move": PADDING, "missing": 0}, 0, "256x256 padded"),
    ({"missing": 0}, 0, "256x176"),
    ({"separator": ";", "header": HEADER.replace(":", ";")}, 0, "256x176"),
]


@pytest.mark.parametrize(("how", "tolerance", "frame"), CONVENTIONS)
def test_synthetic_people_in_every_convention(
    people_root: Path, tmp_path: Path, how: dict[str, Any], tolerance: float, frame: str
) -> None:
    listing = find_dataset(converted(people_root, tmp_path / "root", **how))
    assert apart(listing, find_dataset(people_root)) <= tolerance
    notes = [note for note in listing.notes if "annotation-train.csv, 36 rows" in note]
    assert len(notes) == 1
    assert f"frame {frame} (" in notes[0]
    assert "--frame overrides" in notes[0]


@pytest.mark.parametrize(
    ("how", "tolerance", "frame"),
    [*CONVENTIONS, ({"move": scaled(375, 550)}, 0.3, "pixels of the images"),
     ({"move": scaled(256, 256)}, 0.4, "256x256 squashed")],
)  # fmt: skip
def test_real_annotations_in_every_convention(
    shared: Callable[[str], Path], tmp_path: Path, how: dict[str, Any], tolerance: float, frame: str
) -> None:
    sample = shared("deepfashion_sample")
    listing = find_dataset(converted(sample, tmp_path / "root", **how))
    wanted = find_dataset(converted(sample, tmp_path / "plain"))
    assert apart(listing, wanted) <= tolerance
    assert any(f"96 rows, frame {frame} (" in note for note in listing.notes)


def test_pixels_of_the_images(people_root: Path, tmp_path: Path) -> None:
    root = converted(people_root, tmp_path / "root", scaled(88, 128), decimals=2)
    shutil.copytree(people_root / "img_highres", tmp_path / "own")
    (root / "img_highres").unlink()
    (tmp_path / "own").rename(root / "img_highres")
    first = sorted((root / "img_highres").rglob("*.jpg"))[0]
    with Image.open(first) as image:
        large = image.resize((176, 256))
    large.save(first)
    listing = find_dataset(root)
    assert any("frame pixels of the images (" in note for note in listing.notes)
    # the pixels of an image of another size are those of that image
    item = next(g for g in listing.items if any(p.name.endswith(first.name) and
                   first.parent.name in p.name for p in g.views.values()))  # fmt: skip
    wanted = next(g for g in find_dataset(people_root).items if g.key == item.key)
    ratios = [
        float(np.nanmean(item.keypoints[v]) / np.nanmean(wanted.keypoints[v])) for v in item.views
    ]
    assert sorted(np.round(ratios, 1)) == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("how", "reason", "hint"),
    [
        ({"move": scaled(22, 32)}, "in no known frame", "--frame 256x176|"),
        ({"move": lambda p: p * (1, -1) + (0, 256)}, "upside down", "y counts from the top"),
        ({"order": "xy"}, "tried", "exchange keypoints_y and keypoints_x in the header"),
        ({"order": "xy", "header": None}, "tried", "add name:keypoints_x:keypoints_y"),
        ({"move": lambda p: p * (1, 0.1)}, "in no known frame", "missing joints are -1"),
    ],
)
def test_implausible_annotations_are_an_error(
    people_root: Path, tmp_path: Path, how: dict[str, Any], reason: str, hint: str
) -> None:
    with pytest.raises(XmdptError, match=r"^fasion-resize-annotation-train\.csv: ") as error:
        find_dataset(converted(people_root, tmp_path / "root", **how))
    assert reason in error.value.message.lower()
    row = 2 if how.get("header", HEADER) else 1
    assert f"(first: fasion-resize-annotation-train.csv:{row}, " in error.value.message
    for frame in ("256x176", "256x256 padded", "pixels of the images", "750x1101", "fractions"):
        assert frame in error.value.message
    assert hint in error.value.hint


def test_a_file_of_two_frames_is_an_error(people_root: Path, tmp_path: Path) -> None:
    root = converted(people_root, tmp_path / "root")
    file = root / "fasion-resize-annotation-train.csv"
    rows = rows_of(file)
    late = dict(list(rows.items())[24:])
    lines = file.read_text().splitlines()[:25] + text_of(late, PADDING).splitlines()[1:]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        XmdptError, match=r"rows of two frames: 256x176, and 1\d of 36 rows"
    ) as error:
        find_dataset(root)
    assert "256x256 padded (the first of these: fasion-resize-annotation-train.csv:" in (
        error.value.message
    )


def test_the_frame_option_overrides_the_decision(people_root: Path, tmp_path: Path) -> None:
    root = converted(people_root, tmp_path / "root", scaled(22, 32), decimals=3)
    listing = find_dataset(root, frame="22x32")
    assert apart(listing, find_dataset(people_root)) < 0.01
    assert any("frame 22x32 (by --frame)" in note for note in listing.notes)
    assert listing.options["frame"] == "22x32"
    odd = find_dataset(people_root, frame="256x256-padded")
    assert any("by --frame, although implausible" in note for note in odd.notes)
    with pytest.raises(ConfigError, match=r"--frame fractions: most joints .* first row: fasion"):
        find_dataset(people_root, frame="fractions")


def test_one_row_outside_of_its_image_is_left_out(people_root: Path, tmp_path: Path) -> None:
    root = converted(people_root, tmp_path / "root")
    file = root / "fasion-resize-annotation-train.csv"
    lines = file.read_text().splitlines()
    lines[5] = f"{lines[5].split(':')[0]}: {[20] * 18}: {[900] * 18}"
    file.write_text("\n".join(lines) + "\n")
    listing = find_dataset(root)
    reasons = {problem.file: problem.reason for problem in listing.problems}
    assert reasons[f"{file.name}:6"] == "keypoints: most joints lie outside of the image"
    assert listing.images() == find_dataset(people_root).images() - 1


@pytest.mark.parametrize(("move", "frame"), [(PADDING, "256x256 padded"),
                                             (scaled(176, 256), "256x176"),
                                             (scaled(750, 1101), "750x1101")])  # fmt: skip
def test_pose_trees_in_other_frames(
    people_root: Path, tmp_path: Path, move: Move, frame: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "img_highres").symlink_to(people_root / "img_highres")
    for split in ("train", "test"):
        shutil.copy(people_root / f"fasion-resize-pairs-{split}.csv", root)
        for name, raw in rows_of(people_root / f"fasion-resize-annotation-{split}.csv").items():
            pose = root / "pose" / parse_name(name).path.replace(".jpg", ".txt")
            pose.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(pose, np.nan_to_num(move(raw), nan=-1))
    listing = find_dataset(root)
    assert apart(listing, find_dataset(people_root)) < 1e-6
    assert any(f"keypoints: pose/, frame {frame}" in note for note in listing.notes)
    loose = find_dataset(root, layout="people")  # pose/<path>.txt of one's own images
    wanted = {g.key: g.keypoints for g in listing.items}
    for item in loose.items:
        for view in item.keypoints.keys() & wanted[item.key].keys():
            found = item.keypoints[view]
            np.testing.assert_allclose(found, wanted[item.key][view], atol=1e-9)


def own(root: Path, count: int = 6, size: tuple[int, int] = (300, 400)) -> np.ndarray:
    """Images of three people; the fractions of their keypoints, in the order of their names."""
    for number in range(count):
        path = root / f"person {number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return people(count)


@pytest.mark.parametrize("frame", ["pixels", "256x176", "fractions"])
def test_own_annotations_in_pixels_of_their_photographs(tmp_path: Path, frame: str) -> None:
    wanted = own(tmp_path)
    move = {"pixels": scaled(300, 400), "256x176": scaled(176, 256), "fractions": scaled(1, 1)}
    rows = {f"person {i % 3}/{i}.jpg": points * (176, 256) for i, points in enumerate(wanted)}
    (tmp_path / "annotations.csv").write_text(text_of(rows, move[frame], decimals=4))
    listing = find_dataset(tmp_path)
    assert listing.without_keypoints() == 0
    for item in listing.items:
        for view, points in item.keypoints.items():
            np.testing.assert_allclose(points, wanted[int(view)], atol=1e-3)
    assert any(note.startswith("keypoints: annotations.csv, frame ") for note in listing.notes)


@pytest.mark.parametrize("move", [PADDING, scaled(300, 400), scaled(1, 1), scaled(176, 256)])
def test_own_pose_files(tmp_path: Path, move: Move) -> None:
    wanted = own(tmp_path, 40)
    (tmp_path / "pose").mkdir()
    for number, points in enumerate(wanted):
        raw = np.nan_to_num(move(points * (176, 256)), nan=-1)
        folder = tmp_path / "pose" / f"person {number % 3}"
        folder.mkdir(exist_ok=True)
        np.savetxt(folder / f"{number}.txt", raw)
    listing = find_dataset(tmp_path)
    assert listing.without_keypoints() == 0
    for item in listing.items:
        for view, points in item.keypoints.items():
            np.testing.assert_allclose(points, wanted[int(view)], atol=1e-9)


def test_own_annotations_in_no_frame_are_an_error(tmp_path: Path) -> None:
    wanted = own(tmp_path)
    rows = {f"person {i % 3}/{i}.jpg": points * (176, 256) for i, points in enumerate(wanted)}
    (tmp_path / "annotations.csv").write_text(text_of(rows, scaled(4000, 6000)))
    with pytest.raises(XmdptError, match=r"^annotations\.csv: keypoints that are in no known"):
        find_dataset(tmp_path)
    listing = find_dataset(tmp_path, frame="4000x6000")
    assert listing.without_keypoints() == 0
