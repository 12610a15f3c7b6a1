"""Images of the person and their keypoints, without a server."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_pipeline import FakePipeline
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats import write_pose_json
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.padding import is_padded_image
from xmdpt_cli.ui.estimator import Estimator
from xmdpt_cli.ui.examples import Examples, Person
from xmdpt_cli.ui.files import keypoints_of
from xmdpt_cli.ui.poses import PRESETS

pytest.importorskip("gradio", reason="the ui extra is not installed")
from xmdpt_cli.ui.events import keypoints_known, pose_handler
from xmdpt_cli.ui.people import example_handler, images_handler, keypoints_handler
from xmdpt_cli.ui.person_views import PersonViews, View, from_json, to_json

STANDING = PRESETS[0].keypoints()


class FakeOpenPose:
    """A fake OpenPose that detects these people, in pixels."""

    def __init__(self, *people: np.ndarray) -> None:
        self.found = list(people)

    def people(self, image: np.ndarray) -> list[np.ndarray]:
        return [points * image.shape[1::-1] for points in self.found]


def estimator(
    *people: np.ndarray, available: bool = True, conditioning: str = "tokens"
) -> Estimator:
    pipe = FakePipeline(conditioning=conditioning)
    if available:
        pipe.encoders = SimpleNamespace(openpose=FakeOpenPose(*people), tiny=None)
    return Estimator(pipe)  # type: ignore[arg-type]


def inspected(which: Estimator, *files: Path, placed: str = "") -> PersonViews:
    people = [(str(file), None) for file in files]
    status, text, _ = images_handler(threading.Lock(), which, Examples())(people, placed)
    assert status == ""
    return from_json(text)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.png"
    Image.effect_noise((300, 200), 50).convert("RGB").save(path)
    return path


def test_the_keypoints_of_the_largest_detected_person_are_shown(person: Path) -> None:
    small = 0.5 + (STANDING - 0.5) / 2
    (view,) = inspected(estimator(small, STANDING), person).views
    np.testing.assert_allclose(view.places, STANDING, atol=1e-4)
    assert view.note.startswith("Found")
    assert not view.moved


def test_without_detected_keypoints_the_note_gives_the_reason(person: Path) -> None:
    for which, expected in (
        (estimator(), "The keypoint estimator found no person"),
        (estimator(available=False), "This model needs"),
        (estimator(STANDING, conditioning="vector"), "Not needed"),
    ):
        (view,) = inspected(which, person).views
        assert view.places is None
        assert view.note.startswith(expected)


def test_placed_keypoints_stay_when_other_images_are_added_or_removed(
    person: Path, other: Path
) -> None:
    which = estimator(available=False)
    first = inspected(which, person)
    placed = PersonViews((View(**{**vars(first.views[0]), "places": STANDING}),))
    both = inspected(which, other, person, placed=to_json(placed))
    assert [view.name for view in both.views] == ["other.png", "person one.png"]
    assert both.at == 0  # the new one is shown
    assert both.views[0].places is None
    np.testing.assert_allclose(both.views[1].places, STANDING, atol=1e-4)
    assert (both.views[0].width, both.views[0].height) == (300, 200)
    again = inspected(which, person, placed=to_json(both))
    np.testing.assert_allclose(again.views[0].places, STANDING, atol=1e-4)
    assert inspected(which, placed=to_json(again)) == PersonViews()


def test_a_figure_with_few_dragged_joints_is_refused_and_a_placed_one_is_not(person: Path) -> None:
    for which in (estimator(available=False), estimator(available=False, conditioning="vector")):
        (empty,) = inspected(which, person).views
        for placed, fine in ((0, False), (1, False), (3, False), (4, True), (18, True)):
            view = dataclasses.replace(empty, places=STANDING, placed=placed)
            (view,) = from_json(to_json(PersonViews((view,)))).views
            if fine:
                assert keypoints_known([person], PersonViews((view,)), 1, which, Examples([]))
                continue
            with pytest.raises(XmdptError, match=f"only {placed} of 18 joints moved") as err:
                keypoints_known([person], PersonViews((view,)), 1, which, Examples([]))
            assert "limb to move the whole figure" in err.value.hint
    # keypoints without ``placed``, sent by another client, count as placed
    data = json.loads(to_json(PersonViews((dataclasses.replace(empty, places=STANDING),))))
    del data["views"][0]["placed"]
    assert keypoints_known(
        [person], from_json(json.dumps(data)), 1, estimator(available=False), Examples([])
    )


def test_keypoints_of_a_file_complete_a_figure_with_few_dragged_joints(
    person: Path, tmp_path: Path
) -> None:
    (view,) = inspected(estimator(available=False), person).views
    text = to_json(PersonViews((dataclasses.replace(view, places=STANDING, placed=1),)))
    file = tmp_path / "k.json"
    write_pose_json(file, [ImagePoses([STANDING * (88, 128)], (128, 88), "")])
    text, _, _ = keypoints_handler()([str(file)], [(str(person), None)], text)
    assert not from_json(text).views[0].partly


def test_an_example_person_has_the_keypoints_of_the_dataset(person: Path, other: Path) -> None:
    examples = Examples([Person(Image.open(person), STANDING)])
    inspect = images_handler(threading.Lock(), estimator(available=False), examples)
    shown, status = example_handler(examples)(0)
    assert status == ""
    _, answer, number = inspect([*shown, (str(other), None)], "")
    example, photo = from_json(answer).views
    np.testing.assert_allclose(example.places, STANDING, atol=1e-4)
    assert example.note == "Known from the example."
    assert photo.places is None
    assert "2 views of one person" in number


def test_which_keypoints_reach_the_pipeline(person: Path, other: Path) -> None:
    found = estimator(STANDING)
    known = inspected(found, person, other)
    assert len(keypoints_known([person, other], known, 1, found, Examples([])) or []) == 2
    # the second largest person is selected: the keypoints found belong to the largest
    assert keypoints_known([person, other], known, 2, found, Examples([])) is None
    missing = estimator(available=False)
    empty = inspected(missing, person)
    with pytest.raises(XmdptError, match=r"the keypoints of person one\.png are not placed"):
        keypoints_known([person], empty, 1, missing, Examples([]))
    few = np.full((18, 2), np.nan)
    few[:3] = 0.5
    view = View(**{**vars(empty.views[0]), "places": few})
    with pytest.raises(XmdptError, match=r"keypoints of person one\.png: the pose has 3 of 18"):
        keypoints_known([person], PersonViews((view,)), 1, missing, Examples([]))
    vector = estimator(available=False, conditioning="vector")
    assert keypoints_known([person], inspected(vector, person), 1, vector, Examples([])) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"views": [{}], "at": 0}', '{"views": 3, "at": 0}',
             '{"views": [], "at": "x"}', '{"views": [], "at": 1e999}'],
)  # fmt: skip
def test_invalid_json_of_the_person_editor_is_refused(text: str) -> None:
    with pytest.raises(XmdptError, match="not readable"):
        from_json(text)


def test_a_keypoints_file_belongs_to_the_image_that_is_shown(
    person: Path, other: Path, tmp_path: Path
) -> None:
    known = inspected(estimator(available=False), person, other)
    file = tmp_path / "k.json"
    write_pose_json(file, [ImagePoses([STANDING * (300, 200)], (200, 300), "")])
    people = [(str(person), None), (str(other), None)]
    text, message, _ = keypoints_handler()([str(file)], people, to_json(known))
    views = from_json(text).views
    assert known.at == 1
    assert views[0].places is None
    np.testing.assert_allclose(views[1].places, STANDING, atol=1e-4)
    assert "Keypoints of k.json" in message
    _, message, _ = keypoints_handler()([str(file)], None, "")
    assert "Drop an image first" in message
    file.write_text("{")
    _, message, _ = keypoints_handler()([str(file)], people, to_json(known))
    assert "k.json: not JSON" in message
    assert str(tmp_path) not in message


def test_keypoints_of_a_padded_image_refer_to_the_complete_image(tmp_path: Path) -> None:
    """``xmdpt sample`` removes its grey columns, and the editor shows the complete image."""
    padded = np.full((256, 256, 3), 240, np.uint8)
    padded[:, 41:215] = np.random.default_rng(0).integers(0, 255, (256, 174, 3))
    Image.fromarray(padded).save(tmp_path / "padded.png")
    assert all(is_padded_image(Image.fromarray(padded)))
    points = STANDING * (120, 200) + (60, 20)
    write_pose_json(tmp_path / "k.json", [ImagePoses([points], (256, 256), "")])
    found, _ = keypoints_of(tmp_path / "k.json", tmp_path / "padded.png")
    np.testing.assert_allclose(found * 256, points, atol=0.01)


@pytest.mark.parametrize("number", [None, "x", -1, 0, 7])
def test_a_missing_example_is_reported(number: Any) -> None:
    message = example_handler(Examples())(number)[1]
    assert 'role="alert"' in message


def test_the_json_of_the_person_editor_contains_no_server_path(person: Path) -> None:
    data = json.loads(to_json(inspected(estimator(STANDING), person)))
    assert data["at"] == 0
    assert data["views"][0]["image"].startswith("data:image/jpeg;base64,")
    assert str(person.parent) not in json.dumps(data)


def test_an_openpose_file_takes_the_size_of_the_image_of_the_person(
    tmp_path: Path, other: Path
) -> None:
    """Pixels of an image of unstated size; without an image of the person the hint says so."""
    flat = []
    for x, y in STANDING * (300, 200):
        flat += [0, 0, 0] if np.isnan(x) else [float(x), float(y), 0.9]
    file = tmp_path / "walk_keypoints.json"
    file.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": flat}]}))
    take = pose_handler(FakePipeline(), threading.Lock())  # type: ignore[arg-type]
    text, message, _ = take(str(file), [(str(other), None)])
    assert len(json.loads(text)) == 18
    assert "Pose of walk_keypoints.json" in message
    _, message, _ = take(str(file), None)
    assert "drop the image of the person first" in message.lower()
    assert "--" not in message
