"""The skeleton editors: their HTML, and the JSON that page and Python exchange.

A pose is exchanged as JSON: a list of 18 places ``[x, y]`` in fractions of the frame's width and
height, ``null`` where a joint is missing. ``skeleton.js`` does the dragging.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.drawing import COLOURS
from xmdpt_cli.pose.from_pose_image import LEAST_JOINTS, check_joints
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, JOINTS, LIMBS, Keypoints
from xmdpt_cli.ui.poses import PRESETS, SIDES

DIGITS = 4  # of a fraction: a fortieth of a pixel
VIEW_BOX = f'viewBox="0 0 {FRAME_WIDTH:g} {FRAME_HEIGHT:g}"'
# buttons of the editors: text, accessible name ("": the text), tooltip
TOOLS = {
    "undo": ("\u21b6", "Undo", "Undo (Ctrl-Z)"),
    "redo": ("\u21b7", "Redo", "Redo (Ctrl-Shift-Z)"),
    "smaller": ("\u2212", "Smaller", "Smaller"),
    "larger": ("+", "Larger", "Larger"),
    "toggle": ("Hide", "", "Hide or show the joint; or double-click it"),
    "enlarge": ("\u2922", "Enlarge", "Fill the window (Esc leaves)"),
    "mirror": ("Mirror", "", "Left becomes right"),
    "reset": ("Reset", "", "Back to what was chosen or loaded"),
    "save": ("Save", "", "Save as a JSON file"),
}
STARTS = ("Front", "Back", "Side", "Sitting", "Waist up")  # presets of the person editor


def to_json(keypoints: Keypoints) -> str:
    """Keypoints (18, 2) in fractions, NaN if missing, as JSON. Joints outside of the frame are
    moved to its edge, where they can be dragged."""
    return json.dumps(listed(keypoints))


def listed(keypoints: Keypoints) -> list[list[float] | None]:
    """Keypoints (18, 2) as the list of ``to_json``."""
    places = np.clip(keypoints, 0, 1).round(DIGITS).tolist()
    return [place if math.isfinite(sum(place)) else None for place in places]


def from_json(text: str | None) -> Keypoints:
    """Parse ``to_json``: (18, 2) fractions, NaN if missing. XmdptError if the text is not a
    skeleton, or has too few joints."""
    try:
        points = points_of(json.loads(text or ""))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise XmdptError("this is not a skeleton", "18 places [x, y], or null, as JSON") from None
    check_joints(points)
    return points


def points_of(places: Any) -> Keypoints:
    """The list of the text -> (18, 2). ValueError or TypeError if it is none."""
    if not isinstance(places, list) or len(places) != len(JOINTS):
        raise ValueError
    return np.array([_place(place) for place in places], dtype=np.float64)


def _place(place: Any) -> tuple[float, float]:
    if place is None:
        return math.nan, math.nan
    x, y = (float(number) for number in place)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError
    return x, y


def colour(joint_or_limb: int) -> str:
    """The CSS colour. Its channels are reversed, as in the published pose images."""
    return "rgb({},{},{})".format(*COLOURS[joint_or_limb][::-1])


def editor_html(examples: Sequence[Keypoints] = ()) -> str:
    """The pose editor: a frame with limbs and joints, preset poses, and poses of ``examples``.

    The script sets the positions; its data is part of the HTML, so that it needs no other file.
    """
    presets = "".join(_preset(pose.name, pose.keypoints()) for pose in PRESETS)
    more = "".join(
        _preset(f"Example pose {number}", points) for number, points in enumerate(examples, start=1)
    )
    if more:
        more = (
            '<p class="caption">Poses of people of the test set</p>'
            f'<div class="presets more" role="group" aria-label="poses of people">{more}</div>'
        )
    tools = _tools("undo", "redo", "toggle", "mirror", "reset", "save")
    return (
        f'<div class="skeleton" {_data()}>{_frame("the pose to generate")}'
        f'<div class="presets" role="group" aria-label="poses">{presets}</div>{more}{tools}</div>'
    )


def person_html(open_: bool) -> str:
    """The person editor: the skeleton over the source image, hidden until there is one."""
    starts = "".join(_preset(p.name, p.keypoints()) for p in PRESETS if p.name in STARTS)
    tools = _tools("undo", "redo", "smaller", "larger", "enlarge", "toggle", "reset", "save")
    return (
        f'<details class="placer" hidden{" open" if open_ else ""}>'
        "<summary>Keypoints of the person</summary>"
        f'<div class="skeleton person" data-person {_data()}>'
        '<p class="hint"></p><div class="tabs" role="group" aria-label="images" hidden></div>'
        f'<div class="stage">{_frame("the person in the image", "<image/>")}</div>'
        f'<div class="presets" role="group" aria-label="poses to start from">{starts}</div>'
        f"{tools}</div></details>"
    )


def _tools(*actions: str) -> str:
    buttons = "".join(
        f'<button type="button" data-do="{action}" title="{title}"'
        f' aria-label="{label or text}">{text}</button>'
        for action in actions
        for text, label, title in [TOOLS[action]]
    )
    return f'<div class="tools"><output class="chosen" aria-live="polite"></output>{buttons}</div>'


def _data() -> str:
    mirrored = [JOINTS.index(SIDES.get(name, name)) for name in JOINTS]
    return (
        f'data-limbs="{json.dumps(LIMBS)}" data-mirrored="{json.dumps(mirrored)}"'
        f' data-enough="{LEAST_JOINTS}"'
    )


def _frame(label: str, behind: str = "") -> str:
    limbs = "".join(f'<line stroke="{colour(i)}"/>' for i in range(len(LIMBS)))
    joints = "".join(
        f'<g class="joint" tabindex="0" role="button" data-joint="{name}"'
        f' data-label="{name.replace("_", " ")}"><circle class="grip" r="11"/>'
        f'<circle class="dot" r="4" fill="{colour(i)}"/></g>'
        for i, name in enumerate(JOINTS)
    )
    return (
        f'<svg class="frame" {VIEW_BOX} aria-label="{label}" role="group" tabindex="-1">{behind}'
        f'<g class="limbs">{limbs}</g>{joints}</svg>'
    )


def _preset(name: str, points: Keypoints) -> str:
    return (
        f'<button type="button" class="preset" title="{name}" aria-label="{name}"'
        f' data-pose="{to_json(points)}">{_icon(points)}</button>'
    )


def _icon(pose: Keypoints) -> str:
    points = pose * (FRAME_WIDTH, FRAME_HEIGHT)
    lines = []
    for limb, (a, b) in enumerate(LIMBS):
        (x1, y1), (x2, y2) = points[a], points[b]
        if math.isfinite(x1 + x2):
            place = f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"'
            lines.append(f'<line {place} stroke="{colour(limb)}"/>')
    return f'<svg {VIEW_BOX} aria-hidden="true">{"".join(lines)}</svg>'


def editor_script() -> str:
    """The script that Gradio runs when an editor is loaded."""
    return "".join(map(package_text, ("skeleton.js", "pointer.js", "views.js")))


def package_text(name: str) -> str:
    """The content of a text file of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
