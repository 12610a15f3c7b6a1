"""Edits that are made in the browser while an answer of the server is pending are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Skeleton, press_generate
from conftest import Running, generate, wait_until
from fake_pipeline import FakePipeline
from PIL import Image
from toy_models import person as synthetic_person

from xmdpt_cli.pose.formats import write_pose_json
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.ui import events, people, person_views
from xmdpt_cli.ui.examples import Examples, Person
from xmdpt_cli.ui.poses import PRESETS

STANDING, SITTING = PRESETS[0].keypoints(), PRESETS[8].keypoints()
WRIST = JOINTS.index("right_wrist")
MOVED = (0.2, 0.3)  # where the tests drag the right wrist to


class Gate:
    """Holds up the calls of a function of the server until ``open``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()
        function = getattr(module, name)

        def delayed(*args: Any, **kwargs: Any) -> Any:
            self._reached.set()
            assert self._opened.wait(30)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, delayed)

    def wait(self) -> None:
        """Wait until the server calls the function."""
        assert self._reached.wait(30)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture(scope="module")
def server(running: Running) -> Iterator[tuple[str, FakePipeline]]:
    """The URL of a page with two example people, and its pipeline."""
    pipe = FakePipeline(conditioning="tokens")
    examples = [Person(synthetic_person(hue), PRESETS[hue + 3].keypoints()) for hue in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmdpt_cli.ui.application.find_examples", lambda _: Examples(examples))
        with running(pipe) as url:
            yield url, pipe


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"photo {number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        image = synthetic_person(2)
        image.putpixel((0, 0), (number, 0, 0))
        image.save(path)
    return paths


def drop(page: Any, photo: Path, count: int) -> None:
    """Add an image of the person, and wait until ``count`` are in the gallery."""
    page.set_input_files("#people input[type=file]", str(photo))
    wait_for_images(page, count)


def wait_for_images(page: Any, count: int) -> None:
    images = page.locator("#people .thumbnail-item img")
    wait_until(lambda: images.count() == count, f"{count} images in the gallery")


def wait_for_views(page: Any, count: int) -> None:
    tabs = page.locator("#keypoints .tabs button")
    wait_until(lambda: tabs.count() == count, f"{count} images in the person editor")


def assert_sources(call: dict[str, Any], *expected: Image.Image | Path) -> None:
    images = [Image.open(one) if isinstance(one, Path) else one for one in expected]
    assert len(call["source"]) == len(images)
    for source, image in zip(call["source"], images, strict=True):
        np.testing.assert_array_equal(np.asarray(source), np.asarray(image))


@pytest.mark.parametrize("finished", [True, False], ids=["finished drag", "drag in progress"])
def test_a_joint_dragged_while_another_image_is_inspected_stays(
    page: Any, pipe: FakePipeline, photos: list[Path], monkeypatch: Any, finished: bool
) -> None:
    drop(page, photos[0], 1)
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    editor = Skeleton(page, "#keypoints")
    editor.press("Front")
    gate = Gate(monkeypatch, person_views, "view_of")
    drop(page, photos[1], 2)
    gate.wait()
    editor.frame.scroll_into_view_if_needed()
    page.mouse.move(*editor.point(STANDING[WRIST]))
    page.mouse.down()
    page.mouse.move(*editor.point(MOVED), steps=5)
    if finished:
        page.mouse.up()
        gate.open()
    else:
        gate.open()
        page.wait_for_selector("#views :text('2 views of one person')")  # the same answer
        page.mouse.up()
    wait_for_views(page, 2)
    editor.press("Front")  # the added image is shown
    first, second = generate(page, pipe)["source_keypoints"]
    np.testing.assert_allclose(first[WRIST], MOVED, atol=0.005)
    np.testing.assert_allclose(second, STANDING, atol=1e-4)


def test_an_example_clicked_while_an_image_is_inspected_stays(
    page: Any, pipe: FakePipeline, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, people, "checked")
    drop(page, photos[0], 1)
    gate.wait()
    page.click("#examples button >> nth=1")
    page.wait_for_selector("#people img[src*='test%20person%202']")
    gate.open()
    page.wait_for_selector("#keypoints .hint:text('Known from the example')")
    wait_for_views(page, 1)
    call = generate(page, pipe)
    assert_sources(call, synthetic_person(1))
    np.testing.assert_allclose(call["source_keypoints"][0], PRESETS[4].keypoints(), atol=1e-4)


def test_two_images_dropped_one_after_the_other_replace_an_example(
    page: Any, pipe: FakePipeline, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#keypoints .hint:text('Known from the example')")
    gate = Gate(monkeypatch, person_views, "view_of")
    page.set_input_files("#people input[type=file]", str(photos[0]))
    gate.wait()
    images = page.locator("#people .thumbnail-item img")
    before = images.count()
    drop(page, photos[1], before + 1)
    gate.open()
    wait_for_views(page, 2)
    wait_for_images(page, 2)
    editor = Skeleton(page, "#keypoints")
    for number in range(2):
        page.click(f"#keypoints .tabs button >> nth={number}")
        editor.press("Front")
    assert_sources(generate(page, pipe), *photos[:2])


def test_an_image_dropped_while_an_example_is_loaded_replaces_it(
    page: Any, pipe: FakePipeline, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(page, photos[0], 1)
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    gate = Gate(monkeypatch, Examples, "file")
    page.click("#examples button >> nth=0")
    gate.wait()
    page.set_input_files("#people input[type=file]", str(photos[1]))
    page.wait_for_selector("#people img[src*='photo%201']")
    gate.open()
    page.wait_for_timeout(500)  # time for the answer
    wait_for_images(page, 1)
    wait_for_views(page, 1)
    Skeleton(page, "#keypoints").press("Front")
    assert_sources(generate(page, pipe), photos[1])


def test_the_last_of_two_clicked_examples_is_loaded(
    page: Any, pipe: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, Examples, "file")
    page.click("#examples button >> nth=0")
    gate.wait()
    page.click("#examples button >> nth=1")
    gate.open()
    page.wait_for_selector("#people :text('Test person 2')", state="attached")
    call = generate(page, pipe)  # whether or not its keypoints are shown already
    assert_sources(call, synthetic_person(1))
    np.testing.assert_allclose(call["source_keypoints"][0], PRESETS[4].keypoints(), atol=1e-4)


def test_keypoints_of_a_file_change_the_keypoints_of_its_image_alone(
    page: Any, pipe: FakePipeline, photos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    for number, photo in enumerate(photos[:2], start=1):
        drop(page, photo, number)
        wait_for_views(page, number)
    editor = Skeleton(page, "#keypoints")
    page.click("#keypoints .tabs button >> nth=0")
    editor.press("Front")
    page.click("#keypoints .tabs button >> nth=1")
    file = tmp_path / "sitting.json"
    write_pose_json(file, [ImagePoses([SITTING * (88, 128)], (128, 88), "")])
    gate = Gate(monkeypatch, people, "keypoints_of")
    page.set_input_files("#keypoint-files input[type=file]", str(file))
    gate.wait()
    page.click("#keypoints .tabs button >> nth=0")
    editor.drag(STANDING[WRIST], MOVED)
    drop(page, photos[2], 3)
    wait_for_views(page, 3)
    editor.press("Back")
    gate.open()
    page.wait_for_selector("#person-status :text('Keypoints of sitting.json')")
    wait_for_views(page, 3)
    first, second, third = generate(page, pipe)["source_keypoints"]
    np.testing.assert_allclose(first[WRIST], MOVED, atol=0.005)
    np.testing.assert_allclose(second, SITTING, atol=1e-4)
    np.testing.assert_allclose(third, PRESETS[1].keypoints(), atol=1e-4)


def test_a_seed_entered_while_a_generation_waits_stays(
    page: Any, pipe: FakePipeline, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(page, photos[0], 1)
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    Skeleton(page, "#keypoints").press("Front")
    gate = Gate(monkeypatch, events, "checked")
    press_generate(page)
    gate.wait()
    seed = page.get_by_label("Seed", exact=True)
    seed.fill("11")
    gate.open()
    page.wait_for_selector("#result-status :text('seed 3')")
    assert seed.input_value() == "11"


def test_the_last_of_two_pose_files_is_loaded(
    page: Any, pipe: FakePipeline, photos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    drop(page, photos[0], 1)
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    Skeleton(page, "#keypoints").press("Front")
    paths = [tmp_path / "back.json", tmp_path / "sitting.json"]
    for path, points in zip(paths, (PRESETS[1].keypoints(), SITTING), strict=True):
        write_pose_json(path, [ImagePoses([points * (176, 256)], (256, 176), "")])
    gate = Gate(monkeypatch, events, "pose_of")
    page.set_input_files("#pose-file input[type=file]", str(paths[0]))
    gate.wait()
    editor = Skeleton(page)
    editor.drag(STANDING[WRIST], MOVED)
    page.locator("#pose-file").get_by_label("Clear").click()
    page.set_input_files("#pose-file input[type=file]", str(paths[1]))
    page.wait_for_selector("#pose-file :text('sitting')")
    gate.open()
    page.wait_for_selector("#pose-status :text('Pose of sitting.json')")
    np.testing.assert_allclose(generate(page, pipe)["pose"], SITTING, atol=2e-4)
    editor.press("Undo")
    editor.press("Undo")  # both files: the drag before them is restored
    np.testing.assert_allclose(generate(page, pipe)["pose"][WRIST], MOVED, atol=0.005)
