"""Synthetic people: exact keypoints, the published layout, a task that copying does not solve."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.toy.people.figure import Rendering, render_person
from xmdpt_cli.toy.people.outfit import Cloth
from xmdpt_cli.toy.people.person import Person, make_person
from xmdpt_cli.toy.people.pose import Arm, Leg, Pose, make_pose
from xmdpt_cli.toy.people.views import render_view, views_of
from xmdpt_cli.toy.synthetic import make_synthetic, views_in

NOSE, NECK, RSHO, RELB, RWRI, LSHO = 0, 1, 2, 3, 4, 5
RHIP, RKNE, LHIP, REYE, LEYE, REAR, LEAR = 8, 9, 11, 14, 15, 16, 17
FLAT = re.compile(r"^fashion(MEN|WOMEN)(.+?)id(\d{8})(\d{2})_(\d)([a-z]+)\.jpg$")
ROW = re.compile(r"^(\S+\.jpg): \[([-\d, ]+)\]: \[([-\d, ]+)\]$")
SMALL = {"people_train": 4, "people_test": 2, "views": 3, "seed": 7, "height": 128}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset at the image size of DeepFashion."""
    root = tmp_path_factory.mktemp("people") / "raw"
    make_synthetic(root, people_train=5, people_test=2, views=4, seed=3, workers=1)
    return root


def standing(yaw: float, **changes: object) -> Pose:
    """An upright pose with the arms slightly off the body."""
    arm = Arm("shoulder", (0.07, 0.28, 0.0), (0.4, 0.0, -1.0))
    leg = Leg(0.05, 0.0, 0.02)
    pose = Pose(
        np.deg2rad(yaw), 0.0, 0.0, (0.0, 0.0), (arm, arm), (leg, leg), zoom=0.9, shift=(0.0, 0.0)
    )
    return replace(pose, **changes)


def dressed(pattern: str) -> Person:
    """A man in a red top with a white pattern and blue trousers, without a jacket."""
    red, white = (0.85, 0.12, 0.10), (0.95, 0.95, 0.94)
    return replace(
        make_person(11),
        woman=False,
        hair_style="short",
        top=Cloth(pattern, red, white, period=0.05, motif=0),
        bottom=Cloth("plain", (0.1, 0.2, 0.8), white, period=0.05, motif=0),
        bottom_kind="trousers",
        bottom_length=1.9,
        sleeve=0.6,
        neckline="round",
        neck_depth=0.02,
        jacket=None,
        tucked=True,
    )


def some_renderings(people: int) -> list[Rendering]:
    return [
        render_view(view)
        for index in range(people)
        for view in views_of("train", index, seed=5, views=5)
    ]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def parse_annotations(path: Path) -> dict[str, np.ndarray]:
    """An independent reader: name -> (18, 2) integer x, y."""
    header, *rows = lines(path)
    assert header == "name:keypoints_y:keypoints_x"
    out = {}
    for row in rows:
        match = ROW.match(row)
        assert match, row
        y, x = ([int(v) for v in match[i].split(",")] for i in (2, 3))
        assert len(y) == len(x) == 18
        out[match[1]] = np.stack([x, y], axis=1)
    return out


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- the rendering -----------------------------------------------------------------------------


def test_every_annotated_joint_lies_on_the_person() -> None:
    for rendering in some_renderings(10):
        seen = np.isfinite(rendering.keypoints[:, 0])
        x, y = np.floor(rendering.keypoints[seen]).astype(int).T
        assert rendering.silhouette[y, x].all(), np.flatnonzero(seen)[~rendering.silhouette[y, x]]


