"""The head: an ellipsoid. The face is a function of head coordinates and turns with it."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.outfit import Colour
from xmdpt_cli.toy.people.paint import Field, Plane, limb, unit
from xmdpt_cli.toy.people.pose import HEAD_SIZE, head_axes
from xmdpt_cli.toy.people.stage import Array, Stage

WHITE, IRIS, LIPS = (0.97, 0.97, 0.97), (0.16, 0.12, 0.10), (0.74, 0.26, 0.28)


def times(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def ball(stage: Stage, grow: float, lift: float = 0.0) -> tuple[Field, Plane, Plane, Plane] | None:
    """The ellipsoid of the head, scaled by ``grow``: (field, x, y, z in head coordinates).

    None if it is outside the image.
    """
    rx, ry, _ = head_axes(stage.person.body, stage.bones.head_yaw)
    rx, ry = rx * grow * stage.scale, ry * grow * stage.scale
    cx, cy = stage.flat(stage.bones.head)
    cy -= lift * ry
    reach = 1.25 * max(rx, ry)
    window = stage.canvas.window((cx - reach, cy - reach), (cx + reach, cy + reach))
    if window is None:
        return None
    rows, columns, x, y = window
    c, s = np.float32(np.cos(stage.pose.head_roll)), np.float32(np.sin(stage.pose.head_roll))
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    px, py = (c * dx + s * dy) / np.float32(rx), (c * dy - s * dx) / np.float32(ry)
    low = np.maximum(py, 0.0)
    if grow == 1.0:
        px = px * (1.0 + np.float32(0.24) * low * low)  # the jaw is narrower
    radius = np.sqrt(px * px + py * py)
    depth = np.sqrt(np.maximum(1.0 - radius * radius, 0.0))
    cos, sin = np.float32(np.cos(stage.bones.head_yaw)), np.float32(np.sin(stage.bones.head_yaw))
    inside = (1.0 - radius) * np.float32(min(rx, ry))
    lx, ly = stage.canvas.light
    px = np.clip(px, -1.0, 1.0)
    lit = px * np.float32(lx) + np.clip(py, -1.0, 1.0) * np.float32(ly)
    field = Field(rows, columns, inside, px, py, inside, lit)
    return field, cos * px - sin * depth, py, sin * px + cos * depth


def _spot(
    x: Plane, y: Plane, at: tuple[float, float], size: tuple[float, float], sharp: float
) -> Plane:
    """Coverage [0, 1] of an antialiased ellipse in head coordinates; ``sharp``: pixels per unit."""
    dx = (x - np.float32(at[0])) * np.float32(1.0 / size[0])
    dy = (y - np.float32(at[1])) * np.float32(1.0 / size[1])
    dx *= dx
    dx += dy * dy
    np.sqrt(dx, out=dx)
    dx *= np.float32(-min(size) * sharp)
    dx += np.float32(min(size) * sharp + 0.5)
    return unit(dx)


def render_face(stage: Stage) -> None:
    """Render ears, head and nose, and the face where it is turned to the viewer."""
    shape = ball(stage, 1.0)
    if shape is None:
        return
    field, hx, hy, hz = shape
    skin, line = stage.person.skin, stage.line
    _ears(stage)
    stage.canvas.model(field, skin, line, depth=0.12)
    ry = HEAD_SIZE[1] * stage.person.body.head * stage.scale
    _nose(stage)
    if np.cos(stage.bones.head_yaw) < -0.6:
        return
    front = np.clip(hz * 12.0, 0.0, 1.0)
    blush = _spot(hx, hy, (-0.5, 0.32), (0.26, 0.2), 3.0) + _spot(
        hx, hy, (0.5, 0.32), (0.26, 0.2), 3.0
    )
    stage.canvas.put(field, (0.93, 0.45, 0.42), 0.22 * front * blush)
    brow = times(stage.person.hair, 0.7)
    woman = stage.person.woman
    if stage.person.beard > 0:
        _beard(stage, field, hx, hy, hz, ry)
    for side in (-0.39, 0.39):
        stage.canvas.put(field, WHITE, front * _spot(hx, hy, (side, -0.03), (0.22, 0.125), ry))
        stage.canvas.put(field, IRIS, front * _spot(hx, hy, (side, -0.03), (0.12, 0.135), ry))
        lash = _spot(hx, hy, (side, -0.15), (0.245, 0.05), ry)
        stage.canvas.put(field, IRIS, front * lash * (1.0 if woman else 0.7))
        tall = 0.042 if woman else 0.062
        stage.canvas.put(field, brow, front * _spot(hx, hy, (side, -0.31), (0.25, tall), ry))
    wide, full = (0.26, 0.10) if woman else (0.27, 0.075)
    lips = LIPS if woman else times(_mixed(stage.person.skin, LIPS, 0.45), 0.8)
    stage.canvas.put(field, lips, front * _spot(hx, hy, (0.0, 0.54), (wide, full), ry))
    stage.canvas.put(
        field, times(lips, 0.5), 0.8 * front * _spot(hx, hy, (0.0, 0.53), (wide, 0.022), ry)
    )


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    a, b, c = (x + share * (y - x) for x, y in zip(first, second, strict=True))
    return (a, b, c)


def _beard(stage: Stage, field: Field, hx: Plane, hy: Plane, hz: Plane, ry: float) -> None:
    """Render the beard: from the ears along the jaw, over the chin and the upper lip."""
    person = stage.person
    below = hy - np.float32(0.37) + np.float32(0.34) * hx * hx
    # in profile it ends at the jaw, which rises towards the ear
    below = np.minimum(below, 1.6 * (hz + np.float32(0.12)) - 0.8 * np.maximum(hy, 0.0))
    below += 0.03 * np.sin(hx * np.float32(15.0) + np.float32(person.strands))
    share = unit(below * np.float32(ry * 0.4) + np.float32(0.3))
    stage.canvas.put(field, times(person.hair, 0.8), np.float32(person.beard) * share)


def _ears(stage: Stage) -> None:
    body = stage.person.body
    for joint in (16, 17):
        if stage.bones.seen[joint]:
            point = stage.flat(stage.bones.joints[joint])
            r = 0.013 * body.head * stage.scale
            field = limb(stage.canvas, [point, (point[0], point[1] + 0.5 * r)], [r, 0.8 * r])
            if field is not None:
                stage.canvas.model(field, times(stage.person.skin, 0.94), stage.line)


def _nose(stage: Stage) -> None:
    """Render the nose: a shadow from the front, a profile from the side."""
    if not stage.bones.seen[0]:
        return
    tip = np.array(stage.flat(stage.bones.joints[0]))
    middle = np.array(stage.flat(stage.bones.head))
    r = 0.008 * stage.person.body.head * stage.scale
    root = tip + np.array([0.12 * (middle[0] - tip[0]), -1.6 * r])
    field = limb(stage.canvas, [(root[0], root[1]), (tip[0], tip[1])], [0.4 * r, r])
    if field is not None:
        turned = abs(float(np.sin(stage.bones.head_yaw)))
        stage.canvas.put(field, times(stage.person.skin, 0.84 + 0.10 * turned))


def on_head(stage: Stage, x: float, y: float, z: float) -> Array:
    """The point of the camera frame at (x, y, z) of the head, in its half-axes."""
    c, s = np.cos(stage.bones.head_yaw), np.sin(stage.bones.head_yaw)
    rx, ry, rz = (r * stage.person.body.head for r in HEAD_SIZE)
    return stage.bones.head + np.array([c * x * rx + s * z * rz, y * ry, c * z * rz - s * x * rx])
