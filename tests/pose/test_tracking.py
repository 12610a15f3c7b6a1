"""One person through a sequence, whatever the order and the number of people in its frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stick_people import FIGURE

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.person_tracks import distance
from xmdpt_cli.sampling.inputs import InputOptions, Pose, read_pose

WIDE, HIGH = 800, 400


def person(x: float, height: float = 0.9) -> Any:
    """Somebody around x (pixels), so many canvases high."""
    return FIGURE * (0.4 * height * HIGH, height * HIGH) + (x - 0.2 * height * HIGH, 10)


def sequence(path: Path, *frames: list[Any]) -> Path:
    data = [{"people": [{"keypoints": p.tolist()} for p in people]} for people in frames]
    path.write_text(json.dumps({"frames": data, "width": WIDE, "height": HIGH}))
    return path


def poses(path: Path, **more: Any) -> list[Pose]:
    def no_openpose() -> Any:
        raise AssertionError("not needed")

    return read_pose(path, 256, no_openpose, InputOptions(pose_fit="squash", **more))


def at(found: list[Pose]) -> list[int]:
    """Where the neck is, in pixels of the canvas."""
    return [round(float(one.keypoints[1, 0]) * WIDE / 256) for one in found]


def all_notes(found: list[Pose]) -> str:
    return "\n".join(note for one in found for note in one.notes)


def test_one_person_is_tracked_through_a_sequence(tmp_path: Path) -> None:
    """Heights .90 .92 .90 .92 beside .91: the largest is another one in every second frame."""
    frames = []
    for i, height in enumerate((0.90, 0.92, 0.90, 0.92)):
        people = [person(150 + 10 * i, height), person(600, 0.91)]
        frames.append(people[:: (1, -1)[i % 2]])
    file = sequence(tmp_path / "walk.json", *frames)
    assert at(poses(file)) == [600] * 4  # the largest of the first frame
    assert at(poses(file, pose_person=1)) == [600] * 4
    assert at(poses(file, pose_person=2)) == [150, 160, 170, 180]
    assert "2 people, the largest is taken (--pose-person" in all_notes(poses(file))
    with pytest.raises(XmdptError, match="frame 1: person 3 requested, 2 found"):
        poses(file, pose_person=3)


def test_people_who_meet(tmp_path: Path) -> None:
    """They pass one another, half a body apart, and one is hidden for two frames."""
    frames = []
    for i in range(11):
        people = [person(200 + 40 * i, 0.9), person(600 - 40 * i, 0.7)]
        frames.append(people if i not in (3, 4) else people[1:])
    found = poses(sequence(tmp_path / "walk.json", *frames))
    assert at(found) == [200 + 40 * i for i in range(11) if i not in (3, 4)]
    assert [one.name for one in found][3] == "walk_0005"
    assert "walk.json: the person is not found in frame 4, 5 of 11: skipped" in all_notes(found)


Crossing = list[list[tuple[str, Any]]]


def crossing(speed: float, hidden: int, who: str = "a", noise: float = 0.0) -> Crossing:
    """A walks right and B left, in one line; around the middle ``who`` are hidden for a while."""
    rng, frames = np.random.default_rng(7), []
    count = int(600 / speed) + 1
    for i in range(count):
        people = [("a", person(100 + speed * i, 0.9)), ("b", person(700 - speed * i, 0.88))]
        away = who if abs(i - 300 / speed) <= hidden / 2 else ""
        there = [(n, p + rng.normal(0, noise, p.shape)) for n, p in people if n not in away]
        frames.append(there[:: (1, -1)[i % 2]])
    return frames


def names(path: Path, frames: Crossing) -> tuple[list[tuple[int, str]], str]:
    """(place of the frame, who was taken) for each pose, and the notes."""
    found = poses(sequence(path, *[[p for _, p in people] for people in frames]))
    taken = []
    for one in found:
        place = int(one.name.rsplit("_", 1)[1])
        points = one.keypoints * (WIDE / 256, HIGH / 256)
        apart = {n: float(np.abs(points - p).max()) for n, p in frames[place]}
        taken.append((place, min(apart, key=lambda n: apart[n])))
    return taken, all_notes(found)


@pytest.mark.parametrize("hidden", [3, 5, 9, 15])
@pytest.mark.parametrize("speed", [3, 6, 10, 20, 30])
def test_people_cross_and_one_is_hidden(tmp_path: Path, speed: int, hidden: int) -> None:
    """The one who hides the other is not taken for them, then or later."""
    for noise in (0.0, 1.5):
        frames = crossing(speed, hidden, "a", noise)
        taken, notes = names(tmp_path / "walk.json", frames)
        there = [i for i, people in enumerate(frames) if any(n == "a" for n, _ in people)]
        assert taken == [(i, "a") for i in there]
        assert "the person is not found in frame" in notes
    frames = crossing(speed, hidden, "b", 1.5)
    taken, notes = names(tmp_path / "walk.json", frames)
    assert taken == [(i, "a") for i in range(len(frames))]


@pytest.mark.parametrize("speed", [3, 6, 10, 20, 30])
def test_two_hidden_people_are_never_exchanged_without_a_note(tmp_path: Path, speed: int) -> None:
    for hidden in (3, 5, 9, 15):
        taken, notes = names(tmp_path / "walk.json", crossing(speed, hidden, "ab", 1.5))
        wrong = [place for place, name in taken if name == "b"]
        assert not wrong or "is hard to distinguish from another one" in notes


def test_one_undetected_person_and_then_the_other(tmp_path: Path) -> None:
    a, b = ("a", person(300, 0.9)), ("b", person(400, 0.88))
    taken, notes = names(tmp_path / "walk.json", [[a, b], [a], [b], [b], [b, a]])
    assert taken == [(0, "a"), (1, "a"), (4, "a")]
    assert "not found in frame 3, 4 of 5" in notes


def test_a_likely_exchange_is_reported(tmp_path: Path) -> None:
    """Nobody knows the other one yet who stands in for the person in the third frame."""
    a, b = ("a", person(300, 0.9)), ("b", person(420, 0.88))
    taken, notes = names(tmp_path / "walk.json", [[a], [a], [b], [b, a]])
    assert (2, "b") in taken
    assert "in frame 3" in notes
    assert "is hard to distinguish from another one; the most likely one is taken" in notes
    _, notes = names(tmp_path / "walk.json", [[a, b]] * 3)
    assert "hardly" not in notes


def test_a_person_who_leaves_is_not_replaced(tmp_path: Path) -> None:
    frames = [[person(100 + 5 * i), person(700, 0.8)] for i in range(3)]
    frames += [[person(700, 0.8)]] * 4
    file = sequence(tmp_path / "walk.json", *frames)
    found = poses(file)
    assert at(found) == [100, 105, 110]
    assert "the person is not found in frames 4 to 7, the last: skipped" in all_notes(found)
    held = poses(file, empty_frames="hold")
    assert at(held) == [100, 105, *[110] * 5]
    assert "in frames 4 to 7, the last: the pose before is held" in all_notes(held)
    # also where the other one comes close to where they were
    beside = [[person(300), person(380, 0.8)]] * 2 + [[person(380, 0.8)]] * 2
    assert at(poses(sequence(tmp_path / "b.json", *beside))) == [300, 300]


@pytest.mark.parametrize("empty", [[], [np.full((18, 2), np.nan)], [np.full((18, 2), 0.0)]])
def test_empty_frames_are_skipped_or_held(tmp_path: Path, empty: list[Any]) -> None:
    nothing = [{"keypoints": [None] * 18} for _ in empty]
    frames: list[Any] = [{"people": [{"keypoints": person(100 * i).tolist()}]} for i in (1, 2, 3)]
    data = [{"people": nothing}, frames[0], {"people": nothing}, frames[1], frames[2]]
    file = tmp_path / "walk.json"
    file.write_text(json.dumps({"frames": data, "width": WIDE, "height": HIGH}))
    found = poses(file)
    assert at(found) == [100, 200, 300]
    assert [one.name for one in found] == ["walk_0001", "walk_0003", "walk_0004"]
    assert "no person in frame 1 of 5: skipped" in all_notes(found)
    assert "not found in frame 3 of 5: skipped; --empty-frames hold" in all_notes(found)
    held = poses(file, empty_frames="hold")
    assert at(held) == [100, 100, 200, 300]
    with pytest.raises(ConfigError, match="no such choice for empty frames"):
        poses(file, empty_frames="drop")


def test_a_frame_of_too_few_joints_is_empty(tmp_path: Path) -> None:
    part = person(100)
    rows: list[Any] = [None] * 18
    rows[:3] = part[:3].tolist()
    data = [{"keypoints": part.tolist()}, {"keypoints": rows}, {"keypoints": part.tolist()}]
    (tmp_path / "a.json").write_text(json.dumps({"frames": data, "width": WIDE, "height": HIGH}))
    assert len(poses(tmp_path / "a.json")) == 2
    (tmp_path / "a.json").write_text(
        json.dumps({"frames": [data[1]] * 3, "width": WIDE, "height": HIGH})
    )
    with pytest.raises(XmdptError, match="no person in any of its 3 frames"):
        poses(tmp_path / "a.json")


def test_a_jump_of_the_only_person_is_accepted_with_a_note(tmp_path: Path) -> None:
    found = poses(sequence(tmp_path / "a.json", [person(100)], [person(110)], [person(700)]))
    assert at(found) == [100, 110, 700]
    assert "person of frame 3 stands far from the one before" in all_notes(found)


def test_images_of_a_coco_file_are_not_a_sequence(tmp_path: Path) -> None:
    """Each has its own people: the largest of each is taken."""
    people = [(person(100), 1), (person(700, 0.5), 1), (person(650), 2), (person(200, 0.5), 2)]
    entries = [
        {"image_id": i, "keypoints": [v for x, y in p[:17].tolist() for v in (x, y, 2)]}
        for p, i in people
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": WIDE, "height": HIGH} for i in (1, 2)]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": entries}))
    left, right = at(poses(file))
    assert left < 200 < 600 < right


def test_distance() -> None:
    one = person(100)
    size = float(np.hypot(*np.ptp(one, axis=0)))
    assert distance(one, one + (size, 0)) == pytest.approx(1.0)
    assert distance(one, one) == 0
    upper, lower = one.copy(), one.copy()
    upper[8:] = np.nan
    lower[:8] = np.nan
    assert 0 < distance(upper, lower) < 2
