"""Track one person through the frames of a sequence, by position.

Keypoints files list the people of each frame in any order. They are matched to the people of
earlier frames all at once (``person_tracks``); a person who is not found is missing, and is not
replaced by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS
from xmdpt_cli.pose.keypoints import Keypoints, extent, seen
from xmdpt_cli.pose.person_tracks import People

EmptyFrames = Literal["skip", "hold"]
EMPTY_FRAMES: tuple[str, ...] = get_args(EmptyFrames)


@dataclass
class Track:
    """The person in each frame of a sequence. Frames are numbered from 1."""

    poses: list[Keypoints | None] = field(default_factory=list)  # None: not found
    jumps: list[int] = field(default_factory=list)  # frames whose only person is too far away
    doubtful: list[int] = field(default_factory=list)  # frames in which it may be another person


def check_empty_frames(choice: str) -> None:
    """ConfigError unless it is one of ``EMPTY_FRAMES``."""
    if choice not in EMPTY_FRAMES:
        raise ConfigError(
            f"no such choice for empty frames: {choice}", f"one of {', '.join(EMPTY_FRAMES)}"
        )


def person_of(people: Sequence[Keypoints], person: int | None, where: str, option: str) -> int:
    """The index of person number ``person`` (1 or None: the largest). XmdptError, naming
    ``option``, if there are fewer people."""
    wanted = 1 if person is None else person
    if not 1 <= wanted <= len(people):
        raise XmdptError(
            f"{where}: person {wanted} requested, {len(people)} found",
            f"{option} 1 to {len(people)}",
        )
    order = sorted(range(len(people)), key=lambda i: extent(people[i]), reverse=True)
    return order[wanted - 1]


def track(frames: Sequence[ImagePoses], person: int | None, option: str) -> Track:
    """Track person number ``person`` of the first frame (1 or None: the largest) through a file.

    In ``separate`` frames, and after each change of the image size, the person is chosen again. If
    no frame has several people, everyone is taken, and ``jumps`` are the frames in which it can
    hardly be the same person. People with fewer than ``LEAST_JOINTS`` joints are ignored, unless
    the file has one frame.
    """
    found = Track()
    crowded = any(len(frame.people) > 1 for frame in frames)
    known: People | None = None
    for number, frame in enumerate(frames, start=1):
        people = [p for p in frame.people if len(frames) == 1 or seen(p).sum() >= LEAST_JOINTS]
        if frame.separate or (number > 1 and frame.size != frames[number - 2].size):
            known = None
        place: int | None = None
        if people and known is None:
            place = person_of(people, person, frame.where, option)
            known = People(number, people, place)
        elif people and known is not None:
            place = known.find(number, people)
            if place is None and not crowded:
                place = 0
                known = People(number, people, place)
                found.jumps.append(number)
            elif crowded and known.doubtful:
                found.doubtful.append(number)
        found.poses.append(None if place is None else people[place])
    return found


def filled(poses: Sequence[Keypoints | None], empty: EmptyFrames) -> list[tuple[int, Keypoints]]:
    """(index, pose) of the frames to use: without those that are None ("skip"), or with the pose
    before in their place ("hold")."""
    out: list[tuple[int, Keypoints]] = []
    for place, points in enumerate(poses):
        if points is not None:
            out.append((place, points))
        elif empty == "hold" and out:
            out.append((place, out[-1][1]))
    return out


def notes_on(found: Track, name: str, empty: EmptyFrames) -> list[str]:
    """Notes on frames without the person, jumps and doubtful frames, one clause each."""
    present = [number for number, points in enumerate(found.poses, start=1) if points is not None]
    total, notes = len(found.poses), []
    what = "skipped" if empty == "skip" else "the pose before is held"
    before = list(range(1, present[0]))
    gaps = sorted({*range(present[0], present[-1])} - {*present})
    other = "" if empty == "hold" else "; --empty-frames hold repeats the pose before"
    if before:
        notes.append(f"{name}: no person in frame {_listed(before)} of {total}: skipped")
    if gaps:
        notes.append(
            f"{name}: the person is not found in frame {_listed(gaps)} of {total}: {what}{other}"
        )
    if present[-1] < total:
        notes.append(
            f"{name}: the person is not found in frames {present[-1] + 1} to {total}, the last: "
            f"{what}{other}"
        )
    if found.jumps:
        notes.append(
            f"{name}: the person of frame {_listed(found.jumps)} stands far from the one before; "
            "taken, as there is no other"
        )
    if found.doubtful:
        notes.append(
            f"{name}: in frame {_listed(found.doubtful)} of {total} the person is hard to "
            "distinguish from another one; the most likely one is taken: check the poses from "
            "there on"
        )
    return notes


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:6])
    return shown if len(numbers) <= 6 else f"{shown} and {len(numbers) - 6} more"
