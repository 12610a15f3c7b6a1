"""Hair as a function of head coordinates: hairline, strands, and hair that hangs off the skull."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.head import ball, on_head, times
from xmdpt_cli.toy.people.paint import Field, Plane, as_planes, limb, trunk, unit
from xmdpt_cli.toy.people.person import Person
from xmdpt_cli.toy.people.pose import HEAD_SIZE, head_axes
from xmdpt_cli.toy.people.stage import Stage

# style -> size of the hair relative to the head, how far it is lifted, lower edge at the back (in
# half-heights of the head)
STYLES: dict[str, tuple[float, float, float]] = {
    "crop": (1.08, 0.05, 0.58),
    "short": (1.17, 0.09, 0.66),
    "bun": (1.10, 0.05, 0.62),
    "ponytail": (1.10, 0.05, 0.62),
    "bob": (1.22, 0.06, 0.85),
    "long": (1.19, 0.06, 0.95),
    "afro": (1.46, 0.12, 0.50),
}


def _strands(person: Person, along: Plane) -> Plane:
    """Brightness of strands, about 1, across which ``along`` (radians) increases."""
    phase = np.float32(person.strands)
    wave = np.sin(along * np.float32(8.0) + phase)
    wave += np.sin(along * np.float32(19.0) + np.float32(2.3) * phase)
    wave *= np.float32(0.13)
    wave += np.float32(1.0)
    return wave


def _hairline(person: Person, hx: Plane) -> Plane:
    """Height of the front edge of the hair at hx, in half-heights of the head (y is down)."""
    side = np.float32(person.parting)
    if person.hair_style == "afro":
        line = -0.26 + 0.30 * hx * hx
    elif person.fringe == "full":
        line = -0.27 + 0.12 * hx * hx
    elif person.fringe == "curtain":
        away = np.abs(hx - 0.35 * side)
        line = np.minimum(-0.78 + 0.80 * away, -0.12 + 0.20 * away)
    elif person.fringe == "swept":
        line = -0.48 + 0.30 * hx * hx + 0.26 * side * hx * (1.0 - 0.5 * hx * hx)
    else:
        line = -0.60 + 0.42 * hx * hx
    phase = np.float32(person.strands)
    line += 0.05 * np.sin(hx * np.float32(11.0) + phase)
    line += 0.03 * np.sin(hx * np.float32(27.0) - phase)
    return line


def render_hair(stage: Stage) -> None:
    """Render the hair on the skull, behind the hairline, from any side."""
    person = stage.person
    thick, lift, nape = STYLES[person.hair_style]
    shape = ball(stage, thick, lift)
    if shape is None:
        return
    field, hx, hy, hz = shape
    ry = HEAD_SIZE[1] * person.body.head * stage.scale * thick
    phase = np.float32(person.strands)
    # where the hair stands off the face, seen from the side, the hairline is higher
    half = min(head_axes(person.body, stage.bones.head_yaw)[:2]) * stage.scale
    off = np.float32(thick - 1.0) - field.inside * np.float32(1.0 / half)
    off = unit(off * np.float32(1.0 / (thick - 1.0))) * unit(4.0 * hz)
    # an uneven outline
    bumps = np.sin(hy * np.float32(9.0) + hx * np.float32(7.0) + phase)
    rough = 0.045 if person.hair_style == "afro" else 0.012 + 0.018 * person.curl
    field.inside += bumps * np.float32(rough * ry)
    field.edge = field.inside
    above = _hairline(person, hx) - hy - np.float32(0.22) * off
    long = person.hair_style in ("bob", "long")
    # at the temples it starts where it stands off the head; it covers the ears, or goes around
    # them to the nape
    temples = np.float32(np.sqrt(1.0 - thick**-2) + 0.03)
    low = np.clip(-3.0 * hz, 1.0 if long else 0.0, 1.0)
    low *= np.float32(nape - 0.06)
    low += 0.06 + 0.04 * np.sin(hx * np.float32(17.0) + phase)
    grown = np.maximum(above, np.minimum(temples - 0.9 * np.maximum(hy, 0.0) - hz, low - hy))
    where = np.clip(grown * np.float32(ry) + 0.5, 0.0, 1.0)
    if person.hair_style == "afro":
        curls = np.sin(hx * np.float32(13.0) + 2.0 * np.sin(hy * np.float32(8.0) + phase))
        curls *= np.sin(hy * np.float32(13.0) + 2.0 * np.sin(hx * np.float32(9.0)) + hz * 6.0)
        strands = 1.0 + 0.20 * curls
    else:  # strands run down from the parting
        strands = _strands(person, np.arctan2(hx - 0.3 * np.float32(person.parting), hz + 0.25))
    gloss = np.clip(1.0 - np.abs(hy + 0.50) * 3.0, 0.0, 1.0)
    toward = field.across * np.float32(np.sign(stage.canvas.light[0]))
    gloss *= np.clip(0.7 + 0.6 * toward - toward * toward, 0.0, 1.0)
    strands *= 1.0 + np.float32(0.30) * gloss
    colour = as_planes(person.hair) * strands
    stage.canvas.model(field, colour, stage.line, where, depth=0.25)


def render_loose_hair(stage: Stage) -> None:
    """Render hair that hangs or stands off the skull: long hair, a ponytail, a bun."""
    person, scale, head = stage.person, stage.scale, stage.person.body.head
    style = person.hair_style
    field: Field | None
    if style in ("long", "bob"):
        drop = 0.105 if style == "bob" else 0.235
        yaw = stage.pose.yaw
        wide = float(np.hypot(0.058 * np.cos(yaw), 0.038 * np.sin(yaw))) * head
        levels = np.array([-0.05, 0.0, 0.05, 0.5 * drop, drop]) * scale
        half = np.array([0.6, 1.0, 1.12, 1.2, 0.95]) * wide * scale
        back = -0.040 * np.sin(yaw) * head * scale
        start = stage.flat(stage.bones.head)
        centre = np.array([0.5, 1.0, 1.0, 1.1, 1.1]) * back
        field = trunk(stage.canvas, start, (0.0, 1.0), levels, centre, half, sag=0.02 * scale)
        if field is not None:
            phase = np.float32(person.strands)
            # waves at the sides, uneven ends
            waves = np.sin(field.along * np.float32(90.0 / scale) + phase)
            field.inside -= (1.0 + waves) * np.float32(0.0035 * person.curl * scale)
            ends = np.sin(field.across * np.float32(9.0) + phase)
            low = np.clip(field.along * np.float32(1.0 / (drop * scale)) - 0.6, 0.0, 1.0)
            field.inside -= (1.0 + ends) * low * np.float32(0.018 * scale)
            field.edge = field.inside
    else:
        spots = {
            "ponytail": ((0, -0.45, -1.05), (0, 0.2, -1.75), (0, 1.4, -1.7)),
            "bun": ((0, -0.95, -0.75),) * 2,
        }
        points = [stage.flat(on_head(stage, *spot)) for spot in spots[style]]
        radii = {"ponytail": [0.016, 0.026, 0.008], "bun": [0.029, 0.029]}[style]
        if style == "bun":
            points[1] = (points[1][0], points[1][1] + 0.1)
        field = limb(stage.canvas, points, [r * head * scale for r in radii])
    _paint(stage, field)


def render_locks(stage: Stage) -> None:
    """Render the hair that falls over the shoulders in front, on the sides that are in view."""
    person, scale = stage.person, stage.scale
    if person.hair_style not in ("long", "bob"):
        return
    end = 0.45 if person.hair_style == "bob" else 1.0
    for side in (-1.0, 1.0):
        spots = (
            (0.98 * side, -0.35, 0.10), (1.16 * side, 0.5, 0.10),
            (1.10 * side, 0.5 + 1.1 * end, 0.25), (0.92 * side, 0.5 + 2.2 * end, 0.55),
        )  # fmt: skip
        points = [on_head(stage, *spot) for spot in spots]
        if points[1][2] < stage.bones.head[2] - 0.015:  # behind the head
            continue
        radii = [r * person.body.head * scale for r in (0.008, 0.015, 0.017, 0.005)]
        _paint(stage, limb(stage.canvas, [stage.flat(p) for p in points], radii))


def _paint(stage: Stage, field: Field | None) -> None:
    if field is not None:
        strands = _strands(stage.person, np.arcsin(field.across))
        colour = as_planes(times(stage.person.hair, 0.92)) * strands
        stage.canvas.model(field, colour, stage.line, depth=0.25)
