"""Arms and legs with sleeves, trouser legs, boots and shoes."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.cloth import folds, weave
from xmdpt_cli.toy.people.outfit import Cloth
from xmdpt_cli.toy.people.paint import Field, Plane, Point, limb
from xmdpt_cli.toy.people.stage import FOOT_TILT, Array, Stage


def wrap(
    stage: Stage,
    field: Field,
    cloth: Cloth,
    radius: float,
    turn: float | None = None,
    start: float = 0.0,
) -> Plane:
    """The colour of the cloth on a shape: u is the angle around it, v the length along it from
    ``start``."""
    v = field.along * np.float32(1.0 / stage.scale) + np.float32(start)
    u = np.arcsin(field.across)
    if turn is not None:
        u -= np.float32(turn)
        if abs(turn) > np.pi / 2:  # back into [-pi, pi]
            round_trip = np.float32(np.copysign(2 * np.pi, turn))
            np.add(u, round_trip, out=u, where=np.abs(u) > np.float32(np.pi))
    u *= np.float32(radius)
    return weave(cloth, u, v, stage.pixel, front=turn is not None) * folds(cloth, u, v)


def _chain(points: list[Point], length: float) -> list[Point]:
    """The first ``length`` segments of a polyline (1.5: one and a half)."""
    full = int(length)
    if full >= len(points) - 1:
        return points
    (ax, ay), (bx, by) = points[full], points[full + 1]
    part = length - full
    return [*points[: full + 1], (ax + part * (bx - ax), ay + part * (by - ay))]


def _radii(radii: list[float], length: float, ease: float, scale: float) -> list[float]:
    cut = [
        float(np.interp(t, range(len(radii)), radii))
        for t in (*range(int(np.ceil(length))), length)
    ]
    return [(r + ease) * scale for r in cut]


def render_arm(stage: Stage, side: int, *, near: bool) -> None:
    """Render the right (0) or left (1) arm; ``near``: in front of the trunk, which it shades."""
    person, scale, g = stage.person, stage.scale, stage.person.body.girth
    shoulder, elbow, wrist = (
        stage.flat(p) for p in stage.bones.joints[2 + 3 * side : 5 + 3 * side]
    )
    radii = [0.0235 * g, 0.020 * g, 0.0145 * g]
    points = [shoulder, elbow, wrist]
    sleeves = None
    root = 0.055 * scale
    cloth, sleeve, ease = person.top, person.sleeve, 0.004
    if person.jacket is not None:
        cloth, sleeve, ease = person.jacket, 1.9, 0.008
    # below a long sleeve only the wrist is rendered
    bare = (points[1:], radii[1:]) if sleeve > 1.5 else (points, radii)
    field = limb(stage.canvas, bare[0], [r * scale for r in bare[1]])
    if sleeve > 0:
        cut = _chain(points, sleeve)
        sleeves = limb(stage.canvas, cut, _radii(radii, sleeve, ease, scale), flat_end=True)
    if near:
        for shape in (field, sleeves):
            if shape is not None:
                stage.canvas.shadow(shape, 0.014 * scale, 0.20)
    _hand(stage, elbow, wrist)
    if field is not None:
        stage.canvas.model(field, person.skin, stage.line, fade=root)
    if sleeves is not None:
        stage.canvas.model(sleeves, wrap(stage, sleeves, cloth, 0.03), stage.line, fade=root)


def _hand(stage: Stage, elbow: Point, wrist: Point) -> None:
    scale = stage.scale
    along = np.array(wrist) - np.array(elbow)
    unit = along / max(float(np.hypot(*along)), 0.05 * scale)
    palm, tip = (np.array(wrist) + unit * r * scale for r in (0.022, 0.055))
    points = [wrist, (palm[0], palm[1]), (tip[0], tip[1])]
    field = limb(stage.canvas, points, [r * scale for r in (0.013, 0.0165, 0.008)])
    if field is not None:
        stage.canvas.model(field, stage.person.skin, stage.line)


def leg_radii(stage: Stage) -> list[float]:
    body = stage.person.body
    return [0.37 * body.hips + 0.005, 0.0285 * body.girth, 0.0165 * body.girth]


def render_leg(stage: Stage, side: int) -> None:
    person, scale = stage.person, stage.scale
    hip, knee, ankle = stage.bones.joints[8 + 3 * side : 11 + 3 * side]
    points = [stage.flat(p) for p in (hip, knee, ankle)]
    radii = leg_radii(stage)
    calf = knee + 0.32 * (ankle - knee)
    shape = [points[0], points[1], stage.flat(calf), points[2]]
    swell = [radii[0], radii[1], radii[1] * 1.05, radii[2]]
    if person.bottom_kind == "trousers":
        shape, swell = shape[2:], swell[2:]
    _foot(stage, knee, ankle)
    field = limb(stage.canvas, shape, [r * scale for r in swell])
    if field is not None:
        stage.canvas.model(field, person.skin, stage.line)
    if person.boot > 0:
        top = ankle + person.boot * (knee - ankle)
        boot = limb(
            stage.canvas, [stage.flat(ankle), stage.flat(top)],
            [(radii[2] + 0.006) * scale, (radii[1] * 1.02 + 0.005) * scale], flat_end=True,
        )  # fmt: skip
        if boot is not None:
            stage.canvas.model(boot, person.shoes, stage.line)
    if person.bottom_kind in ("trousers", "shorts"):
        loose = 0.020 if person.bottom_kind == "shorts" else 0.009
        wide = [
            radii[0],
            radii[1] + loose,
            radii[2] + 0.010 + 0.022 * person.flare * (person.boot == 0),
        ]
        length = person.bottom_length
        cut = _chain(points, length)
        field = limb(stage.canvas, cut, _radii(wide, length, 0.003, scale), flat_end=True)
        if field is not None:
            # measured from the neck, so that the pattern continues from the hips
            colour = wrap(stage, field, person.bottom, 0.045, start=person.body.torso)
            stage.canvas.model(field, colour, stage.line, fade=0.07 * scale)


def _foot(stage: Stage, knee: Array, ankle: Array) -> None:
    scale = stage.scale
    shin = (ankle - knee) / np.linalg.norm(ankle - knee)
    forward = stage.turn(0.0, 0.0, 1.0)
    forward = forward - (forward @ shin) * shin * 0.8
    heel = ankle + 0.020 * shin - 0.012 * forward
    toe = ankle + 0.032 * shin + 0.066 * forward
    points = []
    for point in (ankle, heel, toe):
        x, y = stage.flat(point)
        points.append((x, y + FOOT_TILT * scale * float(point[2] - ankle[2])))
    field = limb(stage.canvas, points, [r * scale for r in (0.018, 0.019, 0.0145)])
    if field is not None:
        stage.canvas.model(field, stage.person.shoes, stage.line)
