"""Refitting the head and the hands: on renderings, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from xmdpt_cli.images import ImageArray
from xmdpt_cli.toy.joints import displaced, refit_joints
from xmdpt_cli.toy.people.pose import Arm, skeleton
from xmdpt_cli.toy.people.views import View, render_view, views_of

HEIGHT = 128
WRIST = 4  # the right one


def noisy(image: ImageArray) -> ImageArray:
    """Slightly blurred, with noise, as after a small decoder."""
    noise = np.random.default_rng(0).normal(0.0, 6.0, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.7) + noise, 0, 255).astype(np.uint8)


def view(index: int, arms: tuple[Arm, Arm] | None = None) -> View:
    """The front view of a test person, complete and in the middle, with these arms."""
    front = views_of("test", index, seed=0, plain=True)[0]
    pose = replace(front.pose, shift=(0.0, 0.0), lean=(0.0, 0.0))
    return replace(front, pose=pose if arms is None else replace(pose, arms=arms))


def arm(out: float, down: float) -> Arm:
    return Arm("shoulder", (out, down, 0.03), (0.6, 0.5, -0.5))


@pytest.mark.parametrize("index", [0, 3])
def test_a_true_rendering_is_where_the_skeleton_says(index: int) -> None:
    for known in views_of("test", index, seed=0, views=2):
        found = refit_joints(noisy(render_view(known, height=HEIGHT).image), known)
        assert "head" in found
        assert max(found.values()) < 0.01


def test_a_square_image_is_measured_in_the_same_unit() -> None:
    known = view(1, (arm(0.2, 0.1), arm(0.2, 0.1)))
    shifted = displaced(known, "head", (0.04, 0.0))
    image = render_view(known, height=HEIGHT, joints=shifted).image
    square = cv2.resize(image, (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA)
    found = refit_joints(square, known, ["head", "right_hand"])
    assert found["head"] == pytest.approx(0.04, abs=0.01)
    assert found["right_hand"] < 0.01


@pytest.mark.parametrize(
    ("wanted", "rendered"),
    [((0.12, 0.20), (0.15, 0.16)), ((0.08, 0.27), (0.15, 0.22)), ((0.12, -0.2), (0.18, -0.16))],
)
def test_a_pose_with_other_arms_gives_the_distance_of_the_hands(
    wanted: tuple[float, float], rendered: tuple[float, float]
) -> None:
    known = view(2, (arm(*wanted), arm(0.15, 0.14)))
    other = skeleton(known.person.body, view(2, (arm(*rendered), arm(0.15, 0.14))).pose)
    truth = render_view(known, height=HEIGHT)
    image = render_view(known, height=HEIGHT, joints=other)
    found = refit_joints(noisy(image.image), known, ["head", "right_hand"])
    distance = np.hypot(*(image.keypoints[WRIST] - truth.keypoints[WRIST])) / HEIGHT
    assert found["right_hand"] == pytest.approx(distance, abs=0.015)
    assert found["head"] < 0.015


@pytest.mark.parametrize("shift", [(0.05, 0.0), (-0.02, -0.04)])
def test_a_displaced_head_is_found(shift: tuple[float, float]) -> None:
    known = view(4)
    image = render_view(known, height=HEIGHT, joints=displaced(known, "head", shift)).image
    distance = refit_joints(noisy(image), known, ["head"])["head"]
    assert distance == pytest.approx(np.hypot(*shift), abs=0.01)


def test_a_hand_far_away_is_not_near() -> None:
    known = view(2, (arm(0.07, 0.28), arm(0.2, 0.12)))
    other = skeleton(known.person.body, view(2, (arm(0.12, -0.24), arm(0.2, 0.12))).pose)
    image = render_view(known, height=HEIGHT, joints=other).image
    assert refit_joints(image, known, ["right_hand"])["right_hand"] > 0.05


def test_a_hand_behind_the_body_is_not_measured() -> None:
    behind = Arm("hip", (-0.06, -0.08, -0.09), (1.0, 0.0, -0.2))
    known = view(2, (behind, arm(0.2, 0.12)))
    found = refit_joints(render_view(known, height=HEIGHT).image, known)
    assert set(found) == {"head", "left_hand"}
