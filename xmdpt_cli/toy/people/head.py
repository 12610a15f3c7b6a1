"""The head: an ellipsoid. Face and hair are functions of head coordinates and turn with it."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.paint import Field, Plane, as_planes, limb, trunk, unit
from xmdpt_cli.toy.people.person import Colour
from xmdpt_cli.toy.people.pose import HEAD_SIZE, head_axes
from xmdpt_cli.toy.people.stage import Array, Stage

# style -> size of the hair relative to the head; hairline and lower edge at the back, in
# half-heights of the head
STYLES: dict[str, tuple[float, float, float]] = {
    "crop": (1.05, -0.50, 0.30),
    "short": (1.12, -0.46, 0.50),
    "bun": (1.07, -0.48, 0.42),
    "ponytail": (1.07, -0.48, 0.42),
    "bob": (1.15, -0.42, 0.80),
    "long": (1.13, -0.46, 0.90),
    "afro": (1.42, -0.30, 0.35),
}
WHITE, IRIS, LIPS = (0.97, 0.97, 0.97), (0.16, 0.12, 0.10), (0.74, 0.26, 0.28)


def _times(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _ball(stage: Stage, grow: float, lift: float = 0.0) -> tuple[Field, Plane, Plane, Plane] | None:
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
    field = Field(rows, columns, inside, np.clip(px, -1, 1), py, inside)
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
    ball = _ball(stage, 1.0)
    if ball is None:
        return
    field, hx, hy, hz = ball
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
    brow = _times(stage.person.hair, 0.8)
    for side in (-0.38, 0.38):
        stage.canvas.put(field, WHITE, front * _spot(hx, hy, (side, -0.04), (0.20, 0.105), ry))
        stage.canvas.put(field, IRIS, front * _spot(hx, hy, (side, -0.04), (0.105, 0.115), ry))
        lash = _spot(hx, hy, (side, -0.15), (0.22, 0.035), ry)
        stage.canvas.put(field, IRIS, front * lash * (1.0 if stage.person.woman else 0.6))
        tall = 0.03 if stage.person.woman else 0.045
        stage.canvas.put(field, brow, front * _spot(hx, hy, (side, -0.29), (0.22, tall), ry))
    wide, full = (0.21, 0.075) if stage.person.woman else (0.22, 0.05)
    lips = LIPS if stage.person.woman else _times(skin, 0.62)
    stage.canvas.put(field, lips, front * _spot(hx, hy, (0.0, 0.53), (wide, full), ry))


def _ears(stage: Stage) -> None:
    body = stage.person.body
    for joint in (16, 17):
        if stage.bones.seen[joint]:
            point = stage.flat(stage.bones.joints[joint])
            r = 0.013 * body.head * stage.scale
            field = limb(stage.canvas, [point, (point[0], point[1] + 0.5 * r)], [r, 0.8 * r])
            if field is not None:
                stage.canvas.model(field, _times(stage.person.skin, 0.94), stage.line)


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
        stage.canvas.put(field, _times(stage.person.skin, 0.90 + 0.06 * turned))


def render_hair(stage: Stage) -> None:
    """Render the hair on the skull, behind the hairline, from any side."""
    thick, hairline, nape = STYLES[stage.person.hair_style]
    ball = _ball(stage, thick, 0.10 if stage.person.hair_style == "afro" else 0.03)
    if ball is None:
        return
    field, hx, hy, hz = ball
    ry = HEAD_SIZE[1] * stage.person.body.head * stage.scale * thick
    long = stage.person.hair_style in ("bob", "long")
    sweep = 0.22 if stage.person.woman else 0.10
    # the hairline comes down at the temples, and is swept to one side
    above = np.float32(hairline) + np.float32(0.34) * hx * hx - hy
    above += np.float32(sweep) * hx * (1.0 - hx * hx)
    behind = np.float32(0.24 if long else 0.10) - 0.25 * np.maximum(hy, 0.0) - hz
    grown = np.maximum(above, np.minimum(behind, np.float32(nape) - 0.3 * hx * hx - hy))
    where = np.clip(grown * np.float32(ry) + 0.5, 0.0, 1.0)
    gloss = np.clip(1.0 - np.abs(hy + 0.45) * 4.0, 0.0, 1.0) * np.clip(0.6 - hx * hx, 0.0, 1.0)
    colour = as_planes(stage.person.hair) * (1.0 + 0.35 * gloss)
    stage.canvas.model(field, colour, stage.line, where, depth=0.25)


def render_loose_hair(stage: Stage) -> None:
    """Render hair that hangs or stands off the skull: long hair, a ponytail, a bun."""
    style, hair = stage.person.hair_style, stage.person.hair
    scale, head = stage.scale, stage.person.body.head
    field: Field | None
    if style in ("long", "bob"):
        drop = 0.105 if style == "bob" else 0.235
        yaw = stage.pose.yaw
        wide = float(np.hypot(0.056 * np.cos(yaw), 0.036 * np.sin(yaw))) * head
        levels = np.array([-0.05, 0.0, 0.05, 0.5 * drop, drop]) * scale
        half = np.array([0.6, 1.0, 1.08, 1.12, 0.84]) * wide * scale
        back = -0.040 * np.sin(yaw) * head * scale
        start = stage.flat(stage.bones.head)
        centre = np.array([0.5, 1.0, 1.0, 1.1, 1.1]) * back
        field = trunk(stage.canvas, start, (0.0, 1.0), levels, centre, half, sag=0.02 * scale)
    else:
        spots = {
            "ponytail": ((0, -0.45, -1.05), (0, 0.2, -1.75), (0, 1.4, -1.7)),
            "bun": ((0, -0.95, -0.75),) * 2,
        }
        points = [stage.flat(_on_head(stage, *spot)) for spot in spots[style]]
        radii = {"ponytail": [0.016, 0.024, 0.008], "bun": [0.027, 0.027]}[style]
        if style == "bun":
            points[1] = (points[1][0], points[1][1] + 0.1)
        field = limb(stage.canvas, points, [r * head * scale for r in radii])
    if field is not None:
        stage.canvas.model(field, hair, stage.line, depth=0.25)


def _on_head(stage: Stage, x: float, y: float, z: float) -> Array:
    c, s = np.cos(stage.bones.head_yaw), np.sin(stage.bones.head_yaw)
    rx, ry, rz = (r * stage.person.body.head for r in HEAD_SIZE)
    return stage.bones.head + np.array([c * x * rx + s * z * rz, y * ry, c * z * rz - s * x * rx])
