"""The trunk and its clothes (top, jacket, skirt or trousers), and the order of the legs."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.limbs import leg_radii, render_leg, wrap
from xmdpt_cli.toy.people.outfit import Cloth
from xmdpt_cli.toy.people.paint import Field, Plane, as_planes, trunk
from xmdpt_cli.toy.people.stage import LEVELS, TEXTURE_RADIUS, Stage, profile


def render_trunk_and_legs(stage: Stage) -> None:
    """Render neck, legs and the clothes of the trunk, in the order in which they are put on."""
    person, joints = stage.person, stage.bones.joints
    skin = _torso(stage, -0.30, 0.3, 0.0, 0.0, "")
    if skin is not None:
        # the head's shadow on the neck
        below = np.clip(-0.015 - skin[0].along * np.float32(1.0 / stage.scale), 0.0, 0.03)
        colour = as_planes(person.skin) * (1.0 - below * np.float32(8.0))
        stage.canvas.model(skin[0], colour, stage.line)
    under = person.tucked or person.bottom_kind == "dress"
    depth = [(float(joints[i, 2] + joints[i + 1, 2]), side) for side, i in ((0, 9), (1, 12))]
    if person.bottom_kind in ("trousers", "shorts"):
        if under:
            _top(stage, 0.75)
        _bottom(stage)  # the legs' roots fade into it
        for _, side in sorted(depth):
            render_leg(stage, side)
    else:
        for _, side in sorted(depth):
            render_leg(stage, side)
        if under:
            _top(stage, 0.75)
        _bottom(stage)
    if not under:
        _top(stage, 0.98)
    if person.jacket is not None:
        _jacket(stage, person.jacket)


def _torso(
    stage: Stage, low: float, high: float, ease: float, sag: float, ink: str
) -> tuple[Field, float] | None:
    """The trunk between two levels (0: neck, 1: hips), and the angle of its texture."""
    body, scale = stage.person.body, stage.scale
    centre, half, turn = profile(body, stage.pose.yaw, ease)
    neck, hips = np.array(stage.flat(stage.bones.joints[1])), np.array(stage.origin)
    length = float(np.hypot(*(hips - neck)))
    axis = (hips - neck) / length
    inner = LEVELS[(low < LEVELS) & (high > LEVELS)]
    levels = np.concatenate([[low], inner, [high]])
    tables = [np.interp(levels, LEVELS, t) * scale for t in (centre, half)]
    field = trunk(
        stage.canvas, (neck[0], neck[1]), (axis[0], axis[1]), levels * length, *tables,
        sag=sag * scale, ink=ink,
    )  # fmt: skip
    return None if field is None else (field, turn)


def _neckline(stage: Stage, field: Field, turn: float) -> Plane:
    """Coverage [0, 1] of the trunk by the top: 0 above the neckline."""
    person = stage.person
    angle = np.arcsin(field.across) - np.float32(turn)
    x = np.sin(angle) * np.float32(person.body.shoulders)
    v = field.along / np.float32(stage.scale)
    front = np.cos(angle) > 0
    wide = {"round": 0.045, "vee": 0.042, "boat": 0.064}[person.neckline]
    depth = {"round": 1.0, "vee": 1.9, "boat": 0.35}[person.neckline] * person.neck_depth
    q = np.minimum(np.abs(x) / np.float32(wide), 1.0)
    drop = 1.0 - (q if person.neckline == "vee" else q * q)
    edge = np.float32(-0.052) + drop * np.where(front, np.float32(depth + 0.046), np.float32(0.026))
    return np.clip((v - edge) * np.float32(stage.scale) + 0.5, 0.0, 1.0)


def _top(stage: Stage, hem: float) -> None:
    part = _torso(stage, -0.20, hem, 0.004 if hem < 0.9 else 0.009, 0.006, "hem")
    if part is not None:
        field, turn = part
        colour = wrap(stage, field, stage.person.top, TEXTURE_RADIUS, turn)
        stage.canvas.model(field, colour, stage.line, _neckline(stage, field, turn))


def _jacket(stage: Stage, cloth: Cloth) -> None:
    """Render the jacket, open in front over a strip of the top."""
    coat = _torso(stage, -0.13, 1.08, 0.009, 0.0, "hem")
    if coat is None:
        return
    field, turn = coat
    angle = np.arcsin(field.across) - np.float32(turn)
    gap = (2.0 * np.abs(np.sin(angle)) - np.cos(angle) - 0.1) * np.float32(0.03 * stage.scale)
    collar = field.along + np.float32(0.05 * stage.scale)
    where = np.clip(np.minimum(gap, collar) + 0.5, 0.0, 1.0)
    field.edge = np.minimum(field.edge, gap)
    colour = wrap(stage, field, cloth, TEXTURE_RADIUS, turn)
    stage.canvas.model(field, colour, stage.line, where)


def _bottom(stage: Stage) -> None:
    person = stage.person
    if person.bottom_kind in ("trousers", "shorts"):
        part = _torso(stage, 0.66, 1.13, 0.007, 0.012, "waist")
    else:
        part = _skirt(stage)
    if part is not None:
        field, turn = part
        colour = wrap(stage, field, person.bottom, TEXTURE_RADIUS, turn)
        stage.canvas.model(field, colour, stage.line)


def _skirt(stage: Stage) -> tuple[Field, float] | None:
    """Render the skirt from the waist to the hem, wide enough at the hem for both legs."""
    person, scale = stage.person, stage.scale
    centre, half, turn = profile(person.body, stage.pose.yaw, 0.006)
    neck, hips = np.array(stage.flat(stage.bones.joints[1])), np.array(stage.origin)
    spine = (hips - neck) / float(np.hypot(*(hips - neck)))
    axis = spine + np.array([0.0, 2.0])  # cloth hangs
    axis /= float(np.hypot(*axis))
    radii = leg_radii(stage)
    torso = person.body.torso
    reach = person.bottom_length
    hem = float(np.interp(reach, (0, 1, 2), (0.0, person.body.leg[0], sum(person.body.leg))))
    stations = np.array([0.35, 0.7, 1.0])
    spans = []
    for first in (8, 11):
        joints = stage.bones.joints[first : first + 3]
        x = (
            np.interp(stations * reach, (0, 1, 2), joints[:, 0])
            - axis[0] / axis[1] * hem * stations
        )
        r = np.interp(stations * reach, (0, 1, 2), radii) + 0.008
        spans.append((x - r, x + r))
    flare = 0.095 * (person.flare - 0.15) * min(1.0, hem / 0.2) * stations
    left = np.minimum.reduce([centre[9] - half[9] - flare, spans[0][0], spans[1][0]])
    right = np.maximum.reduce([centre[9] + half[9] + flare, spans[0][1], spans[1][1]])
    levels = np.concatenate([(LEVELS[6:10] - 1.0) * torso, hem * stations])
    lean = spine[0] / spine[1] - axis[0] / axis[1]  # above the hips it follows the spine
    middles = np.concatenate([centre[6:10] + lean * levels[:4], 0.5 * (left + right)])
    halves = np.concatenate([half[6:10], 0.5 * (right - left)])
    ink = "hem" if person.bottom_kind == "dress" else "waist hem"
    waist = (0.66 - 1.0) * torso
    keep = levels > waist
    start = (waist, *(float(np.interp(waist, levels, t)) for t in (middles, halves)))
    tables = [
        np.concatenate([[first], t[keep]]) * scale
        for first, t in zip(start, (levels, middles, halves), strict=True)
    ]
    field = trunk(
        stage.canvas, stage.origin, (axis[0], axis[1]), *tables, sag=0.014 * scale, ink=ink
    )
    if field is None:
        return None
    # the texture continues from the top: measure along from the neck
    field.along = field.along + np.float32(torso * scale)
    return field, turn
