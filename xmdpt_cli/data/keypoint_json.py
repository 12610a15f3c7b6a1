"""Poses in JSON: OpenPose's files, COCO's, and a plain form of our own.

Which form it is shows in its keys. Every form comes down to persons, each a table of joints
(x, y, confidence), and to the size of the picture whose pixels these are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from xmdpt_cli.data.image_size import SIZE_HINT, Size, SizeOf, check_within
from xmdpt_cli.data.pose import JOINTS, Keypoints
from xmdpt_cli.errors import XmdptError

UNDERSTOOD = (
    'a pose in JSON is OpenPose\'s {"people": [{"pose_keypoints_2d": [x, y, c, ...]}]}, COCO\'s '
    '{"keypoints": [x, y, v, ...]} with 17 joints, or {"keypoints": [[x, y] or null, ...], '
    '"width": W, "height": H} with 18; a list of such frames, or {"frames": [...]}, is a sequence'
)
_SIZE_HINT = 'add "canvas_width" and "canvas_height", the size of the picture, beside the keypoints'
_LARGEST = 64 * 2**20  # bytes of a file: a thousand times a minute of video
_FARTHEST = 100_000.0  # pixels: beyond this it is damage, not a joint
# OpenPose itself draws no joint with less confidence, and gives 0 to those it did not find.
_CONFIDENCE = 0.05
# Coordinates that all lie here are fractions of the picture (a little outside of it is usual):
# no picture is one pixel large.
_FRACTIONS = (-0.5, 1.5)

# Where our joints stand in the other two orders; -1: made from others.
_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_COCO_17 = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_ORDERS = {17: _COCO_17, 18: tuple(range(len(JOINTS))), 25: _BODY_25}
_NECK, _SHOULDERS = 1, (2, 5)


@dataclass(frozen=True)
class Frame:
    """One picture's people: keypoints in our order (``data.pose.JOINTS``), NaN for missing.

    ``size``: (height, width) of the picture whose pixels they are, or None where they are
    fractions of its width and height. ``where`` names the file, and the frame if it has several;
    ``name`` is what the file calls the picture, "" if it does not.
    """

    people: list[Keypoints]  # (18, 2) each, in the file's order
    size: Size | None
    where: str
    name: str = ""
    unsized: bool = False  # in pixels, and the file does not say of how large an image


@dataclass(frozen=True)
class _Raw:
    """A frame before it is known whether its numbers are pixels."""

    people: list[Keypoints]
    canvas: Size | None
    where: str
    name: str = ""


def read_json(path: Path) -> list[Frame]:
    """All frames of a JSON file; XmdptError naming the file and frame if it holds no poses.

    Frames in pixels that do not state the size of their image are ``unsized``: see ``sized``.
    """
    data = _load(path)
    raw = list(_frames(data, None, str(path)))
    for frame in raw:
        if not frame.people:
            raise XmdptError(f"{frame.where}: nobody in it (no joint of a body)", UNDERSTOOD)
    if not raw:
        raise XmdptError(f"{path}: no poses in it", UNDERSTOOD)
    low, high = _FRACTIONS
    every = np.concatenate([np.concatenate(frame.people) for frame in raw])
    fractions = bool(np.nanmin(every) >= low and np.nanmax(every) <= high)
    return [_finished(frame, fractions) for frame in raw]


def _finished(frame: _Raw, fractions: bool) -> Frame:
    people = frame.people
    if frame.canvas is not None and fractions:
        people = [points * frame.canvas[::-1] for points in people]
    unsized = frame.canvas is None and not fractions
    return Frame(people, frame.canvas, frame.where, frame.name, unsized)


def sized(frame: Frame, size_of: SizeOf | None) -> Frame:
    """A frame with the size of its image, asked from ``size_of`` where the file does not state it.

    XmdptError if that does not know it either, or if joints lie outside of it.
    """
    if not frame.unsized:
        return frame
    size = None if size_of is None else size_of(frame.name)
    if size is None:
        raise XmdptError(
            f"{frame.where}: coordinates in pixels, but the size of their image is not known",
            SIZE_HINT,
        )
    check_within(frame.people, size, frame.where)
    return replace(frame, size=size, unsized=False)


def _load(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise XmdptError(
                f"{path}: {size / 2**20:.0f} MiB are too many for poses", "give a part of it"
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise XmdptError(f"cannot read {path}: {err}") from None
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as err:
        what = "too deeply nested" if isinstance(err, RecursionError) else str(err)
        raise XmdptError(f"{path}: not JSON ({what})", UNDERSTOOD) from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number; a missing joint is null or has confidence 0")


def _frames(data: Any, canvas: Size | None, where: str) -> Iterator[_Raw]:
    """The frames of one node of the file; ``canvas`` is what the nodes around it say."""
    if isinstance(data, dict):
        canvas = _canvas(data, where) or canvas
        if "people" in data:
            yield _Raw(_persons(data["people"], where), canvas, where)
        elif "frames" in data:
            yield from _sequence(data["frames"], canvas, where)
        elif "annotations" in data:
            yield from _coco(data["annotations"], data.get("images", []), canvas, where)
        elif "keypoints" in data:
            yield _Raw(_persons([data], where), canvas, where)
        else:
            keys = ", ".join(str(key)[:30] for key in list(data)[:6]) or "nothing"
            raise XmdptError(f"{where}: no pose (it holds: {keys})", UNDERSTOOD)
    elif isinstance(data, list) and data and _is_of_coco(data[0]):
        yield from _coco(data, [], canvas, where)
    elif isinstance(data, list) and data and isinstance(data[0], dict):
        yield from _sequence(data, canvas, where)
    else:
        raise XmdptError(f"{where}: no pose ({_kind(data)})", UNDERSTOOD)


def _sequence(frames: Any, canvas: Size | None, where: str) -> Iterator[_Raw]:
    if not isinstance(frames, list):
        raise XmdptError(f"{where}: frames is {_kind(frames)} instead of a list", UNDERSTOOD)
    for number, frame in enumerate(frames, start=1):
        inside = f"{where}, frame {number}"
        if not isinstance(frame, dict) or not {"people", "keypoints"} & set(frame):
            raise XmdptError(f"{inside}: no pose ({_kind(frame)})", UNDERSTOOD)
        yield from _frames(frame, canvas, inside)


def _is_of_coco(entry: Any) -> bool:
    return isinstance(entry, dict) and "image_id" in entry and "keypoints" in entry


def _coco(annotations: Any, images: Any, canvas: Size | None, where: str) -> Iterator[_Raw]:
    """A frame for every picture in which somebody has joints, as first mentioned."""
    if not (isinstance(annotations, list) and isinstance(images, list)):
        raise XmdptError(f"{where}: annotations and images are not lists", UNDERSTOOD)
    canvases = {
        str(image.get("id")): _canvas(image, where) for image in images if isinstance(image, dict)
    }
    groups: dict[str, list[Keypoints]] = {}
    for number, entry in enumerate(annotations, start=1):
        inside = f"{where}, annotation {number}"
        if not _is_of_coco(entry):
            raise XmdptError(f"{inside}: no image_id and keypoints", UNDERSTOOD)
        persons = _persons([entry], inside)
        if persons:
            groups.setdefault(str(entry["image_id"]), []).extend(persons)
    files = {
        str(image.get("id")): str(image.get("file_name", ""))
        for image in images
        if isinstance(image, dict)
    }
    for name, persons in groups.items():
        inside = f"{where}, image {name[:60]}"
        # without a table of images the id is the file's name, or a number
        yield _Raw(persons, canvases.get(name) or canvas, inside, files.get(name) or name)


def _canvas(node: dict[str, Any], where: str) -> Size | None:
    for wide, high in (("canvas_width", "canvas_height"), ("width", "height")):
        if wide not in node and high not in node:
            continue
        sides = [side for side in (node.get(high), node.get(wide)) if _is_number(side)]
        if len(sides) < 2 or min(sides) <= 0 or max(sides) > _FARTHEST:
            raise XmdptError(f"{where}: {wide} and {high} are not two positive numbers", _SIZE_HINT)
        return max(1, round(sides[0])), max(1, round(sides[1]))
    return None


def _persons(people: Any, where: str) -> list[Keypoints]:
    """Everybody who has a joint; an entry may be hands or a face without a body."""
    if not isinstance(people, list):
        raise XmdptError(f"{where}: people is {_kind(people)} instead of a list", UNDERSTOOD)
    found = []
    for number, person in enumerate(people, start=1):
        inside = where if len(people) == 1 else f"{where}, person {number}"
        if not isinstance(person, dict):
            raise XmdptError(f"{inside}: {_kind(person)} instead of keypoints", UNDERSTOOD)
        names = [name for name in ("pose_keypoints_2d", "keypoints") if name in person]
        if not names:
            raise XmdptError(f"{inside}: no pose_keypoints_2d and no keypoints", UNDERSTOOD)
        values = person[names[0]]
        if values is None or values == []:
            continue
        points = _our_joints(_table(values, inside))
        if np.isfinite(points).any():
            found.append(points)
    return found


def _table(values: Any, where: str) -> Keypoints:
    """Joints as files hold them, in a row or as rows of their own -> (joints, 3), NaN missing."""
    if not isinstance(values, list):
        raise XmdptError(f"{where}: keypoints are {_kind(values)}, not a list", UNDERSTOOD)
    if all(_is_number(value) for value in values):
        count, rest = divmod(len(values), 3)
        rows: list[Any] = [values[at : at + 3] for at in range(0, len(values), 3)]
        found, fits = f"{len(values)} numbers", rest == 0 and count in _ORDERS
    else:
        rows, found, fits = values, f"{len(values)} joints", len(values) in _ORDERS
    if not fits:
        known = ", ".join(str(count) for count in _ORDERS)
        raise XmdptError(f"{where}: {found}; {known} joints are understood", UNDERSTOOD)
    return np.array([_joint(row, number, where) for number, row in enumerate(rows, start=1)])


def _joint(row: Any, number: int, where: str) -> tuple[float, float, float]:
    if row is None:
        return math.nan, math.nan, 0.0
    if not (isinstance(row, list) and len(row) in (2, 3) and all(_is_number(v) for v in row)):
        raise XmdptError(
            f"{where}: joint {number} is {_kind(row)} instead of [x, y] or null", UNDERSTOOD
        )
    x, y, seen = row if len(row) == 3 else (*row, 1.0)
    if max(abs(x), abs(y)) > _FARTHEST:
        raise XmdptError(f"{where}: joint {number} is not a place in a picture", UNDERSTOOD)
    if (x, y) == (-1, -1) or seen < _CONFIDENCE:
        return math.nan, math.nan, 0.0
    return float(x), float(y), float(seen)


def _our_joints(table: Keypoints) -> Keypoints:
    """(17, 18 or 25, 3) in the order of that count -> (18, 2) in ours.

    COCO's 17 have no neck: it is between the shoulders, as OpenPose was trained with.
    """
    order = np.array(_ORDERS[len(table)])
    points = np.where((order >= 0)[:, None], table[order, :2], np.nan)
    if order[_NECK] < 0:
        points[_NECK] = points[list(_SHOULDERS)].mean(axis=0)
    return points


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # an integer may be too long for a float, 1e999 is infinite


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return str(json.dumps(value))[:40]
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"
