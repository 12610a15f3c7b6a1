"""Sources and poses in every form, and the errors for invalid ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE, StickPeople, grey, standing, with_network
from toy_models import SIZE, leaning, person, write_pose

from xmdpt_cli.encoders.openpose import OpenPose
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.sampling.inputs import InputOptions, Pose, View, read_pose, read_view

ALONE, CROWD, EMPTY = (
    40,
    90,
    140,
)  # the grey decides which people are found
PEOPLE = {
    ALONE: [standing(0.2, 0.8)],
    CROWD: [standing(0.02, 0.35, confidence=0.95), standing(0.4, 0.98, confidence=0.6)],
}


def no_openpose() -> OpenPose:
    raise XmdptError("OpenPose is not on this machine", "put it into DIR")


@pytest.fixture(scope="module")
def openpose() -> Callable[[], OpenPose]:
    found = with_network(StickPeople(PEOPLE))
    return lambda: found


def view(source: Any, openpose: Callable[[], OpenPose] = no_openpose, **more: Any) -> View:
    of_call = {name: more.pop(name) for name in ("keypoints", "needs_keypoints") if name in more}
    return read_view(source, SIZE, openpose, InputOptions(**more), **of_call)


def poses(pose: Any, openpose: Callable[[], OpenPose] = no_openpose, **more: Any) -> list[Pose]:
    source_size = more.pop("source_size", None)
    names = {"fit": "pose_fit", "person": "pose_person"}
    options = InputOptions(**{names.get(name, name): value for name, value in more.items()})
    return read_pose(pose, SIZE, openpose, options, source_size=source_size)


def test_every_form_of_an_image_gives_the_same_view(tmp_path: Path) -> None:
    """File, path, PIL, array; transparent, rotated by EXIF, 16 bit: the model reads one image."""
    image = person()
    want = view(image).image
    assert want.shape == (SIZE, SIZE, 3)
    assert want.std() > 10
    np.testing.assert_array_equal(view(np.asarray(image)).image, want)
    name = "DSC 0042 % #1 é\U0001f600.PNG"
    image.save(tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        found = view(path)
        np.testing.assert_array_equal(found.image, want)
        assert found.name == "DSC 0042 % #1 é\U0001f600"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the image must be turned to the right
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(view(tmp_path / "turned.png").image, want)
    clear = image.convert("RGBA")
    clear.putalpha(Image.new("L", image.size, 0))
    clear.save(tmp_path / "clear.png")
    assert (view(tmp_path / "clear.png").image == 255).all()
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    off = view(tmp_path / "deep.png").image.astype(int) - view(image.convert("L")).image
    assert abs(off).max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\), not uint8"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((0, 0, 3), np.uint8), "0 x 0"),
        (Image.new("RGB", (1, 1)), "1 x 1"),
        (7, "not int"),
        ("nowhere.jpg", "image not found: nowhere.jpg"),
        (".", "a folder"),
    ],
)
def test_invalid_images_are_refused(given: Any, message: str) -> None:
    with pytest.raises(XmdptError, match=message):
        view(given)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(XmdptError, match=r"empty\.jpg"):
        view(tmp_path / "empty.jpg")
    person().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    with pytest.raises(XmdptError, match=r"cut\.png"):
        view(tmp_path / "cut.png")
    with Image.open(tmp_path / "cut.png") as lazy, pytest.raises(XmdptError, match="broken"):
        view(lazy)
    (tmp_path / "pose.yaml").write_text("keypoints: 1")
    with pytest.raises(XmdptError, match=r"pose\.yaml") as err:
        poses(tmp_path / "pose.yaml")
    assert ".json" in err.value.hint


def test_images_of_other_shapes_need_a_fit_or_keypoints(openpose: Callable[[], OpenPose]) -> None:
    """Every solution that the hint names works."""
    wide = Image.fromarray(grey(ALONE, 184, 368))
    with pytest.raises(XmdptError, match="368 x 184") as err:
        view(wide)
    for way in ("--fit pad", "--fit squash", "--openpose", "--fit person"):
        assert way in err.value.hint
    assert view(wide, fit="pad").keypoints is None
    assert view(wide, fit="squash").keypoints is None
    found = view(wide, openpose)
    assert found.keypoints is not None
    assert "the person's" in found.notes[0]
    with pytest.raises(ConfigError, match="no such fit: stretch"):
        view(wide, fit="stretch")
    with pytest.raises(ConfigError, match="no such fit: stretch"):
        poses(FIGURE, fit="stretch")


def test_openpose_gives_the_same_joints_as_keypoints(
    openpose: Callable[[], OpenPose],
) -> None:
    image = Image.fromarray(grey(ALONE, 368, 253))
    found = view(image, openpose)
    given = view(image, keypoints=PEOPLE[ALONE][0][1])
    assert found.keypoints is not None
    assert given.keypoints is not None
    np.testing.assert_allclose(found.keypoints, given.keypoints, atol=1.0)
    [posed] = poses(image, openpose)
    np.testing.assert_allclose(posed.keypoints, given.keypoints, atol=1.0)


def test_the_largest_of_several_people_is_used(openpose: Callable[[], OpenPose]) -> None:
    crowd = Image.fromarray(grey(CROWD, 184, 216))
    for read, option in ((view, "--person"), (lambda *a, **k: poses(*a, **k)[0], "--pose-person")):
        largest = read(crowd, openpose, fit="squash", person=1)
        unasked = read(crowd, openpose, fit="pad")
        assert any(f"2 people, the largest is taken ({option} chooses)" in n for n in unasked.notes)
        assert not any("people" in n for n in largest.notes)
        other = read(crowd, openpose, fit="squash", person=2)
        right, left = (np.nanmean(one.keypoints[:, 0]) / SIZE for one in (largest, other))
        assert right > 0.5 > left
        for wrong in (3, 99, 0):
            with pytest.raises(XmdptError, match=f"person {wrong} requested, 2 found") as err:
                read(crowd, openpose, person=wrong)
            assert err.value.hint == f"{option} 1 to 2"


def test_images_without_a_person(openpose: Callable[[], OpenPose]) -> None:
    empty = grey(EMPTY, 184, 128)
    with pytest.raises(XmdptError, match="finds no person"):
        view(empty, openpose)
    with pytest.raises(XmdptError, match="finds no person"):
        poses(empty, openpose)
    assert view(empty, openpose, fit="squash").keypoints is None, "no person is searched"


def test_without_openpose_the_hint_has_a_solution() -> None:
    for read, instead in (
        (lambda: view(person(), needs_keypoints=True), "--source-keypoints FILE"),
        (lambda: view(person(), fit="person"), "--source-keypoints FILE"),
        (lambda: view(person(), person=2), "--source-keypoints FILE"),
        (lambda: poses(person()), "as --pose"),
    ):
        with pytest.raises(XmdptError, match="OpenPose is not on this machine") as err:
            read()
        assert instead in err.value.hint
        assert "put it into DIR" in err.value.hint
    assert view(person()).keypoints is None, "an image of the model's shape needs no keypoints"


def body_25(points: Any) -> list[float]:
    """OpenPose's 25 joints: ours, a middle of the hips at 8, six of the feet."""
    rows = [[x, y, 0.9] for x, y in points.tolist()]
    rows.insert(8, [1.0, 1.0, 0.9])
    return [number for row in [*rows, *[[0.0, 0.0, 0.0]] * 6] for number in row]


