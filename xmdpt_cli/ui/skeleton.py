"""The skeleton one drags: its geometry, its HTML, and what travels between page and Python.

A pose travels as JSON text: a list of 18 places ``[x, y]`` in fractions of the frame's width and
height, ``null`` where a joint is missing. ``skeleton.js`` does the dragging.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

import numpy as np

from xmdpt_cli.data.given_pose import check_joints
from xmdpt_cli.data.pose import COLOURS, FRAME_HEIGHT, FRAME_WIDTH, JOINTS, LIMBS, Keypoints
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.ui.poses import PRESETS, SIDES, Pose

DIGITS = 4  # of a fraction: a fortieth of a pixel


def to_json(keypoints: Keypoints) -> str:
    """(18, 2) fractions, NaN missing -> the text. Joints outside go to the edge: one can only
    drag what one sees."""
    places = np.clip(keypoints, 0, 1).round(DIGITS).tolist()
    return json.dumps([place if math.isfinite(sum(place)) else None for place in places])


def from_json(text: str | None) -> Keypoints:
    """The text -> (18, 2) fractions, NaN missing. XmdptError if it is none, or has few joints."""
    try:
        places = json.loads(text or "")
        if not isinstance(places, list) or len(places) != len(JOINTS):
            raise ValueError
        points = np.array([_place(place) for place in places], dtype=np.float64)
    except (ValueError, TypeError):
        raise XmdptError("this is no skeleton", "18 places [x, y], or null, as JSON") from None
    check_joints(points)
    return points


def _place(place: Any) -> tuple[float, float]:
    if place is None:
        return math.nan, math.nan
    x, y = (float(number) for number in place)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError
    return x, y


def colour(joint_or_limb: int) -> str:
    """As CSS. The published picture has its channels reversed, and so has this."""
    return "rgb({},{},{})".format(*COLOURS[joint_or_limb][::-1])


def editor_html() -> str:
    """The frame with limbs and joints, and the preset poses; places are set by the script.

    The script's data is in it, too: the page must not need anything else.
    """
    frame = f'viewBox="0 0 {FRAME_WIDTH:g} {FRAME_HEIGHT:g}"'
    limbs = "".join(f'<line stroke="{colour(i)}"/>' for i in range(len(LIMBS)))
    joints = "".join(
        f'<g class="joint" tabindex="0" role="button" data-joint="{name}"'
        f' data-label="{name.replace("_", " ")}"><circle class="grip" r="11"/>'
        f'<circle class="dot" r="4" fill="{colour(i)}"/></g>'
        for i, name in enumerate(JOINTS)
    )
    presets = "".join(
        f'<button type="button" class="preset" title="{pose.name}" aria-label="{pose.name}"'
        f' data-pose="{to_json_of(pose)}">{_icon(pose, frame)}</button>'
        for pose in PRESETS
    )
    pairs = [JOINTS.index(SIDES.get(name, name)) for name in JOINTS]
    return (
        f'<div class="skeleton" data-limbs="{json.dumps(LIMBS)}" data-pairs="{json.dumps(pairs)}">'
        f'<svg class="frame" {frame} aria-label="the pose to draw" role="group">'
        f'<g class="limbs">{limbs}</g>{joints}</svg>'
        f'<div class="presets" role="group" aria-label="poses">{presets}</div>'
        '<div class="tools"><output class="chosen" aria-live="polite"></output>'
        '<button type="button" data-do="toggle" title="or double-click it" disabled>Hide</button>'
        '<button type="button" data-do="mirror">Mirror</button>'
        '<button type="button" data-do="reset">Reset</button></div></div>'
    )


def to_json_of(pose: Pose) -> str:
    """A preset's text."""
    return to_json(pose.keypoints())


def _icon(pose: Pose, frame: str) -> str:
    points = pose.keypoints() * (FRAME_WIDTH, FRAME_HEIGHT)
    lines = []
    for limb, (a, b) in enumerate(LIMBS):
        (x1, y1), (x2, y2) = points[a], points[b]
        if math.isfinite(x1 + x2):
            place = f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"'
            lines.append(f'<line {place} stroke="{colour(limb)}"/>')
    return f'<svg {frame} aria-hidden="true">{"".join(lines)}</svg>'


def editor_script() -> str:
    """What Gradio runs when the editor is on the page."""
    return text_beside("skeleton.js")


def text_beside(name: str) -> str:
    """A text file of this room."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
