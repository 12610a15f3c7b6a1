"""Find the joints of a pose image: they are moved until their rendering matches the image.

The first places follow from the colours: a joint's disc has its colour, and that colour under the
limbs that end there, and no other. Then each joint is moved, left out or placed elsewhere as long
as this brings the rendering closer to the image.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import OPACITY, PALETTE, RADIUS, Manner, Window, render_pose
from xmdpt_cli.pose.keypoints import JOINTS, LIMBS, Keypoints, joint_indices

Place = tuple[float, float]

DARK = 60  # of 255: the brightest channel of rendered pixels is not below this
_SPOT = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RADIUS + 1,) * 2).astype(np.float32)
_LEAST = 0.3  # share of a joint's disc that must have the right colours
_PLACES = 3  # candidates for each joint
_MOST_GAPS = 150  # places that are tried for a joint that was not found by its colours
_REACH = RADIUS + 3  # pixels around joints that a rendering can change
_APART = 50  # of 255: pixels that differ by more are not explained
_POOR = 30  # of 255: a joint around which the rendering differs by more may be misplaced
_KNEE = JOINTS.index("left_knee")  # hands are rendered in its colour
_HAND_DOTS = 1.8  # number of discs of its colour from which on some belong to hands
_BY_HANDS = joint_indices("right_wrist", "left_wrist", "right_hip", "left_hip")
_OF_HANDS = 0.5  # weight of differences where hands are rendered
_FULL = 200  # of 255: limbs that joints are rendered over are darker
_MOST_WORK, _LEAST_PIXELS, _EACH, _LIMIT = 1000, 20_000, 2000, 400_000_000  # of ``Work``
_AROUND = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)

# pairs of joints with similar colours, or that are neighbours
_ALIKE = tuple((joint, joint + 1) for joint in range(len(JOINTS) - 1))
_SWAPS = (*LIMBS, *_ALIKE, (0, 16), (0, 17), (8, 11), (2, 5))

_LIMBS_OF = [[i for i, limb in enumerate(LIMBS) if joint in limb] for joint in range(len(JOINTS))]
_NEIGHBOURS = [sorted({end for i in limbs for end in LIMBS[i]}) for limbs in _LIMBS_OF]


def brightest(image: ImageArray) -> NDArray[np.uint8]:
    """The largest channel of each pixel; several times faster than ``max(axis=2)``."""
    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


class Work:
    """The number of pixels that may still be rendered.

    A pose takes 30 to 500 times the pixels of its image. Without a limit, noise in the colours of
    joints would be searched for minutes.
    """

    def __init__(self, pixels: int) -> None:
        self.left = min(_MOST_WORK * max(pixels, _LEAST_PIXELS), _LIMIT)

    def spend(self, pixels: int) -> bool:
        """Subtract ``pixels``; returns whether any are left."""
        self.left -= pixels + _EACH
        return self.left > 0


def _places(
    image: ImageArray, joint: int, manner: Manner, tolerance: int, work: Work
) -> list[Place]:
    """The places where most of a disc has colours that the joint can have, the best first."""
    rows, columns = np.nonzero(brightest(image) >= DARK)
    pixels = image[rows, columns].astype(np.float32)
    off = np.full(len(pixels), np.inf, dtype=np.float32)
    colours = _disc_colours(joint, manner)
    if not work.spend(len(pixels) * len(colours) // 2):
        return []
    for colour in colours:
        np.minimum(off, np.abs(pixels - colour).max(axis=1), out=off)
    fits = np.zeros(image.shape[:2], dtype=np.float32)
    fits[rows, columns] = off <= tolerance
    count = cv2.filter2D(fits, -1, _SPOT, borderType=cv2.BORDER_CONSTANT)
    found = []
    for _ in range(_PLACES):
        most = count.max()
        if most < _LEAST * _SPOT.sum():
            break
        y, x = np.argwhere(count >= most - 0.5).T
        near = (abs(x - x[0]) <= RADIUS) & (abs(y - y[0]) <= RADIUS)
        x0, y0 = round(float(x[near].mean())), round(float(y[near].mean()))
        found.append((float(x0), float(y0)))
        blot = (slice(max(y0 - 6, 0), y0 + 7), slice(max(x0 - 6, 0), x0 + 7))
        count[blot] = 0
    return found


def _disc_colours(joint: int, manner: Manner) -> list[NDArray[np.float32]]:
    """The joint's colour, and this colour blended under one or more of its limbs in order."""
    colours = [PALETTE[joint]]
    if manner is Manner.BLENDED:
        for over in range(1, len(_LIMBS_OF[joint]) + 1):
            for limbs in itertools.combinations(_LIMBS_OF[joint], over):
                colour = PALETTE[joint]
                for limb in limbs:
                    colour = (1 - OPACITY) * colour + OPACITY * PALETTE[limb]
                colours.append(colour)
    return colours