def test_source_keypoints_from_every_format(tmp_path: Path) -> None:
    points = np.round(FIGURE * (176, 256))
    y, x = ([int(v) for v in points[:, i]] for i in (1, 0))
    forms: dict[str, str] = {
        "own.json": json.dumps({"keypoints": points.tolist(), "width": 176, "height": 256}),
        "openpose.json": json.dumps(
            {
                "people": [{"pose_keypoints_2d": body_25(points)}],
                "canvas_width": 176,
                "canvas_height": 256,
            }
        ),
        "padded.txt": "\n".join(f"{a + 40} {b}" for a, b in points.tolist()),
        "rows.csv": f"name:keypoints_y:keypoints_x\nanyone.jpg: {y}: {x}\n",
    }
    want = view(person(), keypoints=points / (176, 256)).keypoints
    assert want is not None
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        found = view(person(), keypoints=tmp_path / name)
        assert found.keypoints is not None
        np.testing.assert_allclose(found.keypoints, want, atol=0.01, err_msg=name)
    coco = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    rows = [number for joint in coco for number in (*points[joint].tolist(), 2)]
    data = {"keypoints": rows, "width": 176, "height": 256}
    (tmp_path / "coco.json").write_text(json.dumps(data))
    found = view(person(), keypoints=tmp_path / "coco.json")
    assert found.keypoints is not None
    others = [i for i in range(18) if i != 1]  # the neck is made from the shoulders
    np.testing.assert_allclose(found.keypoints[others], want[others], atol=0.01)
    scaled = view(person(), keypoints=tmp_path / "own.json")
    assert any("scaled from 176 x 256" in note for note in scaled.notes)


