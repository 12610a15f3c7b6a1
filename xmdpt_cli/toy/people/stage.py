"""A posed person on a canvas, and the position of the person in the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.toy.people.paint import Canvas, Point
from xmdpt_cli.toy.people.person import Body, Person
from xmdpt_cli.toy.people.pose import Pose, Skeleton, skeleton

Array = NDArray[np.float64]
FOOT_TILT = 0.24  # feet are shown slightly from above: pixels down per pixel to the viewer
TEXTURE_RADIUS = 0.08  # of the trunk, in body heights: converts angles to lengths of cloth


@dataclass
class Stage:
    """A person in a pose on a canvas; ``scale`` in canvas pixels per body height."""

    canvas: Canvas
    person: Person
    pose: Pose
    bones: Skeleton
    scale: float
    origin: Point
    line: float  # width of contours, canvas pixels

    def flat(self, point: Array, tilt: float = 0.0) -> Point:
        """Project a point of the camera frame to canvas pixels."""
        x, y = self.origin
        down = float(point[1] + tilt * point[2])
        return (x + self.scale * float(point[0]), y + self.scale * down)

    @property
    def pixel(self) -> float:
        """The size of a canvas pixel in body heights, with a margin against moire."""
        return 1.4 / self.scale

    def turn(self, x: float, y: float, z: float) -> Array:
        """Rotate a vector of the body frame to the camera frame."""
        c, s = np.cos(self.pose.yaw), np.sin(self.pose.yaw)
        return np.array([c * x + s * z, y, -s * x + c * z])


def frame(person: Person, pose: Pose, height: int, width: int) -> tuple[Skeleton, float, Point]:
    """The skeleton, pixels per body height, and the pixel of the point between the hips."""
    bones = skeleton(person.body, pose)
    joints = bones.joints
    hands = np.concatenate(
        [joints[[4, 7]] + 0.4 * (joints[[4, 7]] - joints[[3, 6]]), joints[[10, 13]]]
    )
    body = np.concatenate([joints[1:14], hands])
    left, right = float(body[:, 0].min()) - 0.05, float(body[:, 0].max()) + 0.05
    top = min(float(bones.head[1]) - 0.085 * person.body.head, float(body[:, 1].min()) - 0.015)
    bottom = float(joints[[10, 13], 1].max()) + 0.052
    scale = height * pose.zoom * person.body.stature
    if pose.is_cropped:  # the upper body fills the image
        x = width * (0.5 + pose.shift[0]) - scale * float(bones.head[0] + joints[1, 0]) / 2
        head_top = float(bones.head[1]) - 0.085 * person.body.head
        return bones, scale, (x, height * (0.075 + pose.shift[1]) - scale * head_top)
    scale = min(scale, 0.955 * height / (bottom - top), 0.96 * width / (right - left))
    middle = width * (0.5 + pose.shift[0]) - scale * float(joints[1, 0]) / 2
    x = float(np.clip(middle, 0.02 * width - scale * left, 0.98 * width - scale * right))
    y = height * (0.965 + pose.shift[1]) - scale * bottom
    return bones, scale, (x, max(y, 0.02 * height - scale * top))


# Levels of the trunk from neck (0) to the line between the hips (1).
LEVELS = np.array([-0.30, -0.19, -0.135, -0.07, 0.03, 0.30, 0.45, 0.62, 0.80, 0.92, 1.02, 1.13])


def profile(body: Body, yaw: float, ease: float = 0.0) -> tuple[Array, Array, float]:
    """Centre and half-width of the trunk at ``LEVELS``, seen at ``yaw``, in body heights.

    The cross-section is an ellipse of half-axes a (across) and b (deep) whose centre sits c in
    front of the spine; turned by yaw, it projects to c sin yaw -+ sqrt(a^2 cos^2 + b^2 sin^2).
    The third value is the angle by which a texture turns. ``ease``: distance of cloth from the
    body.
    """
    s, g = body.shoulders, body.girth
    a = np.array([
        0.025, 0.029, 0.45 * s + 0.012, 0.97 * s, s + 0.010, body.chest * 1.02,
        0.5 * (body.chest + body.waist), body.waist, 0.45 * body.waist + 0.55 * body.hips,
        body.hips, body.hips, body.hips * 0.80,
    ])  # fmt: skip
    fore = np.array([
        0.020, 0.024, 0.032, 0.042, 0.050, 0.054 + body.bust, 0.051 + body.bust, 0.047, 0.050,
        0.049, 0.046, 0.036,
    ]) * (0.4 + 0.6 * g)  # fmt: skip
    back = np.array([
        0.030, 0.034, 0.044, 0.052, 0.056, 0.053, 0.044, 0.040, 0.056, 0.068, 0.064, 0.046,
    ]) * (0.4 + 0.6 * g)  # fmt: skip
    b, c = 0.5 * (fore + back), 0.5 * (fore - back)
    half = np.hypot(a * np.cos(yaw), b * np.sin(yaw)) + ease
    turn = float(np.arctan2(0.68 * np.sin(yaw), np.cos(yaw)))
    return c * np.sin(yaw), half, turn
