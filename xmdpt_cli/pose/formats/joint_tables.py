"""The orders in which keypoint files list joints, and reading one person's table of joints."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints

FARTHEST = 100_000.0  # pixels: a larger coordinate is damage

UNDERSTOOD = (
    'a pose in JSON is OpenPose\'s {"people": [{"pose_keypoints_2d": [x, y, c, ...]}]}, COCO\'s '
    '{"keypoints": [x, y, v, ...]} with 17 joints, or {"keypoints": [[x, y] or null, ...], '
    '"width": W, "height": H} with 18; a list of such frames, or {"frames": [...]}, is a sequence'
)

# rows of our joints in the other orders; -1: computed from other joints
_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_HALPE = (0, 18, *_COCO[2:])


class JointOrder(NamedTuple):
    """An order of joints in files."""

    name: str
    rows: tuple[int, ...]  # of our 18 joints; -1: computed from other joints


#: by the number of joints; the body is first, then feet, face and hands, which are not used
ORDERS = {
    17: JointOrder("COCO", _COCO),
    18: JointOrder("OpenPose", tuple(range(len(JOINTS)))),
    25: JointOrder("OpenPose BODY_25", _BODY_25),
    26: JointOrder("Halpe", _HALPE),
    133: JointOrder("COCO-WholeBody", _COCO),
    136: JointOrder("Halpe full body", _HALPE),
}
ACCEPTED = ", ".join(f"{count} ({name})" for count, (name, _) in ORDERS.items())
_NECK, _SHOULDERS = 1, (2, 5)

#: lists of one score a joint, beside the keypoints of a person
_SCORES = (
    "keypoint_scores", "keypoints_scores", "keypoints_score", "keypoints_visible", "scores",
    "score", "confidences", "confidence",
)  # fmt: skip


def check_min_score(score: float) -> float:
    """Returns the score; ConfigError unless it is in [0, 1]."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ConfigError(f"the minimum score is a number from 0 to 1, not {score!r}")
    return float(score)


def joint_table(
    person: dict[str, Any], key: str, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The joints under ``key`` of a person -> (points (n, 2), scores (n,) or None), in the file's
    order. XmdptError unless n is a key of ``ORDERS``, and for values that are not joints."""
    values = person[key]
    if not isinstance(values, list):
        raise XmdptError(f"{where}: keypoints are {kind(values)}, not a list", UNDERSTOOD)
    listed = {name: person[name] for name in _SCORES if isinstance(person.get(name), list)}
    rows = _rows(values, where, pairs=bool(listed))
    table = np.array([_joint(row, number, where) for number, row in enumerate(rows, start=1)])
    scores = None if np.isnan(table[:, 2]).all() else table[:, 2]
    if scores is not None:  # a row without a score among rows with scores
        scores = np.where(np.isnan(scores), 1.0, scores)
    for name, values in listed.items():
        own = _score_list(values, len(rows), f"{where}: {name}")
        scores = own if scores is None else np.minimum(scores, own)
    return table[:, :2], scores


def _rows(values: list[Any], where: str, *, pairs: bool) -> list[Any]:
    """One entry a joint, from a list of joints or a flat list of x, y, score. ``pairs``: the scores
    are in a separate list, so a flat list may have x, y only."""
    count, found = len(values), f"{len(values)} joints"
    rows = values
    flat = all(value is None or is_number(value) for value in values)
    if flat and (count not in ORDERS or any(value is not None for value in values)):
        found = f"{count} numbers"
        widths = (3, 2) if pairs else (3,)
        each = next((n for n in widths if count % n == 0 and count // n in ORDERS), 0)
        rows = [values[at : at + each] for at in range(0, count, each)] if each else []
    if len(rows) not in ORDERS:
        raise XmdptError(f"{where}: {found}; {ACCEPTED} joints are understood", UNDERSTOOD)
    return rows


def _joint(row: Any, number: int, where: str) -> tuple[float, float, float]:
    """(x, y, score); the score is NaN if the row has none."""
    if row is None:
        return math.nan, math.nan, math.nan
    if isinstance(row, list) and len(row) in (2, 3):
        if any(value is None for value in row[:2]) and all(v is None or is_number(v) for v in row):
            return math.nan, math.nan, 0.0 if len(row) == 3 else math.nan
        if row[2:] == [None]:
            row = [*row[:2], 0.0]
    if not (isinstance(row, list) and len(row) in (2, 3) and all(is_number(v) for v in row)):
        raise XmdptError(
            f"{where}: joint {number} is {kind(row)} instead of [x, y] or null", UNDERSTOOD
        )
    x, y, score = (float(v) for v in (row if len(row) == 3 else (*row, math.nan)))
    if max(abs(x), abs(y)) > FARTHEST:
        raise XmdptError(f"{where}: joint {number} is not a place in an image", UNDERSTOOD)
    return x, y, score


def _score_list(listed: list[Any], count: int, where: str) -> NDArray[np.float64]:
    while len(listed) == 1 and isinstance(listed[0], list):  # MMPose writes a batch of one
        listed = listed[0]
    flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in listed]
    numbers = [float(v) if is_number(v) or isinstance(v, bool) else math.nan for v in flat]
    if len(flat) != count or any(
        n != n and v is not None for n, v in zip(numbers, flat, strict=True)
    ):
        raise XmdptError(
            f"{where} is {kind(listed)}, not {count} numbers", "one score for each joint, or none"
        )
    return np.nan_to_num(np.array(numbers), nan=0.0)


def our_joints(table: NDArray[np.float64]) -> Keypoints:
    """(n, 2) in the order of that number of joints -> (18, 2) in ours.

    COCO's orders have no neck: it is the middle of the shoulders, as in OpenPose's training.
    """
    order = np.array(ORDERS[len(table)].rows)
    points = np.where((order >= 0)[:, None], table[order], np.nan)
    if order[_NECK] < 0:
        points[_NECK] = points[list(_SHOULDERS)].mean(axis=0)
    return points


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number that fits a float; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # an integer may be too long for a float, 1e999 is infinite


def kind(value: Any) -> str:
    """A short description of a JSON value, for messages."""
    if value is None or isinstance(value, bool | int | float | str):
        return shown(json.dumps(value), 40)
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"


def shown(text: str, most: int = 60) -> str:
    """A text of a file for messages: shortened, without unprintable characters."""
    short = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