def test_the_row_of_the_image_is_used(tmp_path: Path) -> None:
    rows = {
        "a/x.jpg": 0.0,
        "b/x.jpg": 0.1,
        "fashionMENDenimid0000000101_1front.jpg": -0.1,
        "z.jpg": 9,
    }
    lines = []
    for name, amount in rows.items():
        points = np.full((18, 2), -1) if amount == 9 else np.round(leaning(amount) * (176, 256))
        y, x = ([int(v) for v in points[:, i]] for i in (1, 0))
        lines.append(f"{name}: {y}: {x}")
    csv = tmp_path / "annotations.csv"
    csv.write_text("\n".join(["name:keypoints_y:keypoints_x", *lines]))

    def neck(name: str) -> float:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        person().save(path)
        found = view(path, keypoints=csv).keypoints
        assert found is not None
        return float(found[1, 0] / SIZE)

    for name, amount in (
        ("b/x.jpg", 0.1),
        ("a/x.png", 0.0),
        ("img/MEN/Denim/id_00000001/01_1_front.jpg", -0.1),
        ("fashionMENDenimid0000000101_1front.png", -0.1),
    ):
        assert neck(name) == pytest.approx(leaning(amount)[1, 0], abs=0.01), name
    for name, message in (
        ("other.jpg", r"4 poses, none.*other\.jpg"),
        ("x.jpg", "several have its"),
    ):
        with pytest.raises(XmdptError, match=message):
            neck(name)
    with pytest.raises(XmdptError, match="no person in it"):
        neck("z.jpg")
    with pytest.raises(XmdptError, match="no file name"):
        view(person(), keypoints=csv)


