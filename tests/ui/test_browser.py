"""The page in a real browser: the pose editor, generation, stopping, and no external request.

Needs Chromium on the machine and Playwright (of the dev extra, without its own browsers).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Skeleton, mirrored, opened, press_generate, touch
from conftest import wait_until
from fake_pipeline import FakePipeline

from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.ui.person_views import View, view_of
from xmdpt_cli.ui.poses import PRESETS

WRIST = JOINTS.index("right_wrist")


def generated_pose(page: Any, pipe: FakePipeline, person: Path | None = None) -> np.ndarray:
    """Generate, and return the pose that reached the pipeline."""
    before = len(pipe.calls)
    press_generate(page, person)
    wait_until(lambda: len(pipe.calls) > before, "an image is generated")
    page.wait_for_selector("#result-status :text('image in')")
    return pipe.calls[-1]["pose"]


def test_a_dragged_joint_reaches_the_pipeline(
    page: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    start = PRESETS[0].keypoints()
    Skeleton(page).drag(start[WRIST], (0.12, 0.3))
    pose = generated_pose(page, pipe, person)
    np.testing.assert_allclose(pose[WRIST], (0.12, 0.3), atol=0.005)
    others = np.arange(18) != WRIST
    np.testing.assert_array_equal(pose[others], start[others])
    assert page.locator("#result img").count() == 1
    assert page.locator("#film img").count() == 6
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "xmdpt-seed3.png"
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_buttons_and_keys_change_the_pose(page: Any, pipe: FakePipeline, person: Path) -> None:
    skeleton = Skeleton(page)
    skeleton.press("Walking")
    skeleton.press("Mirror")
    walking = next(pose for pose in PRESETS if pose.name == "Walking").keypoints()
    np.testing.assert_allclose(generated_pose(page, pipe, person), mirrored(walking), atol=1e-4)

    skeleton.press("Reset")
    nose, knee = skeleton.joint("nose"), skeleton.joint("left_knee")
    nose.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Tab")  # the neck
    page.keyboard.press("Delete")
    skeleton.drag(walking[JOINTS.index("left_knee")], (1.4, 0.7))  # outside the frame
    expected = walking.copy()
    expected[JOINTS.index("nose")] += (-0.01, 0.05)
    expected[JOINTS.index("neck")] = np.nan
    expected[JOINTS.index("left_knee")] = (1, 0.7)
    np.testing.assert_allclose(generated_pose(page, pipe), expected, atol=0.005)
    assert "missing" in (skeleton.joint("neck").get_attribute("aria-label") or "")
    assert knee.get_attribute("aria-label") == "left knee, 100 % across, 70 % down"

    box = nose.locator(".dot").bounding_box()
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert np.isnan(generated_pose(page, pipe)[0]).all()
    skeleton.press("Show")  # the chosen joint
    np.testing.assert_allclose(generated_pose(page, pipe), expected, atol=0.005)


def test_a_pose_from_a_file_replaces_the_skeleton(
    page: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    Skeleton(page).press("Sitting")
    page.set_input_files("#pose-file input[type=file]", str(person))
    page.wait_for_selector("#pose-status :text('Pose found in')")
    np.testing.assert_allclose(
        generated_pose(page, pipe, person), PRESETS[5].keypoints(), atol=1e-4
    )
    broken = tmp_path / "broken.txt"
    broken.write_text("1 2")
    page.set_input_files("#pose-file input[type=file]", str(broken))
    page.wait_for_selector("#pose-status [role=alert] :text('joints instead of 18')")
    np.testing.assert_allclose(generated_pose(page, pipe), PRESETS[5].keypoints(), atol=1e-4)


def test_after_an_error_the_next_generation_succeeds(
    page: Any, pipe: FakePipeline, person: Path
) -> None:
    press_generate(page)
    page.wait_for_selector("#result-status [role=alert] :text('No image of a person')")
    assert generated_pose(page, pipe, person) is not None
    assert page.locator("#result-status [role=alert]").count() == 0


@pytest.mark.parametrize("how", ["the button", "the page is closed"])
def test_a_generation_can_be_stopped(
    url: str, browser: Any, pipe: FakePipeline, person: Path, how: str
) -> None:
    pipe.pause = 0.1
    with opened(browser, url) as page:
        page.get_by_label("Steps").fill("900")
        press_generate(page, person)
        wait_until(lambda: pipe.steps_done > 3, "the generation starts")
        if how == "the button":
            page.click("#stop")
            page.wait_for_selector("#result-status :text('Stopped')")
            wait_until(page.locator("#generate").is_enabled, "Generate is enabled again")
        else:
            page.close()
        wait_until(lambda: not generating(), "the generation stops")
        assert pipe.steps_done < 900


def generating() -> bool:
    return any(thread.name == "generate" for thread in threading.enumerate())


def test_a_finger_drags_a_joint_on_a_phone_without_horizontal_scroll(
    url: str, browser: Any, pipe: FakePipeline, person: Path, tmp_path: Path
) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, url, **phone) as page:
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == 390  # no horizontal scroll bar
        skeleton = Skeleton(page)
        skeleton.frame.scroll_into_view_if_needed()
        scrolled = page.evaluate("scrollY")
        start = PRESETS[0].keypoints()
        touch(page, skeleton.point(start[WRIST]), skeleton.point((0.2, 0.2)))
        assert page.evaluate("scrollY") == scrolled
        ankle = JOINTS.index("left_ankle")
        for _ in range(2):
            touch(page, skeleton.point(start[ankle]))
        pose = generated_pose(page, pipe, person)
        np.testing.assert_allclose(pose[WRIST], (0.2, 0.2), atol=0.01)
        assert np.flatnonzero(np.isnan(pose).any(axis=1)).tolist() == [ankle]
        page.screenshot(path=tmp_path / "phone.png", full_page=True)


def test_a_slow_answer_about_the_images_does_not_hide_the_result(
    page: Any, pipe: FakePipeline, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspected = threading.Event()

    def slow(*_arguments: Any) -> View:
        assert inspected.wait(30)
        return view_of(*_arguments)

    monkeypatch.setattr("xmdpt_cli.ui.person_views.view_of", slow)
    press_generate(page, person)
    page.wait_for_selector("#result-status :text('image in')")
    inspected.set()
    page.wait_for_selector("#keypoints .placer:not([hidden])")
    assert "1 image in" in page.inner_text("#result-status")
