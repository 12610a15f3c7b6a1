"""One person through the frames of a sequence: by position, from frame to frame.

Keypoints files list the people of each frame in any order. The person of the next frame is the one
whose joints lie nearest to those of the frame before, in units of body size; not one that lies
nearer to somebody else of that frame, and not one that is too far away to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from xmdpt_cli.data.given_pose import LEAST_JOINTS
from xmdpt_cli.data.keypoint_json import Frame
from xmdpt_cli.data.person_box import extent
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.errors import ConfigError, XmdptError

EmptyFrames = Literal["skip", "hold"]
EMPTY_FRAMES: tuple[str, ...] = get_args(EmptyFrames)
#: body sizes (the diagonal of a person's box) that the mean joint moves from a frame to the next;
#: somebody who walks moves 0.05 at 25 frames a second, and 0.4 at 2
GATE = 0.5
_WIDER = 0.1  # of the gate for each frame in which the person was not seen, at most twice as wide
_GOES_ON = 8  # frames for which somebody is expected to go on as before


@dataclass
class Track:
    """The person of each frame of a sequence, None where they are not seen.

    ``jumps``: numbers (from 1) of frames whose only person is farther from the one before than
    the same person can be.
    """

    poses: list[Keypoints | None] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)


def check_empty_frames(choice: str) -> None:
    """ConfigError unless it is one of ``EMPTY_FRAMES``."""
    if choice not in EMPTY_FRAMES:
        raise ConfigError(
            f"no such way with empty frames: {choice}", f"one of {', '.join(EMPTY_FRAMES)}"
        )


def person_of(people: Sequence[Keypoints], person: int | None, where: str, option: str) -> int:
    """The place of the largest of some people, or of the one asked for (1: the largest);
    ``option`` is what asks."""
    wanted = 1 if person is None else person
    if not 1 <= wanted <= len(people):
        raise XmdptError(
            f"{where}: person {wanted} is asked for, {len(people)} found",
            f"{option} 1 to {len(people)}",
        )
    order = sorted(range(len(people)), key=lambda i: extent(people[i]), reverse=True)
    return order[wanted - 1]


def track(frames: Sequence[Frame], person: int | None, option: str) -> Track:
    """One person through the frames of a file: ``person`` of the first frame, 1 the largest.

    In frames that are images of their own (``Frame.separate``), and at each change of the image
    size, the person is chosen anew. Where no frame has several people there is nothing to choose:
    then everybody is taken, and ``jumps`` says where it can hardly be the same person. A person of
    fewer than ``LEAST_JOINTS`` joints counts as not seen, unless the file has one frame.
    """
    found = Track()
    crowded = any(len(frame.people) > 1 for frame in frames)
    path: list[tuple[int, Keypoints]] = []  # of the person so far, with the frames' numbers
    others: list[Keypoints] = []
    for number, frame in enumerate(frames, start=1):
        people = [p for p in frame.people if len(frames) == 1 or _joints(p) >= LEAST_JOINTS]
        if frame.separate or (number > 1 and frame.size != frames[number - 2].size):
            path = []
        if not people:
            found.poses.append(None)
            continue
        if not path:
            place: int | None = person_of(people, person, frame.where, option)
        else:
            place = _same(people, path, number, others)
            if place is None and not crowded:
                place = 0
                found.jumps.append(number)
        others = [p for i, p in enumerate(people) if i != place]
        found.poses.append(None if place is None else people[place])
        if place is not None:
            path = [*path[-1:], (number, people[place])]
    return found


def _same(
    people: Sequence[Keypoints],
    path: Sequence[tuple[int, Keypoints]],
    number: int,
    others: Sequence[Keypoints],
) -> int | None:
    """The place of the person of ``path`` among the people of a frame, None if nobody can be.

    They are where they were, or where they are if they went on as between the last two frames.
    """
    since, last = path[-1]
    steps = number - since
    expected = [last]
    if len(path) > 1 and steps <= _GOES_ON:
        step = np.nanmean(last - path[-2][1], axis=0) / (since - path[-2][0])
        if np.isfinite(step).all():
            expected.append(last + step * steps)
    apart = [min(distance(points, one) for one in expected) for points in people]
    best = int(np.argmin(apart))
    gate = GATE * min(2.0, 1 + _WIDER * (steps - 1))
    nearer = any(distance(people[best], other) < apart[best] for other in others)
    return None if apart[best] > gate or nearer else best


def distance(one: Keypoints, two: Keypoints) -> float:
    """How far two poses (18, 2) lie apart, in body sizes: the mean over the joints of both."""
    both = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
    if both.any():
        apart = float(np.hypot(*(one[both] - two[both]).T).mean())
    else:
        apart = float(np.hypot(*(np.nanmean(one, axis=0) - np.nanmean(two, axis=0))))
    return apart / max(_body_size(one), _body_size(two), 1e-9)


def _body_size(points: Keypoints) -> float:
    return float(np.hypot(*(np.nanmax(points, axis=0) - np.nanmin(points, axis=0))))


def _joints(points: Keypoints) -> int:
    return int(np.isfinite(points).all(axis=1).sum())


def filled(poses: Sequence[Keypoints | None], empty: EmptyFrames) -> list[tuple[int, Keypoints]]:
    """(place, pose) of the frames to use: without those that are None, or (hold) with the pose
    before in their place."""
    out: list[tuple[int, Keypoints]] = []
    for place, points in enumerate(poses):
        if points is not None:
            out.append((place, points))
        elif empty == "hold" and out:
            out.append((place, out[-1][1]))
    return out


def notes_on(found: Track, name: str, empty: EmptyFrames) -> list[str]:
    """What became of frames in which the person was not seen, and of jumps, a clause each."""
    seen = [number for number, points in enumerate(found.poses, start=1) if points is not None]
    total, notes = len(found.poses), []
    what = "skipped" if empty == "skip" else "the pose before is held"
    before = list(range(1, seen[0]))
    gaps = sorted({*range(seen[0], seen[-1])} - {*seen})
    other = "" if empty == "hold" else "; --empty-frames hold repeats the pose before"
    if before:
        notes.append(f"{name}: nobody in frame {_listed(before)} of {total}: skipped")
    if gaps:
        notes.append(
            f"{name}: the person is not found in frame {_listed(gaps)} of {total}: {what}{other}"
        )
    if seen[-1] < total:
        notes.append(
            f"{name}: the person is not found from frame {seen[-1] + 1} on, to the last, {total}: "
            f"{what}{other}"
        )
    if found.jumps:
        notes.append(
            f"{name}: the person of frame {_listed(found.jumps)} stands far from the one before; "
            "taken, as there is no other"
        )
    return notes


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:6])
    return shown if len(numbers) <= 6 else f"{shown} and {len(numbers) - 6} more"