def test_coco_keypoints_are_found_by_file_name(tmp_path: Path) -> None:
    frames = [
        {"image_id": i, "keypoints": [v for row in leaning(lean) * 100 for v in (*row, 2)][:51]}
        for i, lean in ((1, 0.0), (2, 0.2))
    ]
    images = [{"id": i, "file_name": f"p{i}.jpg", "width": 100, "height": 100} for i in (1, 2)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": frames}))
    person().save(tmp_path / "p2.png")
    found = view(tmp_path / "p2.png", keypoints=tmp_path / "coco.json").keypoints
    assert found is not None
    assert found[0, 0] / SIZE == pytest.approx(leaning(0.2)[0, 0], abs=0.01)


def test_the_largest_person_of_a_file_is_used(tmp_path: Path) -> None:
    small, large = leaning(0) * (30, 30) + (2, 2), leaning(0) * (60, 90) + (38, 8)
    people = [{"keypoints": one.tolist()} for one in (small, large)]
    file = tmp_path / "two.json"
    file.write_text(json.dumps({"people": people, "width": 100, "height": 100}))
    [unasked] = poses(file)
    assert any("2 people, the largest is taken (--pose-person" in note for note in unasked.notes)
    [second] = poses(file, person=2, fit="squash")
    [first] = poses(file, person=1, fit="squash")
    assert np.ptp(second.keypoints[:, 1]) < np.ptp(first.keypoints[:, 1])
    with pytest.raises(XmdptError, match="person 3 requested, 2 found") as err:
        poses(file, person=3)
    assert err.value.hint == "--pose-person 1 to 2"
    seen = view(person(), keypoints=file)
    assert any("the largest is taken (--person" in note for note in seen.notes)


def test_joints_are_recovered_from_a_rendered_pose() -> None:
    points = FIGURE * (0.8, 0.8) + 0.1
    rendered = draw_pose(points * (176, 256), (256, 176))
    [found] = poses(rendered)
    assert any("a pose image" in note for note in found.notes)
    off = np.abs(found.keypoints - poses(points)[0].keypoints)
    assert np.nanmedian(off) < 0.5
    assert np.isfinite(found.keypoints).all(axis=1).sum() >= 15


@pytest.mark.parametrize("number", [0, 1, 3])
def test_joints_are_recovered_from_published_pose_images(
    shared: Callable[[str], Path], number: int
) -> None:
    """They are squares of figures squashed from 176 x 256."""
    [rendered] = read_pose(shared(f"golden/pose/pose_{number}_256.png"), 256, no_openpose)
    [listed] = read_pose(shared(f"golden/pose/pose_{number}.txt"), 256, no_openpose)
    assert np.nanpercentile(np.abs(rendered.keypoints - listed.keypoints), 90) < 2
    assert any("squashed (else --pose-fit person)" in note for note in rendered.notes)


def test_a_sequence_shares_one_box(tmp_path: Path) -> None:
    """A figure that walks across a wide image walks across the model's."""
    walk = [leaning(0) * (100, 180) + (40 + 60 * i, 10) for i in range(4)]
    frames = [{"keypoints": one.tolist()} for one in walk]
    file = tmp_path / "walk.json"
    file.write_text(json.dumps({"frames": frames, "width": 400, "height": 200}))
    found = poses(file)
    assert [one.name for one in found] == [f"walk_{i:04d}" for i in range(4)]
    steps = np.diff([one.keypoints[1, 0] for one in found])
    assert steps.min() > 1
    np.testing.assert_allclose(steps, steps[0])
    heights = [np.ptp(one.keypoints[:, 1]) for one in found]
    np.testing.assert_allclose(heights, heights[0])
    assert len(found[0].notes) == 2  # the unit, and the box
    assert not found[1].notes


def gone(count: int) -> Any:
    points = FIGURE.copy()
    points[count:] = np.nan
    return points


def test_too_few_joints(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="3 of 18 joints"):
        poses(gone(3))
    [few] = poses(gone(6))
    assert any("only 6 of 18 joints" in note for note in few.notes)
    data = {"keypoints": [*(FIGURE[:3] * 100).tolist(), *[None] * 15], "width": 100, "height": 100}
    (tmp_path / "three.json").write_text(json.dumps(data))
    with pytest.raises(XmdptError, match=r"three\.json: the pose has 3 of 18"):
        poses(tmp_path / "three.json")


def test_odd_arrays_of_keypoints() -> None:
    half = FIGURE.copy()
    half[3, 0], half[4, 1], half[5] = np.nan, np.inf, (-1, -1)
    [pose] = poses(half)
    seen = view(person(), keypoints=half)
    assert seen.keypoints is not None
    for points in (pose.keypoints, seen.keypoints):
        assert np.isnan(points[3:6]).all()
        assert np.isfinite(np.delete(points, [3, 4, 5], axis=0)).all()
    for wrong in (FIGURE[:17], np.stack([FIGURE] * 2), [[1, 2]], "NOSE"):
        if isinstance(wrong, np.ndarray):
            with pytest.raises(ConfigError, match=r"not \(18, 2\)"):
                poses(wrong)
        if not isinstance(wrong, str):
            with pytest.raises(ConfigError, match=r"not \(18, 2\)"):
                view(person(), keypoints=wrong)  # type: ignore[arg-type]
    with pytest.raises(XmdptError, match="18 of 18 joints lie outside") as err:
        poses(FIGURE * (88, 128) + 1)
    assert "fractions" in err.value.hint


def test_joints_outside_of_the_image(tmp_path: Path) -> None:
    file = write_pose(tmp_path / "far.json", FIGURE + (5, 0))
    for fit in ("squash", "person"):
        with pytest.raises(XmdptError, match=r"far\.json: 18 of 18 joints lie outside") as err:
            poses(file, fit=fit)
        assert "--pose-size" in err.value.hint
        with pytest.raises(XmdptError, match=r"far\.json: 18 of 18 joints lie outside"):
            view(person(), keypoints=file, fit=fit)
    with pytest.raises(XmdptError, match="18 of 18 joints lie outside") as err:
        poses(FIGURE + (5, 0), fit="squash")
    with pytest.raises(XmdptError, match="image: 18 of 18 joints lie outside") as err:
        view(person(), keypoints=FIGURE * (88, 128), fit="squash")
    assert "are these the image's keypoints?" in err.value.hint
    with pytest.raises(XmdptError, match="in one point"):
        poses(FIGURE * 0 + 0.5)


def openpose_json(path: Path, *people: Any) -> Path:
    """As OpenPose writes it: pixels of an image of unknown size."""
    listed = [
        {"person_id": [-1], "pose_keypoints_2d": [v for x, y in one.tolist() for v in (x, y, 0.9)]}
        for one in people
    ]
    path.write_text(json.dumps({"version": 1.3, "people": listed}))
    return path


def test_openpose_files_of_a_source(tmp_path: Path) -> None:
    """Pixels of the source; of two people the largest; nothing else need be message."""
    want = view(person(), keypoints=FIGURE).keypoints
    file = openpose_json(tmp_path / "k.json", FIGURE * (30, 40), FIGURE * (88, 128))
    found = view(person(), keypoints=file)
    np.testing.assert_allclose(found.keypoints, want)
    assert any("k.json: 2 people, the largest is taken (--person" in n for n in found.notes)
    far = openpose_json(tmp_path / "far.json", FIGURE * (880, 1280))
    with pytest.raises(XmdptError, match="joints lie outside of an image of 88 x 128"):
        view(person(), keypoints=far)


def test_openpose_files_as_poses(tmp_path: Path) -> None:
    file = openpose_json(tmp_path / "k.json", FIGURE * (30, 40), FIGURE * (176, 256))
    with pytest.raises(XmdptError, match="size of their image is not known") as err:
        poses(file)
    for way in ("--pose-size WxH", "beside the file", "source"):
        assert way in err.value.hint
    [want] = poses(FIGURE)
    for more in ({"source_size": (256, 176)}, {"pose_size": (176, 256), "source_size": (9, 9)}):
        [found] = poses(file, **more)
        np.testing.assert_allclose(found.keypoints, want.keypoints, atol=1e-9)
        message = [note for note in found.notes if "in pixels of an image of 176 x 256" in note]
        assert len(message) == 1
        assert any("2 people, the largest is taken" in note for note in found.notes)
    with pytest.raises(ConfigError, match="pose size"):
        poses(file, pose_size=(0, 0))


@pytest.mark.parametrize("shape", [(1920, 1080), (1080, 1920), (1000, 1000)])
def test_fractions_use_the_size_of_the_image(tmp_path: Path, shape: tuple[int, int]) -> None:
    """The same as pixels of that image: it is not squashed as if it were of 176:256."""
    width, height = shape
    figure = FIGURE * (0.3, 0.9) + (0.3, 0.05)
    stated, file = tmp_path / "stated.json", tmp_path / "walk.json"
    pixels = {"keypoints": (figure * shape).tolist(), "width": width, "height": height}
    stated.write_text(json.dumps(pixels))
    [want] = poses(stated)
    for data in ({"keypoints": figure.tolist()}, {"frames": [{"keypoints": figure.tolist()}] * 2}):
        file.write_text(json.dumps(data))
        for more, where in (
            ({"pose_size": shape, "source_size": (9, 9)}, "(--pose-size)"),
            ({"source_size": (height, width)}, "(the size of the source image, as nothing else"),
        ):
            found = poses(file, **more)
            np.testing.assert_allclose(found[-1].keypoints, want.keypoints, atol=1e-6)
            message = "\n".join(found[0].notes)
            assert f"walk.json: in fractions of an image of {width} x {height} {where}" in message
            assert "176" not in message
    row = tmp_path / "walk.csv"  # a list of images holds fractions, too
    columns = ":".join(str(values) for values in figure.T[::-1].tolist())
    row.write_text(f"name:keypoints_y:keypoints_x\nwalk.jpg:{columns}\n")
    [found_] = poses(row, pose_size=shape)
    np.testing.assert_allclose(found_.keypoints, want.keypoints, atol=1e-6)
    person(width=width // 4, height=height // 4).save(tmp_path / "walk.png")
    file.write_text(json.dumps({"keypoints": figure.tolist()}))
    for given in (file, tmp_path / "walk.png"):  # that image with its keypoints beside it
        [found_] = poses(given, source_size=(256, 176))
        np.testing.assert_allclose(found_.keypoints, want.keypoints, atol=1e-6)
    (tmp_path / "walk.png").unlink()
    [found_] = poses(file)
    assert np.abs(found_.keypoints - want.keypoints)[np.isfinite(figure)].max() > 2
    message = (
        "walk.json: fractions; the image's size is not known: taken as 176:256; --pose-size WxH"
    )
    assert any(note.startswith(message) for note in found_.notes)


def test_keypoints_beside_an_image_are_used(
    tmp_path: Path, openpose: Callable[[], OpenPose]
) -> None:
    """For sources and photographs of poses; explicit keypoints come first."""
    person().save(tmp_path / "person.jpg")
    write_pose(tmp_path / "given.json", leaning(0.1))
    without = view(tmp_path / "person.jpg")
    assert without.keypoints is None
    openpose_json(tmp_path / "person_keypoints.json", FIGURE * (88, 128))
    want = view(person(), keypoints=FIGURE).keypoints
    for needed in (False, True):
        found = view(tmp_path / "person.jpg", needs_keypoints=needed)
        np.testing.assert_allclose(found.keypoints, want)
        assert "person.jpg: keypoints of person_keypoints.json beside it" in found.notes
    [posed] = poses(tmp_path / "person.jpg")
    np.testing.assert_allclose(posed.keypoints, want)
    assert posed.name == "person"
    assert any("person_keypoints.json beside it" in note for note in posed.notes)
    given = view(tmp_path / "person.jpg", keypoints=tmp_path / "given.json")
    assert not any("beside" in note for note in given.notes)
    assert abs(given.keypoints - want).max() > 0.5
    (tmp_path / "person_keypoints.json").write_text("{")
    with pytest.raises(XmdptError, match=r"person_keypoints\.json: not JSON") as err:
        view(tmp_path / "person.jpg")
    assert "--source-keypoints" in err.value.hint
    assert view(tmp_path / "person.jpg", fit="squash").keypoints is None, "they are not used"
    assert view(tmp_path / "person.jpg", keypoints=tmp_path / "given.json").keypoints is not None


def test_notes_contain_no_folders(tmp_path: Path) -> None:
    """Notes are stored with the generated images."""
    file = tmp_path / "two.json"
    rows = [{"keypoints": (FIGURE * (s, s)).tolist()} for s in (60, 90)]
    file.write_text(json.dumps({"people": rows, "width": 100, "height": 100}))
    notes = [*view(person(), keypoints=file).notes, *poses(file)[0].notes]
    assert any("largest" in note for note in notes)
    assert any("scaled" in note for note in notes)
    assert not any(str(tmp_path) in note for note in notes)
