"""A pose: a 3-D skeleton turned about the vertical axis and projected.

Body frame (x to the person's left, y down, z forward), in body heights, origin between the
hips; seen from the front the person's right is on the left of the image. Camera frame: x to
the right of the image, y down, z towards the viewer. The 18 joints are in the order nose,
neck, Rsho, Relb, Rwri, Lsho, Lelb, Lwri, Rhip, Rkne, Rank, Lhip, Lkne, Lank, Reye, Leye,
Rear, Lear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.toy.people.person import Body

Array = NDArray[np.float64]
Vector = tuple[float, float, float]

VIEWS = ("1_front", "2_side", "3_back", "4_full", "7_additional")
NOSE, NECK, HEAD_SIZE = 0, 1, (0.045, 0.064, 0.052)  # head: half-axes x, y, z
REYE, LEYE, REAR, LEAR = 14, 15, 16, 17
# Places of the five head joints in head coordinates, in half-axes of the head.
FACE: tuple[tuple[int, Vector], ...] = (
    (NOSE, (0.0, 0.20, 1.02)),
    (REYE, (-0.38, -0.06, 0.90)),
    (LEYE, (0.38, -0.06, 0.90)),
    (REAR, (-0.98, 0.08, -0.10)),
    (LEAR, (0.98, 0.08, -0.10)),
)
# Smallest sine of the angle of a head joint's outward normal at which the joint is annotated.
HIDDEN = {NOSE: -0.05, REYE: 0.10, LEYE: 0.10, REAR: -0.45, LEAR: -0.45}


@dataclass(frozen=True)
class Arm:
    """An arm whose wrist is at ``offset`` (outward, down, forward) from ``anchor``, if in reach."""

    anchor: str  # shoulder, hip, head, chest
    offset: Vector
    pole: Vector  # the side to which the elbow points: outward, down, forward


@dataclass(frozen=True)
class Leg:
    """Radians: ``spread`` outward, ``lift`` forward, ``bend`` of the knee backward."""

    spread: float
    lift: float
    bend: float


@dataclass(frozen=True)
class Pose:
    """``yaw`` 0 is seen from the front, +90 degrees looks to the right of the image."""

    yaw: float
    head_yaw: float
    head_roll: float
    lean: tuple[float, float]  # of the spine: sideways, forward
    arms: tuple[Arm, Arm]  # right, left
    legs: tuple[Leg, Leg]
    zoom: float  # of the frame's height; see ``is_cropped``
    shift: tuple[float, float]  # of the frame's width and height

    @property
    def is_cropped(self) -> bool:
        """Whether only the upper body is inside the image."""
        return self.zoom > 1.2


def _arm(rng: np.random.Generator) -> Arm:
    def near(*values: float, spread: float = 0.02) -> Vector:
        x, y, z = (float(v + rng.uniform(-spread, spread)) for v in values)
        return (x, y, z)

    kinds = ("down", "hip", "out", "up", "head", "front", "chin", "back", "forward")
    kind = rng.choice(kinds, p=(0.33, 0.20, 0.09, 0.08, 0.06, 0.11, 0.03, 0.05, 0.05))
    if kind == "down":
        return Arm("shoulder", near(0.05, 0.29, 0.01, spread=0.035), (0.4, 0.0, -1.0))
    if kind == "hip":
        return Arm("hip", near(0.035, -0.065, 0.02, spread=0.012), (1.0, 0.0, -0.25))
    if kind == "out":
        return Arm("shoulder", near(0.23, 0.08, 0.0, spread=0.09), (0.0, 1.0, -0.2))
    if kind == "up":
        return Arm("shoulder", near(0.10, -0.25, 0.02, spread=0.06), (1.0, 0.0, 0.1))
    if kind == "head":
        return Arm("head", near(0.045, -0.04, -0.02, spread=0.01), (1.0, -0.3, 0.0))
    if kind == "front":
        return Arm("chest", near(-0.01, 0.10, 0.105, spread=0.03), (0.9, 0.5, -0.2))
    if kind == "chin":
        return Arm("head", near(0.005, 0.09, 0.075, spread=0.008), (0.5, 1.0, 0.0))
    if kind == "back":
        return Arm("hip", near(-0.04, -0.04, -0.09, spread=0.015), (1.0, 0.0, -0.2))
    return Arm("shoulder", near(0.05, 0.12, 0.22, spread=0.05), (0.3, 1.0, 0.0))


def _legs(rng: np.random.Generator) -> tuple[Leg, Leg]:
    def turn(low: float, high: float) -> float:
        return float(np.deg2rad(rng.uniform(low, high)))

    kind = rng.choice(
        ("stand", "wide", "walk", "cross", "relax", "kick"), p=(0.2, 0.2, 0.24, 0.12, 0.16, 0.08)
    )
    if kind == "stand":
        pair = (Leg(turn(0, 4), turn(-2, 4), turn(0, 5)), Leg(turn(0, 4), turn(-2, 4), turn(0, 5)))
    elif kind == "wide":
        pair = (
            Leg(turn(7, 17), turn(-3, 5), turn(0, 5)),
            Leg(turn(7, 17), turn(-3, 5), turn(0, 5)),
        )
    elif kind == "walk":
        pair = (
            Leg(turn(0, 4), turn(12, 26), turn(2, 14)),
            Leg(turn(0, 4), turn(-16, -6), turn(10, 30)),
        )
    elif kind == "cross":
        pair = (
            Leg(turn(-9, -5), turn(4, 9), turn(2, 8)),
            Leg(turn(-7, -3), turn(-4, 1), turn(0, 4)),
        )
    elif kind == "relax":
        pair = (
            Leg(turn(8, 16), turn(10, 20), turn(20, 34)),
            Leg(turn(-2, 3), turn(-2, 2), turn(0, 3)),
        )
    else:
        pair = (
            Leg(turn(0, 8), turn(8, 28), turn(55, 85)),
            Leg(turn(-2, 3), turn(-2, 2), turn(0, 3)),
        )
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _yaw(rng: np.random.Generator, view: str) -> float:
    side = 1.0 if rng.random() < 0.5 else -1.0
    ranges = {
        "1_front": (0.0, 22.0),
        "2_side": (55.0, 92.0),
        "3_back": (152.0, 180.0),
        "4_full": (10.0, 50.0),
        "7_additional": (0.0, 150.0),
    }
    return side * float(np.deg2rad(rng.uniform(*ranges[view])))


def make_pose(rng: np.random.Generator, view: str, *, full_body: bool = False) -> Pose:
    """Sample a pose for one of the view names.

    One in seven shows the upper body only, but never 4_full, and none with ``full_body``.
    """
    crop = view != "4_full" and bool(rng.random() < 0.14) and not full_body
    return Pose(
        yaw=_yaw(rng, view),
        head_yaw=float(np.deg2rad(rng.uniform(-28, 28))),
        head_roll=float(np.deg2rad(rng.uniform(-9, 9))),
        lean=(float(np.deg2rad(rng.uniform(-6, 6))), float(np.deg2rad(rng.uniform(-3, 5)))),
        arms=(_arm(rng), _arm(rng)),
        legs=_legs(rng),
        zoom=float(rng.uniform(1.45, 1.8) if crop else rng.uniform(0.88, 0.95)),
        shift=(float(rng.uniform(-0.07, 0.07)), float(rng.uniform(-0.012, 0.012))),
    )


@dataclass(frozen=True)
class Skeleton:
    """Camera-frame positions in body heights; ``seen`` is False for head joints turned away."""

    joints: Array  # (18, 3)
    seen: NDArray[np.bool_]  # (18,)
    head: Array  # (3,) centre of the head
    head_yaw: float


def reach(
    start: Array, target: Array, pole: Array, upper: float, lower: float
) -> tuple[Array, Array]:
    """Two-link inverse kinematics: (elbow, wrist), with the wrist as near to the target as
    possible."""
    line = target - start
    distance = float(np.linalg.norm(line))
    unit = line / distance
    distance = float(np.clip(distance, abs(upper - lower) + 0.02, 0.995 * (upper + lower)))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    off = pole - (pole @ unit) * unit
    off /= np.linalg.norm(off)
    elbow = start + along * unit + np.sqrt(max(upper**2 - along**2, 0.0)) * off
    return elbow, start + distance * unit


def turned(points: Array, yaw: float) -> Array:
    """Rotate points (..., 3) about the vertical: +90 degrees turns forward (z) to the right (x)."""
    c, s = np.cos(yaw), np.sin(yaw)
    x, z = points[..., 0], points[..., 2]
    return np.stack([c * x + s * z, points[..., 1], -s * x + c * z], axis=-1)


def head_axes(body: Body, yaw: float) -> Vector:
    """Half-width, half-height and half-depth of the head as seen when it is turned by ``yaw``."""
    x, y, z = HEAD_SIZE
    c, s = np.cos(yaw), np.sin(yaw)
    return (body.head * float(np.hypot(x * c, z * s)), body.head * y, body.head * z)


def skeleton(body: Body, pose: Pose) -> Skeleton:
    """The joints of a body in a pose, in the camera frame."""
    joints = np.zeros((18, 3))
    sideways, forward = pose.lean
    up = np.array([np.sin(sideways), -np.cos(sideways) * np.cos(forward), np.sin(forward)])
    across = np.array([np.cos(sideways), np.sin(sideways), 0.0])
    neck = body.torso * up
    joints[NECK] = neck
    head = neck + np.array([0.3 * up[0] * 0.1, -0.066 - 0.058 * body.head, 0.012])
    anchors = {"head": head, "chest": 0.78 * neck}
    for side, first_arm, first_leg, arm, leg in zip(
        (-1.0, 1.0), (2, 5), (8, 11), pose.arms, pose.legs, strict=True
    ):
        shoulder = neck + side * body.shoulders * across
        hip = np.array([side * 0.62 * body.hips, 0.0, 0.0])
        rim = np.array([side * body.hips, 0.0, 0.0])
        anchor = {**anchors, "shoulder": shoulder, "hip": rim}[arm.anchor]
        mirror = np.array([side, 1.0, 1.0])
        target = anchor + mirror * np.array(arm.offset)
        elbow, wrist = reach(shoulder, target, mirror * np.array(arm.pole), *body.arm)
        joints[first_arm : first_arm + 3] = shoulder, elbow, wrist
        spread, lift, below = leg.spread, leg.lift, leg.lift - leg.bend
        thigh = np.array(
            [side * np.sin(spread), np.cos(spread) * np.cos(lift), np.cos(spread) * np.sin(lift)]
        )
        shin = np.array(
            [
                side * np.sin(spread) * 0.8,
                np.cos(spread) * np.cos(below),
                np.cos(spread) * np.sin(below),
            ]
        )
        knee = hip + body.leg[0] * thigh
        joints[first_leg : first_leg + 3] = (
            hip,
            knee,
            knee + body.leg[1] * shin / np.linalg.norm(shin),
        )
    joints = turned(joints, pose.yaw)
    head = turned(head, pose.yaw)
    seen = np.ones(18, dtype=bool)
    head_yaw = pose.yaw + pose.head_yaw * abs(np.cos(pose.yaw))
    c, s = np.cos(pose.head_roll), np.sin(pose.head_roll)
    for joint, spot in FACE:
        point = turned(np.array(spot), head_yaw)
        outward = point[2] / np.hypot(point[0], point[2])
        seen[joint] = outward > HIDDEN[joint]
        x, y, z = point * np.array(head_axes(body, head_yaw))
        joints[joint] = head + np.array([c * x - s * y, s * x + c * y, z])
    return Skeleton(joints, seen, head, head_yaw)