def test_an_arm_is_rendered_at_its_joints() -> None:
    """Images of poses that differ only in the right arm differ only along the bones of that arm."""
    person, down = dressed("plain"), standing(0)
    raised = Arm("hip", (0.03, -0.06, 0.03), (1.0, 0.0, -0.2))
    a, b = (
        render_person(person, down),
        render_person(person, replace(down, arms=(raised, down.arms[1]))),
    )
    changed = np.argwhere(np.abs(a.image.astype(int) - b.image).max(axis=2) > 12)[:, ::-1]
    scale = np.linalg.norm(a.keypoints[NECK] - a.keypoints[[RHIP, LHIP]].mean(axis=0)) / 0.3
    reach = np.full(len(changed), np.inf)
    for keypoints in (a.keypoints, b.keypoints):
        shoulder, elbow, wrist = keypoints[[RSHO, RELB, RWRI]]
        finger = wrist + 0.45 * (wrist - elbow)
        for start, end in ((shoulder, elbow), (elbow, finger)):
            t = np.clip((changed - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
            away = np.linalg.norm(changed - (start + t[:, None] * (end - start)), axis=1)
            reach = np.minimum(reach, away)
    assert len(changed) > 500
    # an upper arm in its sleeve is at most 0.035 body heights in radius
    assert reach.max() < 0.036 * scale + 1.5


def test_sides_and_face_joints_follow_the_yaw() -> None:
    person = dressed("plain")
    front, back = render_person(person, standing(0)), render_person(person, standing(180))
    for right, left in ((RSHO, LSHO), (RHIP, LHIP), (REAR, LEAR)):
        assert front.keypoints[right, 0] < front.keypoints[left, 0]
        assert back.keypoints[right, 0] > back.keypoints[left, 0]
    assert front.keypoints[REYE, 0] < front.keypoints[NOSE, 0] < front.keypoints[LEYE, 0]
    assert np.isnan(back.keypoints[[NOSE, REYE, LEYE]]).all()
    looks_right = render_person(person, standing(90)).keypoints
    # a person who faces the right of the image shows the right side
    assert np.isnan(looks_right[[LEYE, LEAR]]).all()
    assert np.isfinite(looks_right[[NOSE, REYE, REAR]]).all()
    assert looks_right[NOSE, 0] > looks_right[REYE, 0] > looks_right[REAR, 0]


def test_upper_body_crops_lose_the_joints_outside_the_frame() -> None:
    rendering = render_person(dressed("plain"), standing(0, zoom=1.7))
    assert np.isnan(rendering.keypoints[[10, 13]]).all()  # ankles
    assert np.isfinite(rendering.keypoints[[NOSE, NECK, RSHO, LSHO]]).all()


def test_height_scales_everything() -> None:
    person = dressed("plaid")
    for yaw in (20, 130):
        large, small = (
            render_person(person, standing(yaw)),
            render_person(person, standing(yaw), height=64),
        )
        assert small.image.shape == (64, 44, 3)
        np.testing.assert_allclose(small.keypoints * 4, large.keypoints, atol=1e-9)
        block = large.image.reshape(64, 4, 44, 4, 3).mean(axis=(1, 3))
        assert peak_signal_noise_ratio(block, small.image.astype(float), data_range=255) > 30


def test_textures_move_with_the_body() -> None:
    """A person shifted by 10 pixels has the same pixels, so no texture is fixed to the image."""
    person = dressed("plaid")
    first = render_person(person, standing(15, shift=(0.0, 0.0)))
    shifted = render_person(person, standing(15, shift=(10 / 176, 0.0)))
    np.testing.assert_allclose(shifted.keypoints - first.keypoints, [[10, 0]] * 18, atol=1e-9)
    difference = np.abs(first.image[:, :-10].astype(int) - shifted.image[:, 10:])
    assert difference.max() <= 2
    assert first.image[first.silhouette].std() > 40


@pytest.mark.parametrize(("yaw", "shown"), [(0, True), (25, True), (180, False), (160, False)])
def test_a_print_is_on_the_chest(yaw: float, shown: bool) -> None:
    plain, printed = (render_person(dressed(kind), standing(yaw)) for kind in ("plain", "print"))
    changed = (plain.image != printed.image).any(axis=2)
    assert (changed.sum() > 60) == shown
    if not shown:
        assert not changed.any()


def test_clothes_have_the_same_colour_in_all_views() -> None:
    def chest(person: Person, yaw: float) -> np.ndarray:
        rendering = render_person(person, standing(yaw))
        neck, hips = rendering.keypoints[NECK], rendering.keypoints[[RHIP, LHIP]].mean(axis=0)
        x, y = (0.6 * neck + 0.4 * hips).astype(int)
        return np.median(rendering.image[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3), axis=0)

    views = [chest(dressed("plain"), yaw) for yaw in (0, 35, 160, 180, -150)]
    wanted = np.array([0.85, 0.12, 0.10]) * 255
    # shading may darken by a few percent; the top stays that red
    assert max(np.abs(view - wanted).max() for view in views) < 20


@pytest.mark.parametrize("yaw", [0, 30, 180])
def test_the_side_towards_the_light_is_brighter(yaw: float) -> None:
    def sides(light: float) -> tuple[float, float]:
        rendering = render_person(dressed("plain"), standing(yaw), light=light)
        neck, hips = rendering.keypoints[NECK], rendering.keypoints[[RHIP, LHIP]].mean(axis=0)
        x, y = (0.5 * neck + 0.5 * hips).astype(int)
        red = rendering.image[y - 10 : y + 11, :, 0].astype(float)
        return red[:, x - 11 : x - 5].mean(), red[:, x + 6 : x + 12].mean()

    for light in (0.1, 0.18):
        left, right = sides(-light)
        assert left > right + 5
        left, right = sides(light)
        assert right > left + 5


@pytest.mark.parametrize("height", [64, 128, 256])
def test_white_clothes_stand_out_from_the_lightest_background(height: int) -> None:
    white = Cloth("plain", (0.95, 0.95, 0.94), (0.1, 0.1, 0.1), period=0.05, motif=0)
    person = replace(dressed("plain"), top=white)
    rendering = render_person(person, standing(0), height=height, background=0.97, light=0.07)
    neck, hips = rendering.keypoints[NECK], rendering.keypoints[[RHIP, LHIP]].mean(axis=0)
    top, bottom = (0.7 * neck + 0.3 * hips)[1], (0.3 * neck + 0.7 * hips)[1]
    rows = slice(int(top), int(bottom))
    image = rendering.image[rows].astype(float).mean(axis=2)
    # the darkest pixel of each row, at either side of the torso, and the torso as a whole
    half = image.shape[1] // 2
    assert np.median(image[:, :half].min(axis=1)) < 0.97 * 255 - 35
    assert np.median(image[:, half:].min(axis=1)) < 0.97 * 255 - 35
    assert image[rendering.silhouette[rows]].mean() < 0.97 * 255 - 12


# --- the task ---------------------------------------------------------------------


def test_copying_the_source_scores_badly(tmp_path: Path) -> None:
    """Measured over 32 test persons at 256 px: SSIM 0.66, IoU 0.43."""
    root = tmp_path / "w"
    make_synthetic(root, people_train=1, people_test=10, views=4, seed=0, workers=1)
    known = views_in(root)
    ssim, iou = [], []
    for row in lines(root / "fasion-resize-pairs-test.csv")[1:]:
        source, target = (render_view(known[name]) for name in row.split(","))
        ssim.append(structural_similarity(source.image, target.image, channel_axis=2))
        both = (source.silhouette & target.silhouette).sum()
        iou.append(both / (source.silhouette | target.silhouette).sum())
    assert np.mean(ssim) < 0.75
    assert 0.3 < np.mean(iou) < 0.6


def test_people_differ() -> None:
    people = [make_person([1, i]) for i in range(40)]
    assert len(set(people)) == 40
    assert {p.bottom_kind for p in people} == {"dress", "trousers", "skirt", "shorts"}
    assert len({p.top.pattern for p in people}) >= 5
    assert len({p.hair_style for p in people}) >= 5
    assert len({p.fringe for p in people}) >= 3
    assert {p.beard > 0 for p in people if not p.woman} == {True, False}
    assert not any(p.beard for p in people if p.woman)
    assert make_person(3) == make_person(3) != make_person(4)


def test_clothes_are_mostly_plain_colours_and_some_are_white() -> None:
    tops = np.array([make_person([2, i]).top.colour for i in range(400)])
    assert (tops.min(axis=1) > 0.85).mean() >= 0.08
    assert (tops.max(axis=1) < 0.25).mean() >= 0.08
    saturation = 1 - tops.min(axis=1) / tops.max(axis=1)
    assert 0.08 < ((saturation > 0.5) & (tops.max(axis=1) > 0.45)).mean() < 0.35


def test_poses_cover_their_views() -> None:
    rng = np.random.default_rng(0)
    yaws = {
        v: [abs(make_pose(rng, v).yaw) for _ in range(50)] for v in ("1_front", "2_side", "3_back")
    }
    assert max(yaws["1_front"]) < 0.5 < min(yaws["2_side"])
    assert max(yaws["2_side"]) < 1.7 < 2.5 < min(yaws["3_back"])


# --- the files -------------------------------------------------------------------------------


def test_the_layout_is_the_published_one(synthetic: Path, shared: Callable[[str], Path]) -> None:
    sample = shared("deepfashion_sample")
    for split in ("train", "test"):
        for name in (f"fasion-resize-annotation-{split}.csv", f"fasion-resize-pairs-{split}.csv"):
            assert lines(synthetic / name)[0] == lines(sample / name)[0]
        # the same parser reads both
        for root in (sample, synthetic):
            points = parse_annotations(root / f"fasion-resize-annotation-{split}.csv")
            listed = lines(root / f"{split}.lst")
            assert set(points) == set(listed)
            for row in lines(root / f"fasion-resize-pairs-{split}.csv")[1:]:
                assert set(row.split(",")) <= set(listed)
            assert all(FLAT.match(name) for name in listed)


def test_flat_names_give_the_paths_of_the_images(synthetic: Path) -> None:
    names = lines(synthetic / "train.lst") + lines(synthetic / "test.lst")
    found = set()
    for name in names:
        match = FLAT.match(name)
        assert match, name
        sex, category, item, colour, number, view = match.groups()
        path = (
            synthetic
            / "img_highres"
            / sex
            / category
            / f"id_{item}"
            / f"{colour}_{number}_{view}.jpg"
        )
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (176, 256))
        found.add(path)
    assert found == set(synthetic.rglob("*.jpg"))
    assert len(names) == len(found) == 7 * 4


def test_annotations_are_the_rendered_keypoints(synthetic: Path) -> None:
    known = views_in(synthetic)
    points = parse_annotations(synthetic / "fasion-resize-annotation-test.csv")
    assert points
    for name, annotated in points.items():
        rendering = render_view(known[name])
        missing = np.isnan(rendering.keypoints[:, 0])
        assert (annotated[missing] == -1).all()
        assert np.abs(annotated[~missing] + 0.5 - rendering.keypoints[~missing]).max() <= 0.5
        stored = np.asarray(Image.open(synthetic / known[name].path))
        assert peak_signal_noise_ratio(rendering.image, stored) > 33


def test_annotations_are_in_the_176_frame_whatever_the_height(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "a", **SMALL, workers=1)
    make_synthetic(tmp_path / "b", **{**SMALL, "height": 256}, workers=1)
    a, b = (parse_annotations(tmp_path / x / "fasion-resize-annotation-train.csv") for x in "ab")
    assert a.keys() == b.keys()
    assert max(np.abs(a[name] - b[name]).max() for name in a) <= 1


def test_splits_are_disjoint_and_pairs_are_of_one_item(synthetic: Path) -> None:
    items = {}
    for split, pairs in (("train", 5 * 4 * 3), ("test", 2 * 2)):
        rows = [row.split(",") for row in lines(synthetic / f"fasion-resize-pairs-{split}.csv")[1:]]
        assert len(rows) == len({tuple(row) for row in rows}) == pairs
        for source, target in rows:
            a, b = FLAT.match(source), FLAT.match(target)
            assert a
            assert b
            assert a.groups()[:4] == b.groups()[:4]
            assert a.groups()[4:] != b.groups()[4:]
        items[split] = {row[0][: row[0].rindex("_")] for row in rows}
        assert {n[: n.rindex("_")] for n in lines(synthetic / f"{split}.lst")} == items[split]
    assert not items["train"] & items["test"]


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        make_synthetic(tmp_path / name, **SMALL, workers=workers)
    other = {**SMALL, "seed": 8}
    make_synthetic(tmp_path / "other", **other, workers=1)
    one, two, third = (bytes_of(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["train.lst"] != third["train.lst"] or one.keys() != third.keys()
    assert not set(one.values()) & {v for k, v in third.items() if k.endswith(".jpg")}


def test_more_people_do_not_change_the_first_ones(tmp_path: Path) -> None:
    few, more = SMALL, {**SMALL, "people_train": 6}
    make_synthetic(tmp_path / "few", **few, workers=1)
    make_synthetic(tmp_path / "more", **more, workers=1)
    first, second = bytes_of(tmp_path / "few"), bytes_of(tmp_path / "more")
    images = [name for name in first if name.endswith(".jpg")]
    assert images
    assert all(first[name] == second[name] for name in images)


def test_summary_and_progress(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    summary = make_synthetic(
        tmp_path / "w",
        **SMALL,
        workers=1,
        progress=lambda stage, done, total, /, **_: calls.append((stage, done, total)),
    )
    assert (summary.train_images, summary.test_images) == (12, 6)
    assert (summary.train_pairs, summary.test_pairs) == (24, 4)
    assert (summary.height, summary.width, summary.made) == (128, 88, True)
    assert calls[-1] == ("rendering", 18, 18)
    assert "ynthetic" in (tmp_path / "w" / "MADE_BY_XMDPT.txt").read_text(encoding="utf-8")


# --- existing folders ----------------------------------------------------------


def test_a_finished_dataset_is_not_changed(tmp_path: Path) -> None:
    first = make_synthetic(tmp_path, **SMALL, workers=1)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = make_synthetic(tmp_path, **SMALL, workers=1)
    assert (first.made, again.made) == (True, False)
    assert replace(again, made=True) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "img_highres").mkdir()
    (tmp_path / "img_highres" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(XmdptError, match="not empty"):
        make_synthetic(tmp_path, **SMALL)
    assert bytes_of(tmp_path) == {str(Path("img_highres") / "mine.jpg"): b"mine"}
    with pytest.raises(XmdptError, match="not a folder"):
        make_synthetic(tmp_path / "img_highres" / "mine.jpg")


def test_another_dataset_is_refused_and_untouched(tmp_path: Path) -> None:
    make_synthetic(tmp_path, **SMALL, workers=1)
    before = bytes_of(tmp_path)
    with pytest.raises(XmdptError, match="other synthetic people"):
        make_synthetic(tmp_path, **{**SMALL, "seed": 8}, workers=1)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("damage", ["interrupted", "missing image"])
def test_a_broken_dataset_is_made_again(tmp_path: Path, damage: str) -> None:
    make_synthetic(tmp_path, **SMALL, workers=1)
    before = bytes_of(tmp_path)
    images = sorted(tmp_path.rglob("*.jpg"))
    images[0].unlink()
    if damage == "interrupted":
        (tmp_path / "MADE_BY_XMDPT.txt").rename(tmp_path / "MADE_BY_XMDPT.txt.part")
        images[1].write_bytes(b"half")
        (tmp_path / "train.lst").unlink()
    assert make_synthetic(tmp_path, **SMALL, workers=1).made
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_write_error_is_reported_and_the_dataset_is_not_marked_complete(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "MADE_BY_XMDPT.txt.part").write_text("", encoding="utf-8")
    (tmp_path / "img_highres").write_bytes(b"a file where the folder should be")
    with pytest.raises(XmdptError, match="img_highres"):
        make_synthetic(tmp_path, **SMALL, workers=workers)
    assert not (tmp_path / "MADE_BY_XMDPT.txt").exists()
    with pytest.raises(XmdptError, match="no finished"):
        views_in(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": 1}, "2 to 5 views"),
        ({"views": 6}, "2 to 5 views"),
        ({"people_test": 0}, "at least 1 person"),
        ({"seed": -1}, "seed"),
        ({"height": 8}, "pixels high"),
    ],
)
def test_invalid_parameters_are_refused(
    tmp_path: Path, wrong: dict[str, int], message: str
) -> None:
    with pytest.raises(XmdptError, match=message):
        make_synthetic(tmp_path / "w", **{**SMALL, **wrong})
    assert not (tmp_path / "w").exists()
