"""Renders a dressed person: parts from back to front, textures fixed to the body."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.images import ImageArray
from xmdpt_cli.toy.people.hair import render_hair, render_locks, render_loose_hair
from xmdpt_cli.toy.people.head import render_face
from xmdpt_cli.toy.people.limbs import render_arm
from xmdpt_cli.toy.people.paint import LIGHT, Canvas, Point
from xmdpt_cli.toy.people.person import Person
from xmdpt_cli.toy.people.pose import Pose, Skeleton
from xmdpt_cli.toy.people.stage import Stage, frame
from xmdpt_cli.toy.people.trunk import render_trunk_and_legs

MIN_RENDERED = 256  # px: smaller images are rendered at least this high, then averaged


@dataclass(frozen=True)
class Rendering:
    """``image`` (H, W, 3) uint8; ``keypoints`` (18, 2) x, y in pixels, NaN missing;
    ``silhouette`` (H, W) bool, where the person is."""

    image: ImageArray
    keypoints: NDArray[np.float64]
    silhouette: NDArray[np.bool_]


def render_person(
    person: Person,
    pose: Pose,
    *,
    height: int = 256,
    background: float = 0.93,
    light: float = LIGHT,
    joints: Skeleton | None = None,
) -> Rendering:
    """Render at ``height`` x round(height * 11 / 16) on an even grey; ``light`` as of Canvas.

    ``joints``: instead of those of the pose, at the scale and place that the pose has in the image.
    """
    width = round(height * 11 / 16)
    bones, scale, origin = frame(person, pose, height, width)
    bones = joints or bones
    fine = -(-MIN_RENDERED // height)
    canvas = Canvas(height * fine, width * fine, (background, background, background), light)
    stage = Stage(
        canvas, person, pose, bones,
        scale * fine, (origin[0] * fine, origin[1] * fine),
        line=max(1.0, 0.0045 * scale * fine),
    )  # fmt: skip
    if not pose.is_cropped:
        _shadow(stage)
    _paint(stage)
    planes = (*canvas.rgb, canvas.cover)
    if fine > 1:
        planes = tuple(
            cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in planes
        )
    *colours, cover = planes
    keypoints = bones.joints[:, :2] * scale + np.array(origin)
    out = (keypoints < 0).any(1) | (keypoints[:, 0] >= width) | (keypoints[:, 1] >= height)
    keypoints[out | ~bones.seen] = np.nan
    # cv2 rounds and saturates
    small = cv2.merge(colours)
    image = cv2.convertScaleAbs(small, alpha=255.0)
    return Rendering(image, keypoints, cover >= 0.5)


def _shadow(stage: Stage) -> None:
    """Render the shadow on the floor: faint around the person, darker under the feet, away from
    the light. It is no part of the silhouette."""
    ankles, scale = stage.bones.joints[[10, 13]], stage.scale
    away = -0.03 * float(np.sign(stage.canvas.light[0])) * scale
    x, _ = stage.flat(ankles.mean(axis=0))
    floor = stage.flat(ankles[np.argmax(ankles[:, 1])])[1] + 0.030 * scale
    rx = (0.09 + 0.5 * abs(float(ankles[0, 0] - ankles[1, 0]))) * scale
    _ellipse(stage.canvas, (x + away, floor), (rx, 0.030 * scale), 0.13)
    for ankle in ankles:
        x, y = stage.flat(ankle)
        y = max(y + 0.034 * scale, floor - 0.012 * scale)
        _ellipse(stage.canvas, (x + 0.3 * away, y), (0.052 * scale, 0.014 * scale), 0.30)


def _ellipse(canvas: Canvas, centre: Point, radii: Point, strength: float) -> None:
    """Darken the canvas in an ellipse, by ``strength`` in its middle."""
    (x, y), (rx, ry) = centre, radii
    window = canvas.window((x - rx, y - ry), (x + rx, y + ry))
    if window is not None:
        rows, columns, px, py = window
        dx, dy = (px - np.float32(x)) / np.float32(rx), (py - np.float32(y)) / np.float32(ry)
        share = np.maximum(1.0 - dx * dx - dy * dy, 0.0)
        canvas.rgb[:, rows, columns] *= 1.0 - np.float32(strength) * share


def _paint(stage: Stage) -> None:
    """Render from back to front: far hair, far arms, legs, clothes, head, near arms."""
    joints = stage.bones.joints
    # an arm lies behind the trunk when its lower half does
    depth = [float(joints[i + 1, 2] + joints[i + 2, 2] - joints[1, 2]) for i in (2, 5)]
    arms = sorted((d, side) for side, d in enumerate(depth))
    loose = stage.person.hair_style in ("long", "bob", "ponytail", "bun")
    hair_behind = np.cos(stage.bones.head_yaw) > 0.1
    if loose and hair_behind:
        render_loose_hair(stage)
    for d, side in arms:
        if d < 0:
            render_arm(stage, side, near=False)
    render_trunk_and_legs(stage)
    render_face(stage)
    if loose and not hair_behind:
        render_loose_hair(stage)
    render_hair(stage)
    render_locks(stage)
    for d, side in arms:
        if d >= 0:
            render_arm(stage, side, near=True)
