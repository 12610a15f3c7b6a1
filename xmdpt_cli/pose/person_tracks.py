"""Tracks of all people of a sequence: matches the people of a frame to those of earlier frames.

Everyone is tracked, so that a hidden person is not confused with the person in front, whose joints
belong to another track.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from xmdpt_cli.pose.keypoints import Keypoints

Array = NDArray[np.float64]

# Distances and costs are in body sizes, the diagonal of a person's box, averaged over the joints.
#: largest distance of a match from the expected place; a walking person moves 0.05 between frames
#: at 25 frames a second, and 0.4 at 2
GATE = 0.5
_CLOSE = 0.15  # matches within this distance are made first
_WIDER = 0.1  # growth of the gate for each frame without the person, up to twice as wide
_KEEPS_PACE = 25  # frames for which a person is expected to keep their pace
_PACE = 5  # detections over which the pace is measured
_STOPPED = 0.15  # cost of staying instead of keeping the pace
_UNSEEN = (0.03, 5)  # cost of each frame without the person, and the largest number that counts
_NEW = (0.05, 3)  # cost of other people who were detected fewer times than this
_PATIENCE = 50  # frames after which other people are dropped
_TWICE = 0.08  # distance of two detections of the same person
_ALIKE = 0.05  # matches whose costs differ by less are ambiguous


@dataclass
class _Person:
    """One tracked person."""

    seen: list[tuple[int, Keypoints]]  # the last detections: (number of the frame, joints)
    count: int = 1  # number of all detections

    def unseen(self, number: int) -> int:
        """The number of frames between the last detection and frame ``number``."""
        return number - self.seen[-1][0] - 1

    def gate(self, number: int) -> float:
        return GATE * min(2.0, 1 + _WIDER * self.unseen(number))

    def expected(self, number: int) -> Keypoints | None:
        """The joints in frame ``number`` at a constant pace; None if the pace is unknown."""
        (first, old), (last, new) = self.seen[0], self.seen[-1]
        both = np.isfinite(old - new).all(axis=1)
        if first == last or not both.any():
            return None
        pace = (new - old)[both].mean(axis=0) / (last - first)
        return np.asarray(new + pace * min(number - last, _KEEPS_PACE))

    def see(self, number: int, joints: Keypoints) -> None:
        self.seen = [*self.seen[1 - _PACE :], (number, joints)]
        self.count += 1


class People:
    """Everyone since a first frame, and the person of interest among them.

    ``doubtful``: whether the last match of the person of interest may be another person.
    """

    def __init__(self, number: int, people: Sequence[Keypoints], person: int) -> None:
        self._all = [_Person([(number, joints)]) for joints in people]
        self._all.insert(0, self._all.pop(person))  # the person of interest is the first
        self._confused = False
        self.doubtful = False

    def find(self, number: int, people: Sequence[Keypoints]) -> int | None:
        """The index of the person of interest among the people of frame ``number``, or None."""
        self._all = [
            track for i, track in enumerate(self._all) if not i or track.unseen(number) < _PATIENCE
        ]
        costs = np.array([self._costs(track, number, people) for track in self._all])
        gates = np.array([track.gate(number) for track in self._all])
        owner = _matches(costs, gates)
        place = next((i for i, track in owner.items() if track == 0), None)
        self._judge(number, costs, owner, place)
        for i, joints in enumerate(people):
            if i in owner:
                self._all[owner[i]].see(number, joints)
            elif all(distance(joints, people[other]) > _TWICE for other in owner):
                self._all.append(_Person([(number, joints)]))
        return place

    def _costs(self, track: _Person, number: int, people: Sequence[Keypoints]) -> Array:
        """The cost of matching each of some people to a track."""
        last, expected = track.seen[-1][1], track.expected(number)
        costs = distances(last, people)
        if expected is not None:
            costs = np.minimum(costs + _STOPPED, distances(expected, people))
        costs = costs + _UNSEEN[0] * min(track.unseen(number), _UNSEEN[1])
        return costs + (_NEW[0] if track is not self._all[0] and track.count < _NEW[1] else 0.0)

    def _judge(self, number: int, costs: Array, owner: dict[int, int], place: int | None) -> None:
        """Determine whether the person of interest may as well be another person."""
        own = costs[0]
        if place is None:  # another person was matched where they could be
            near = any(own[i] - costs[other, i] < _ALIKE for i, other in owner.items())
            self._confused, self.doubtful = self._confused or near, False
            return
        person = self._all[0]
        lost = person.unseen(number)
        far = own[place] > person.gate(number) / 2
        idle = [other for other in range(1, len(costs)) if other not in owner.values()]
        claimed = any(costs[other, place] - own[place] < _ALIKE for other in idle)
        swapped = any(
            own[i] + costs[other, place] - own[place] - costs[other, i] < _ALIKE
            for i, other in owner.items()
            if other
        )
        # the order of several people who were hidden for a while is unknown
        guessed = lost >= _UNSEEN[1] or person.expected(number) is None
        several = (
            lost > 0
            and guessed
            and any(
                costs[other, place] <= person.gate(number)
                for other in range(1, len(costs))
                if self._all[other].unseen(number)
            )
        )
        long = lost > _KEEPS_PACE or several
        self.doubtful = far or claimed or swapped or self._confused or long
        self._confused = False


def _matches(costs: Array, gates: Array) -> dict[int, int]:
    """{index of a detection: index of its track}: close matches first, then those in the gate."""
    owner: dict[int, int] = {}
    for limits in (np.minimum(gates, _CLOSE), gates):
        tracks = [i for i in range(len(costs)) if i not in owner.values()]
        places = [i for i in range(costs.shape[1]) if i not in owner]
        if not tracks or not places:
            break
        # one more column for each track, to leave it without a match
        part, most = costs[np.ix_(tracks, places)], limits[tracks]
        part = np.where(part <= most[:, None], part, 1e6)
        alone = np.where(np.eye(len(tracks), dtype=bool), most[:, None], 1e6)
        rows, columns = linear_sum_assignment(np.hstack((part, alone)))
        for row, column in zip(rows, columns, strict=True):
            if column < len(places):
                owner[places[column]] = tracks[row]
    return owner


def distance(one: Keypoints, two: Keypoints) -> float:
    """The distance of two poses (18, 2) in body sizes: the mean over the joints of both."""
    return float(distances(one, [two])[0])


def distances(one: Keypoints, others: Sequence[Keypoints]) -> Array:
    """The distances of a pose (18, 2) from others in body sizes; without common joints, the
    distance of their middles."""
    two = np.stack(list(others))
    apart = np.hypot(*np.moveaxis(two - one, -1, 0))
    both = np.isfinite(apart)
    count = both.sum(axis=1)
    mean = np.where(both, apart, 0.0).sum(axis=1) / np.maximum(count, 1)
    middles = np.hypot(*(np.nanmean(two, axis=1) - np.nanmean(one, axis=0)).T)
    size = np.maximum(_body_size(two), _body_size(one[None]))
    return np.asarray(np.where(count > 0, mean, middles) / np.maximum(size, 1e-9))


def _body_size(points: Array) -> Array:
    return np.asarray(np.hypot(*(np.nanmax(points, axis=1) - np.nanmin(points, axis=1)).T))
