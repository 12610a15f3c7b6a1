"""The people of a sequence, each with a track: who of a frame is who of the frames before.

Everybody is tracked, so that a person who is hidden for some frames is not taken for the one who
hides them: that one's joints belong to the track of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from xmdpt_cli.pose.keypoints import Keypoints

Array = NDArray[np.float64]

#: body sizes (the diagonal of a person's box) that the mean joint lies from where it is expected;
#: a person who walks moves 0.05 from a frame to the next at 25 frames a second, and 0.4 at 2
GATE = 0.5
_CLOSE = 0.15  # such matches are made first: no person gives up their place to help another
_WIDER = 0.1  # of the gate for each frame in which a person was not seen, at most twice as wide
_KEEPS_PACE = 25  # frames for which a person is expected to keep their pace
_PACE = 5  # sightings over which the pace is measured
_STOPPED = 0.15  # body sizes by which staying is less likely than going on
_UNSEEN = (
    0.03,
    5,
)  # body sizes by which a match is less likely, each unseen frame, at most so many
_NEW = (0.05, 3)  # the same for others who were seen fewer times than this
_PATIENCE = 50  # frames after which other people are forgotten
_TWICE = 0.08  # body sizes: so near is the same person, found twice by the estimator
_ALIKE = 0.05  # body sizes: matches that differ by less cannot be told apart


@dataclass
class _Person:
    """``seen``: the last sightings, (number of the frame, joints); ``count``: of all of them."""

    seen: list[tuple[int, Keypoints]]
    count: int = 1

    def unseen(self, number: int) -> int:
        """Frames since the last sighting, without frame ``number``."""
        return number - self.seen[-1][0] - 1

    def gate(self, number: int) -> float:
        return GATE * min(2.0, 1 + _WIDER * self.unseen(number))

    def expected(self, number: int) -> Keypoints | None:
        """Where they are if they go on at their pace; None if that is not known."""
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
    """Everybody since a first frame, one of whom is followed.

    ``doubtful``: whether the followed person, as found last, may be another one.
    """

    def __init__(self, number: int, people: Sequence[Keypoints], followed: int) -> None:
        self._all = [_Person([(number, joints)]) for joints in people]
        self._all.insert(0, self._all.pop(followed))  # the followed one comes first
        self._confused = False
        self.doubtful = False

    def find(self, number: int, people: Sequence[Keypoints]) -> int | None:
        """The place of the followed person among the people of frame ``number``, None if they
        are not there."""
        self._all = [
            one for i, one in enumerate(self._all) if not i or one.unseen(number) < _PATIENCE
        ]
        costs = np.array([self._costs(one, number, people) for one in self._all])
        gates = np.array([one.gate(number) for one in self._all])
        owner = _matches(costs, gates)
        place = next((i for i, who in owner.items() if who == 0), None)
        self._judge(number, costs, owner, place)
        for i, joints in enumerate(people):
            if i in owner:
                self._all[owner[i]].see(number, joints)
            elif all(distance(joints, people[other]) > _TWICE for other in owner):
                self._all.append(_Person([(number, joints)]))
        return place

    def _costs(self, one: _Person, number: int, people: Sequence[Keypoints]) -> Array:
        """How unlikely each of some people is to be one of before, in body sizes."""
        stays, goes = one.seen[-1][1], one.expected(number)
        costs = distances(stays, people)
        if goes is not None:
            costs = np.minimum(costs + _STOPPED, distances(goes, people))
        costs = costs + _UNSEEN[0] * min(one.unseen(number), _UNSEEN[1])
        return costs + (_NEW[0] if one is not self._all[0] and one.count < _NEW[1] else 0.0)

    def _judge(self, number: int, costs: Array, owner: dict[int, int], place: int | None) -> None:
        """Keep whether the followed person could as well be another one."""
        mine = costs[0]
        if place is None:  # another person is taken to be where they could be
            near = any(mine[i] - costs[who, i] < _ALIKE for i, who in owner.items())
            self._confused, self.doubtful = self._confused or near, False
            return
        one = self._all[0]
        lost = one.unseen(number)
        far = mine[place] > one.gate(number) / 2
        idle = [who for who in range(1, len(costs)) if who not in owner.values()]
        claimed = any(costs[who, place] - mine[place] < _ALIKE for who in idle)
        swapped = any(
            mine[i] + costs[who, place] - mine[place] - costs[who, i] < _ALIKE
            for i, who in owner.items()
            if who
        )
        # where several people went who were hidden for a while is unknown
        guessed = lost >= _UNSEEN[1] or one.expected(number) is None
        several = (
            lost > 0
            and guessed
            and any(
                costs[who, place] <= one.gate(number)
                for who in range(1, len(costs))
                if self._all[who].unseen(number)
            )
        )
        long = lost > _KEEPS_PACE or several
        self.doubtful = far or claimed or swapped or self._confused or long
        self._confused = False


def _matches(costs: Array, gates: Array) -> dict[int, int]:
    """{place of a detection: place of its track}: close matches first, then those in the gate."""
    owner: dict[int, int] = {}
    for limits in (np.minimum(gates, _CLOSE), gates):
        tracks = [i for i in range(len(costs)) if i not in owner.values()]
        places = [i for i in range(costs.shape[1]) if i not in owner]
        if not tracks or not places:
            break
        # a column for each track, to be left without a match
        part, most = costs[np.ix_(tracks, places)], limits[tracks]
        part = np.where(part <= most[:, None], part, 1e6)
        alone = np.where(np.eye(len(tracks), dtype=bool), most[:, None], 1e6)
        rows, columns = linear_sum_assignment(np.hstack((part, alone)))
        for row, column in zip(rows, columns, strict=True):
            if column < len(places):
                owner[places[column]] = tracks[row]
    return owner


def distance(one: Keypoints, two: Keypoints) -> float:
    """How far two poses (18, 2) lie apart, in body sizes: the mean over the joints of both."""
    return float(distances(one, [two])[0])


def distances(one: Keypoints, others: Sequence[Keypoints]) -> Array:
    """How far a pose (18, 2) lies from others, in body sizes; without a joint that both have, the
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