def hand_pixels(image: ImageArray, tolerance: int) -> NDArray[np.uint8] | None:
    """Where hands are rendered beside a body, uint8 (H, W) of 0 and 1; None if there are none.

    OpenPose's tools render a hand as 21 discs in the colour of the left knee, and thin lines of
    full brightness between them. A knee is one such disc, at the end of a (dimmer) leg.
    """
    dots = _near(image, PALETTE[_KNEE], tolerance)
    if dots.sum() < _HAND_DOTS * _SPOT.sum():
        return None
    legs = np.zeros_like(dots)
    for limb in _LIMBS_OF[_KNEE]:
        legs |= _near(image, OPACITY * PALETTE[limb], tolerance)
    legs = cv2.dilate(legs, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dots, connectivity=8)
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] <= 1.5 * _SPOT.sum() and legs[labels == label].any():
            dots[labels == label] = 0
    full = (brightest(image) >= _FULL).astype(np.uint8)
    thick = cv2.morphologyEx(full, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(dots | (full & (1 - thick)), connectivity=8)
    of_hands = np.unique(labels[dots > 0])
    hands = np.isin(labels, of_hands[of_hands > 0]).astype(np.uint8)
    return np.asarray(cv2.dilate(hands, np.ones((3, 3), np.uint8)), dtype=np.uint8)


def _near(image: ImageArray, colour: NDArray[np.float32], tolerance: int) -> NDArray[np.uint8]:
    low, high = np.maximum(colour - tolerance, 0), np.minimum(colour + tolerance, 255)
    return np.asarray(cv2.inRange(image, low, high) > 0, dtype=np.uint8)


class Search:
    """A pose image of one person, the joints assumed in it, and their rendering.

    ``tolerance``: of 255, the largest difference of a colour. Hands are neither searched nor
    compared.
    """

    def __init__(self, image: ImageArray, manner: Manner, tolerance: int, work: Work) -> None:
        self.image, self.manner, self.work = image, manner, work
        hands = hand_pixels(image, tolerance) if manner is Manner.OPAQUE else None
        self.hands = hands is not None
        shape = image.shape[:2]
        self.counts = np.ones(shape, np.uint8) if hands is None else 1 - hands  # 1: compared
        self.bright = (brightest(image) >= DARK) & (self.counts > 0)
        joints = range(len(JOINTS))
        body = image if hands is None else image * self.counts[..., None]
        self.places = [_places(body, joint, manner, tolerance, work) for joint in joints]
        first = [found[0] if found else (np.nan, np.nan) for found in self.places]
        self.points: Keypoints = np.array(first)
        height, width = image.shape[:2]
        self.rendered = render_pose(self.points, Window(0, 0, width, height), manner)
        self.choose()

    def finish(self) -> None:
        """Place every joint where the rendering is closest to the image."""
        self.move((2, 1))
        self.choose()
        for _ in range(2):
            if not (self.fill_gaps() | self.swap()):
                break
            self.choose()
            self.move((2, 1))
        self.move((1, 0.5))

    def explained(self, tolerance: int, *, hands: bool = False) -> float:
        """The share of the non-black pixels of image and rendering that are equal in both, without
        hands, or with ``hands``, which are never equal."""
        found, given = brightest(self.rendered) >= DARK, brightest(self.image) >= DARK
        if not hands:
            found, given = found & (self.counts > 0), self.bright
        same = brightest(cv2.absdiff(self.rendered, self.image)) <= tolerance
        return float((found & given & same).sum() / max(1, (found | given).sum()))

    def wider(self) -> float:
        """How much wider the image's lines are than those of the rendering, by their areas."""
        rendered = (brightest(self.rendered) >= DARK) & (self.counts > 0)
        return float(self.bright.sum() / max(1, rendered.sum()))

    def improve(self, changes: dict[int, Place | None]) -> bool:
        """Change the places of joints (None: missing) if that brings the rendering closer.

        Returns whether they were changed. A joint that is hidden by others is missing.
        """
        points = self.points.copy()
        for joint, place in changes.items():
            points[joint] = (np.nan, np.nan) if place is None else place
        if np.array_equal(points, self.points, equal_nan=True):
            return False
        near = [self.points[_NEIGHBOURS[joint]] for joint in changes]
        about = np.concatenate((points[list(changes)], *near))
        height, width = self.image.shape[:2]
        low, high = np.nanmin(about, axis=0) - _REACH, np.nanmax(about, axis=0) + _REACH + 1
        left, top = max(int(low[0]), 0), max(int(low[1]), 0)
        right, bottom = min(int(high[0]) + 1, width), min(int(high[1]) + 1, height)
        if left >= right or top >= bottom:
            return False
        if not self.work.spend((right - left) * (bottom - top)):
            return False
        window = (slice(top, bottom), slice(left, right))
        part = render_pose(points, Window(left, top, right, bottom), self.manner)
        after = self._difference(window, part)
        before = self._difference(window, self.rendered[window])
        if after > before or (after == before and None not in changes.values()):
            return False
        self.points = points
        self.rendered[window] = part
        return True

    def _difference(self, window: tuple[slice, slice], part: ImageArray) -> float:
        """The L1 distance of a rendered part from the image, weighted less where hands are."""
        image = self.image[window]
        whole = float(cv2.norm(image, part, cv2.NORM_L1))
        if not self.hands:
            return whole
        body = float(cv2.norm(image, part, cv2.NORM_L1, self.counts[window]))
        return body + _OF_HANDS * (whole - body)

    def choose(self) -> None:
        """Choose the best of its places for every joint, or none."""
        for _ in range(4):
            tried = [
                self.improve({joint: place})
                for joint, found in enumerate(self.places)
                for place in (*found, None)
            ]
            if not any(tried):
                break

    def move(self, steps: tuple[float, ...]) -> None:
        """Move every joint to where the rendering is closest, by ``steps`` (pixels) in turn."""
        for step in steps:
            moving = set(range(len(JOINTS)))
            for _ in range(8):
                moved = {joint for joint in sorted(moving) if self._walk(joint, step)}
                if not moved:
                    break
                moving = moved.union(*(_NEIGHBOURS[joint] for joint in moved))

    def swap(self) -> bool:
        """Exchange the places of similar or neighbouring joints where that is better."""
        swapped = False
        for a, b in _SWAPS:
            if np.isfinite(self.points[[a, b]]).any():
                places = [self._place(b), self._place(a)]
                swapped |= self.improve(dict(zip((a, b), places, strict=True)))
        return swapped

    def _place(self, joint: int, way: tuple[int, int] = (0, 0), step: float = 0.0) -> Place | None:
        """The place of a joint, moved by ``step`` pixels; None if it is missing."""
        x, y = self.points[joint].tolist()
        return (x + way[0] * step, y + way[1] * step) if np.isfinite(x) else None

    def _walk(self, joint: int, step: float) -> bool:
        """Move a joint by steps while that is better; returns whether it was moved."""
        start = self._place(joint)
        if start is None:
            return False
        for way in _AROUND:
            while self.improve({joint: self._place(joint, way, step)}):
                pass
        return self._place(joint) != start

    def fill_gaps(self) -> bool:
        """Place doubtful joints wherever the image differs from the rendering."""
        filled, spot = False, _SPOT / _SPOT.sum()
        for joint in self._doubtful():
            # only these joints may be hidden by hands
            hidden = self.hands and joint in _BY_HANDS
            counts = np.ones_like(self.counts) if hidden else self.counts
            bright = ((brightest(self.image) >= DARK) & (counts > 0)).astype(np.float32)
            full = cv2.filter2D(bright, -1, spot, borderType=cv2.BORDER_REPLICATE) > 0.9
            off = (brightest(cv2.absdiff(self.image, self.rendered)) > _APART) & (counts > 0)
            off = cv2.morphologyEx(off.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
            y, x = np.nonzero(full & (cv2.dilate(off, np.ones((5, 5), np.uint8)) > 0))
            every = max(9, len(x) // _MOST_GAPS)
            for place in zip(x[::every].tolist(), y[::every].tolist(), strict=True):
                filled |= self.improve({joint: place})
        return filled

    def _doubtful(self) -> list[int]:
        """Missing joints, then joints around which the rendering differs from the image."""
        difference = (brightest(cv2.absdiff(self.image, self.rendered)) * self.counts).astype(
            np.float32
        )
        off = cv2.boxFilter(difference, -1, (2 * RADIUS + 1,) * 2)
        height, width = off.shape
        missing, poor = [], []
        for joint, (x, y) in enumerate(self.points.tolist()):
            if x != x:
                missing.append(joint)
            elif off[int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))] > _POOR:
                poor.append(joint)
        return missing + poor
