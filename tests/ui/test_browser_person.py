"""The Person column in a real browser: examples, keypoints placed by hand, undo, files, seeds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Skeleton, opened, press_generate, touch
from conftest import Running, generate, wait_until
from fake_pipeline import FakePipeline
from PIL import Image
from toy_models import FORMS, make_encoders, make_model
from toy_models import person as synthetic_person

from xmdpt_cli.pose.formats import read_poses, write_pose_json
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.sampling.pipeline import XMDPTPipeline
from xmdpt_cli.ui import examples
from xmdpt_cli.ui.examples import Examples, Person
from xmdpt_cli.ui.poses import PRESETS

CONDITIONING = "tokens"  # of the server's model
STANDING = PRESETS[0].keypoints()
WRIST, KNEE = JOINTS.index("right_wrist"), JOINTS.index("left_knee")


def drop(page: Any, *files: Path) -> Skeleton:
    """Add images of the person, and return the editor over them when it is shown."""
    page.set_input_files("#people input[type=file]", [str(file) for file in files])
    page.wait_for_selector("#keypoints .joint >> nth=0")
    page.wait_for_function("document.querySelector('#keypoints image').getAttribute('href')")
    return Skeleton(page, "#keypoints")


def test_keypoints_are_placed_by_hand_without_an_estimator(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    skeleton = drop(page, person)
    assert skeleton.all.locator(".hint").inner_text().startswith("This model needs the keypoints")
    press_generate(page)
    page.wait_for_selector("#result-status [role=alert] :text('person one.png are not placed')")
    assert pipe.calls == []

    skeleton.press("Front")
    skeleton.drag(STANDING[WRIST], (0.2, 0.3))
    shown = generate(page, pipe)["source_keypoints"]
    np.testing.assert_allclose(shown[0][WRIST], (0.2, 0.3), atol=0.005)
    others = np.arange(18) != WRIST
    np.testing.assert_allclose(shown[0][others], STANDING[others], atol=1e-4)

    middle = (STANDING[KNEE] + STANDING[JOINTS.index("left_ankle")]) / 2
    skeleton.drag(middle, middle + (0.05, 0.04))  # by a limb: the whole figure
    moved = generate(page, pipe)["source_keypoints"][0]
    np.testing.assert_allclose(moved, shown[0] + (0.05, 0.04), atol=0.005)

    skeleton.press("Larger")
    larger = generate(page, pipe)["source_keypoints"][0]
    assert np.ptp(larger, axis=0) == pytest.approx(1.06 * np.ptp(moved, axis=0), rel=0.01)
    assert pipe.encoders.requested == 1  # a lookup may take a timeout


def chosen(skeleton: Skeleton) -> str:
    return skeleton.all.locator("output.chosen").inner_text()


def test_a_figure_with_few_dragged_joints_is_not_placed(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    skeleton = drop(page, person)
    assert chosen(skeleton) == "Not placed yet"
    for count, name in enumerate(("right_wrist", "left_wrist", "left_knee", "right_knee"), 1):
        before = STANDING[JOINTS.index(name)]
        skeleton.drag(before, before + (0, 0.03))
        expected = f"{count} of 18 joints moved: drag the others onto the person too"
        assert chosen(skeleton) == f"{name.replace('_', ' ')}; {expected}"
        if count == 1:
            press_generate(page)
            page.wait_for_selector("#result-status [role=alert] :text('only 1 of 18 joints moved')")
            assert "a limb to move the whole figure" in page.inner_text("#result-status")
            assert pipe.calls == []
    assert len(generate(page, pipe)["source_keypoints"]) == 1
    for _ in range(3):
        skeleton.press("Undo")
    assert skeleton.all.locator(".unplaced").count() == 1
    assert chosen(skeleton) == "1 of 18 joints moved: drag the others onto the person too"
    skeleton.press("Reset")
    assert chosen(skeleton) == "Not placed yet"


def test_a_figure_that_was_moved_as_a_whole_is_placed(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    skeleton = drop(page, person)
    for how in ("limb", "Larger", "Front"):
        skeleton.drag(STANDING[WRIST], STANDING[WRIST] + (0, 0.03))
        assert skeleton.all.locator(".unplaced").count() == 1
        if how == "limb":
            middle = (STANDING[KNEE] + STANDING[JOINTS.index("left_ankle")]) / 2
            skeleton.drag(middle, middle + (0.05, 0))
            skeleton.drag(middle + (0.05, 0), middle)  # and back: it is placed, since it was moved
        else:
            skeleton.press(how)
        if how == "Larger":
            skeleton.press("Smaller")
        assert "moved" not in chosen(skeleton)
        assert skeleton.all.locator(".unplaced").count() == 0
        assert len(generate(page, pipe)["source_keypoints"]) == 1
        for _ in range(1 if how == "Front" else 2):
            skeleton.press("Undo")
        assert chosen(skeleton).startswith("1 of 18 joints moved")
        skeleton.press("Undo")
        assert chosen(skeleton) == "Not placed yet"


@pytest.mark.parametrize("form", ["keys", "vector"])
def test_a_real_model_generates_with_placed_keypoints(
    running: Running, browser: Any, tmp_path: Path, form: str
) -> None:
    assert form in FORMS
    model = make_model(tmp_path / form, make_encoders(tmp_path / "encoders"), form)
    real = XMDPTPipeline.from_pretrained(model, openpose=tmp_path / "missing")
    # a shape that is not squashed
    synthetic_person(width=200, height=160).save(tmp_path / "wide one.png")
    with running(real) as url, opened(browser, url) as page:  # type: ignore[arg-type]
        page.set_input_files("#people input[type=file]", str(tmp_path / "wide one.png"))
        page.wait_for_selector("#keypoints .placer:not([hidden])")
        press_generate(page)
        page.wait_for_selector("#result-status [role=alert]")
        assert_no_command_line(page)
        if form == "vector":
            page.click("#keypoints summary")
        skeleton = Skeleton(page, "#keypoints")
        skeleton.press("Front")
        press_generate(page)
        page.wait_for_selector("#result-status :text('1 image in')")
        assert_no_command_line(page)
        assert "wide one.png: the person's" in page.inner_text("#result-status")
        with page.expect_download() as download:
            page.click("#download")
        assert Image.open(download.value.path()).size == (22, 32)


def assert_no_command_line(page: Any) -> None:
    """Assert that the text of the page has no option and no path of the server."""
    text = page.inner_text("body")
    assert not re.search(r"(?<!\w)--\w|/tmp|\bDIR\b|hf download", text), text


def test_a_preset_is_fitted_into_an_image_of_another_shape(
    page: Any, pipe: FakePipeline, tmp_path: Path
) -> None:
    Image.effect_noise((400, 256), 60).convert("RGB").save(tmp_path / "wide.png")
    skeleton = drop(page, tmp_path / "wide.png")
    skeleton.press("Front")
    points = generate(page, pipe)["source_keypoints"][0]
    np.testing.assert_allclose(points[:, 1], STANDING[:, 1], atol=1e-3)
    x = 0.5 + (STANDING[:, 0] - 0.5) * 176 / 400
    np.testing.assert_allclose(points[:, 0], x, atol=1e-3)


def test_the_enlarged_editor_fills_the_window_and_drags_joints(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    skeleton = drop(page, person)
    skeleton.press("Front")
    skeleton.press("Enlarge")
    box = skeleton.all.locator(".skeleton").bounding_box()
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 1280, 800)
    grips = [skeleton.joint(name).locator(".dot") for name in ("right_wrist", "left_wrist")]
    places = [dot.bounding_box() for dot in grips]
    (x1, y1), (x2, _) = [(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in places]
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move(x1 + (x2 - x1) / 2, y1, steps=4)  # to the middle: the figure is symmetric
    page.mouse.up()
    page.keyboard.press("Escape")
    assert skeleton.all.locator(".large").count() == 0
    skeleton.press("Enlarge")
    skeleton.press("Done")
    assert skeleton.all.locator(".large").count() == 0
    points = generate(page, pipe)["source_keypoints"][0]
    np.testing.assert_allclose(points[WRIST], (0.5, STANDING[WRIST][1]), atol=0.005)


def test_each_image_has_separate_keypoints(
    page: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.effect_noise((88, 128), 60).convert("RGB").save(other)
    skeleton = drop(page, person, other)
    page.wait_for_selector("#keypoints .tabs button >> nth=1")
    for number, where in ((1, (0.1, 0.2)), (2, (0.9, 0.2))):
        page.click(f"#keypoints .tabs button >> nth={number - 1}")
        skeleton.press("Front")
        skeleton.drag(STANDING[WRIST], where)
    first, second = generate(page, pipe)["source_keypoints"]
    np.testing.assert_allclose(first[WRIST], (0.1, 0.2), atol=0.006)
    np.testing.assert_allclose(second[WRIST], (0.9, 0.2), atol=0.006)
    page.locator("#people").get_by_label("Clear").click()
    page.wait_for_selector("#keypoints .placer", state="hidden")
    drop(page, other)
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    press_generate(page)  # keypoints are removed with their image
    page.wait_for_selector("#result-status [role=alert] :text('other.png are not placed')")


def test_a_finger_places_keypoints(
    url: str, browser: Any, pipe: FakePipeline, person: Path
) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, url, **phone) as page:
        skeleton = drop(page, person)
        skeleton.press("Front")
        skeleton.frame.scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        touch(page, skeleton.point(STANDING[WRIST]), skeleton.point((0.2, 0.6)))
        points = generate(page, pipe)["source_keypoints"][0]
        np.testing.assert_allclose(points[WRIST], (0.2, 0.6), atol=0.01)


def test_undo_and_redo(page: Any, pipe: FakePipeline, person: Path) -> None:
    drop(page, person)
    for where in ("#pose", "#keypoints"):
        check_undo_and_redo(page, pipe, where)


def check_undo_and_redo(page: Any, pipe: FakePipeline, where: str) -> None:
    skeleton = Skeleton(page, where)

    def wrist() -> tuple[float, float]:
        text = skeleton.joint("right_wrist").get_attribute("aria-label") or ""
        found = re.search(r"(\d+) % across, (\d+) % down", text)
        assert found, text
        return int(found[1]) / 100, int(found[2]) / 100

    def at(x: float, y: float) -> Any:
        return pytest.approx((x, y), abs=0.011)

    start = wrist()
    skeleton.drag(start, (0.2, 0.3))
    skeleton.drag((0.2, 0.3), (0.8, 0.3))
    assert wrist() == at(0.8, 0.3)
    page.keyboard.press("Control+z")
    assert wrist() == at(0.2, 0.3)
    skeleton.press("Undo")
    assert wrist() == start
    assert (skeleton.all.locator(".chosen").inner_text() == "Not placed yet") is (where != "#pose")
    page.keyboard.press("Control+z")  # nothing to undo; the focus stays
    page.keyboard.press("Control+Shift+z")
    skeleton.press("Redo")
    assert wrist() == at(0.8, 0.3)
    skeleton.press("Undo")
    skeleton.joint("nose").focus()
    page.keyboard.press("Delete")
    page.keyboard.press("Control+y")  # nothing to redo after another change
    assert wrist() == at(0.2, 0.3)
    if where == "#keypoints":
        skeleton.press("Larger")  # the complete figure, since only single joints were moved
        skeleton.press("Smaller")
        points = generate(page, pipe)["source_keypoints"][0]
        assert np.isnan(points[0]).all()
        np.testing.assert_allclose(points[WRIST], (0.2, 0.3), atol=0.006)


def test_a_saved_pose_can_be_loaded_again(
    page: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    drop(page, person)
    Skeleton(page, "#keypoints").press("Front")
    skeleton = Skeleton(page)
    skeleton.press("Sitting")
    skeleton.joint("left_ear").focus()
    page.keyboard.press("Delete")
    expected = generate(page, pipe)["pose"]
    with page.expect_download() as download:
        skeleton.press("Save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "pose.json"
    (frame,) = read_poses(saved)
    assert frame.size == (256, 176)
    own = tmp_path / "own.json"
    write_pose_json(own, [ImagePoses(frame.people, frame.size, "")])
    assert json.loads(saved.read_text()) == json.loads(own.read_text())

    skeleton.press("Back")
    page.set_input_files("#pose-file input[type=file]", str(saved))
    page.wait_for_selector("#pose-status :text('Pose of pose.json')")
    np.testing.assert_allclose(generate(page, pipe)["pose"], expected, atol=2e-4)
    skeleton.press("Undo")  # the loaded file
    back = PRESETS[1].keypoints()
    np.testing.assert_allclose(generate(page, pipe)["pose"], back, atol=1e-4)


def test_saved_keypoints_of_the_person_are_in_pixels_of_the_image(
    page: Any, person: Path, tmp_path: Path
) -> None:
    skeleton = drop(page, person)
    skeleton.press("Front")
    with page.expect_download() as download:
        skeleton.press("Save")
    assert download.value.suggested_filename == "person one-keypoints.json"
    download.value.save_as(tmp_path / "saved.json")
    (frame,) = read_poses(tmp_path / "saved.json")
    assert frame.size == (128, 88)
    np.testing.assert_allclose(frame.people[0], STANDING * (88, 128), atol=0.01)


def test_a_click_on_an_example_loads_the_person_and_the_keypoints(
    running: Running,
    browser: Any,
    pipe: FakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    people = [Person(synthetic_person(hue), PRESETS[hue + 3].keypoints()) for hue in range(2)]
    poses = [PRESETS[7].keypoints() + (0.0, 0.01)]
    found = Examples(people, poses)
    monkeypatch.setattr("xmdpt_cli.ui.application.find_examples", lambda pipe: found)
    assert examples.find_examples(pipe) == Examples()
    with running(pipe) as url, opened(browser, url) as page:
        page.click("#examples button >> nth=1")
        page.wait_for_selector("#keypoints .hint:text('Known from the example')")
        page.click("#pose .more .preset")
        call = generate(page, pipe)
        np.testing.assert_array_equal(
            np.asarray(call["source"][0]), np.asarray(synthetic_person(1))
        )
        points = PRESETS[4].keypoints()
        np.testing.assert_allclose(call["source_keypoints"][0], points, atol=1e-4)
        np.testing.assert_allclose(call["pose"], poses[0], atol=1e-4)
        shown = page.locator("#people img").first
        before = shown.get_attribute("src")
        page.click("#examples button >> nth=0")  # replaces the first example
        wait_until(lambda: shown.get_attribute("src") != before, "the other example is shown")
        call = generate(page, pipe)
        assert len(call["source"]) == 1
        np.testing.assert_array_equal(
            np.asarray(call["source"][0]), np.asarray(synthetic_person(0))
        )

        photo, back = tmp_path / "photo.png", tmp_path / "back.png"
        synthetic_person(2).save(photo)
        synthetic_person(2, 90).save(back)
        page.set_input_files("#people input[type=file]", str(photo))  # replaces the example
        page.wait_for_selector("#keypoints .chosen:text('Not placed yet')")
        wait_until(
            lambda: page.locator("#people .thumbnail-item img").count() == 1, "one image is left"
        )
        assert page.locator("#views .note").count() == 0
        Skeleton(page, "#keypoints").press("Front")
        call = generate(page, pipe)
        assert len(call["source"]) == 1
        np.testing.assert_array_equal(
            np.asarray(call["source"][0]), np.asarray(synthetic_person(2))
        )
        page.set_input_files("#people input[type=file]", str(back))  # a second view of the person
        page.wait_for_selector("#views :text('2 views of one person')")
        page.click("#examples button >> nth=0")
        page.wait_for_selector("#views :text('2 views')", state="detached")


def test_a_random_seed_is_shown_and_can_be_reused(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    drop(page, person)
    Skeleton(page, "#keypoints").press("Front")
    field = page.get_by_label("Seed", exact=True)
    page.get_by_label("New random seed each time").check()
    seeds = []
    for _ in range(2):
        seeds.append(generate(page, pipe)["seed"])
        page.wait_for_selector(f"#result-status :text('seed {seeds[-1]}')")
        wait_until(lambda: field.input_value() == str(seeds[-1]), "the seed is shown")
    assert seeds[0] != seeds[1]
    page.get_by_label("New random seed each time").uncheck()
    assert generate(page, pipe)["seed"] == seeds[1]
