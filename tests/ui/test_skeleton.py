"""Preset poses, and the JSON that the pose editor and Python exchange."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browsing import mirrored

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS
from xmdpt_cli.pose.keypoints import JOINTS, from_fractions
from xmdpt_cli.ui import skeleton
from xmdpt_cli.ui.poses import PRESETS, Pose

FRAME = (256, 176)
X, Y = 0, 1
BONES = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))


def joint(pose: Pose, name: str) -> np.ndarray:
    return pose.keypoints()[JOINTS.index(name)]


@pytest.mark.parametrize("pose", PRESETS, ids=lambda pose: pose.name)
def test_a_preset_is_a_person_in_the_frame(pose: Pose) -> None:
    points = pose.keypoints()
    assert points.shape == (18, 2)
    assert set(pose.joints) <= set(JOINTS)
    seen = np.isfinite(points).all(axis=1)
    assert seen.sum() >= 12
    # complete joints with the radius of the pose image
    pixels = from_fractions(points, FRAME)[seen]
    assert (pixels >= 4).all()
    assert (pixels <= np.array((176, 256)) - 5).all()
    assert draw_pose(from_fractions(points, FRAME), FRAME).any()
    # the JSON is parsed to the same keypoints
    np.testing.assert_array_equal(skeleton.from_json(skeleton.to_json(points)), points)


@pytest.mark.parametrize("pose", PRESETS, ids=lambda pose: pose.name)
def test_left_and_right_are_the_persons_own(pose: Pose) -> None:
    for part in ("shoulder", "hip"):
        right, left = joint(pose, f"right_{part}")[X], joint(pose, f"left_{part}")[X]
        if pose.name not in (
            "Back",
            "Side",
        ):  # the right side of a person who faces the camera is on the left
            assert right < left
        elif pose.name == "Back":
            assert right > left
    if pose.name == "Back":
        assert np.isnan(joint(pose, "nose")).all()  # no face from behind
    else:
        assert joint(pose, "nose")[Y] < joint(pose, "neck")[Y]


@pytest.mark.parametrize("pose", PRESETS, ids=lambda pose: pose.name)
def test_left_and_right_bones_of_a_preset_have_similar_lengths(pose: Pose) -> None:
    for a, b in BONES:
        ends = [(joint(pose, f"{side}_{a}"), joint(pose, f"{side}_{b}")) for side in SIDES]
        right, left = (np.hypot(*((q - p) * (176, 256))) for p, q in ends)
        if np.isfinite(right + left):
            assert 0.7 < right / left < 1.43, (a, b)  # a bent leg is shortened by perspective


SIDES = ("right", "left")


def test_presets_differ_and_the_first_faces_the_camera() -> None:
    assert len({skeleton.to_json(pose.keypoints()) for pose in PRESETS}) == len(PRESETS)
    assert len({pose.name for pose in PRESETS}) == len(PRESETS)
    assert PRESETS[0].name == "Front"


def test_a_mirror_image_swaps_the_sides() -> None:
    points = next(p for p in PRESETS if p.name == "Walking").keypoints()
    image = mirrored(points)
    right, left = JOINTS.index("right_wrist"), JOINTS.index("left_wrist")
    np.testing.assert_allclose(image[left], (1 - points[right][X], points[right][Y]))
    np.testing.assert_allclose(mirrored(image), points)
    # it still faces the camera: the right shoulder is on the left
    assert image[JOINTS.index("right_shoulder")][X] < image[JOINTS.index("left_shoulder")][X]
    missing = PRESETS[1].keypoints()
    assert np.isnan(missing).sum() == np.isnan(mirrored(missing)).sum()


def test_joints_outside_the_frame_are_moved_to_its_edge() -> None:
    points = PRESETS[0].keypoints()
    points[4] = (-0.25, 1.5)
    points[5] = np.nan
    back = skeleton.from_json(skeleton.to_json(points))
    assert back[4].tolist() == [0, 1]
    assert np.isnan(back[5]).all()
    assert (np.isfinite(back).all(axis=1)).sum() == 17


@pytest.mark.parametrize(
    "text",
    [None, "", "no json", "{}", "[]", "3", json.dumps([[0.5, 0.5]] * 17),
     json.dumps([[0.5, 0.5]] * 17 + [[0.5]]), json.dumps([[0.5, 0.5]] * 17 + ["ab"]),
     json.dumps([[0.5, 0.5]] * 17 + [[0.5, 1.5]]), "[" + "[NaN, 0.5]," * 17 + "[0.5, 0.5]]"],
)  # fmt: skip
def test_invalid_json_of_a_pose_is_refused(text: str | None) -> None:
    with pytest.raises(XmdptError, match="not a skeleton"):
        skeleton.from_json(text)


def test_too_few_joints_are_refused() -> None:
    places = [[0.5, 0.5]] * LEAST_JOINTS + [None] * (18 - LEAST_JOINTS)
    seen = np.isfinite(skeleton.from_json(json.dumps(places))).all(axis=1)
    assert seen.sum() == LEAST_JOINTS
    with pytest.raises(XmdptError, match=f"the pose has {LEAST_JOINTS - 1} of 18 joints"):
        skeleton.from_json(json.dumps([None, *places[1:]]))


def test_the_editor_has_the_colours_of_the_pose_image() -> None:
    """The colour of a joint that no limb covers is the same in the image and on the page."""
    for index in range(len(JOINTS)):
        points = np.full((18, 2), np.nan)
        points[index] = (50, 60)
        red, green, blue = draw_pose(points, FRAME)[60, 50]
        assert skeleton.colour(index) == f"rgb({red},{green},{blue})"


def test_the_editor_is_safe_for_gradios_templates() -> None:
    """Gradio parses it as a Handlebars and a JavaScript template, so it contains no such syntax."""
    for text in (skeleton.editor_html([PRESETS[3].keypoints()]), skeleton.person_html(True)):
        assert not any(mark in text for mark in ("{{", "${", "`", "\\"))
        assert text.count('class="joint"') == 18
    assert skeleton.editor_html().count('class="preset"') == len(PRESETS)
