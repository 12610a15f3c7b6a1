"""Poses in JSON: OpenPose's files, COCO's, MMPose's and AlphaPose's, and a plain form of our own.

Which form it is shows in its keys. Every form comes down to persons, each a table of joints, and to
the size of the image whose pixels these are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_poses import ImagePoses
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.joint_tables import (
    FARTHEST,
    UNDERSTOOD,
    is_number,
    joint_table,
    kind,
    our_joints,
    shown,
)
from xmdpt_cli.pose.formats.missing import (
    MIN_SCORE,
    Pair,
    not_found,
    pairs_of,
    scaled_missing,
    scaled_note,
    without_missing,
)
from xmdpt_cli.pose.formats.units import all_joints, are_fractions, check_stated
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.problems import Problem

_SIZE_HINT = 'add "canvas_width" and "canvas_height", the size of the image, beside the keypoints'
#: keys under which frames hold frames, and a frame its people
_FRAMES, _PEOPLE = ("frames", "instance_info"), ("people", "instances")
#: keys by which a person of MMPose is told from a frame of our own form
_OF_MMPOSE = {"keypoint_scores", "bbox_score"}


@dataclass
class PosesJson:
    """The frames of a JSON file; ``problems``: annotations that were left out; ``notes``: how the
    numbers were read, a clause each."""

    frames: list[ImagePoses]
    problems: list[Problem]
    notes: list[str]


def read_json(path: Path, text: str, min_score: float = MIN_SCORE) -> PosesJson:
    """All frames of a JSON file; XmdptError naming the file and frame if it holds no poses.

    Frames in pixels that do not state the size of their image are ``unsized``. In a sequence a
    frame may be without people.
    """
    reader = _Reader(path, min_score)
    raw = list(reader.frames(_load(path, text)))
    if not any(frame.people for frame in raw):
        raise reader.nobody(raw)
    where = str(path)
    fractions = are_fractions(all_joints(p for frame in raw for p in frame.people), where)
    frames = [_finished(frame, fractions) for frame in raw]
    reader.notes.append(_unit_note(path, frames, fractions))
    if not fractions:
        for size in dict.fromkeys(frame.size for frame in frames if frame.size is not None):
            of_size = [frame for frame in frames if frame.size == size]
            check_stated([p for frame in of_size for p in frame.people], size, of_size[0].where)
    return PosesJson(frames, reader.problems, [note for note in reader.summed() if note])


def _load(path: Path, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_missing)
    except (ValueError, RecursionError) as err:
        what = "too deeply nested" if isinstance(err, RecursionError) else str(err)
        raise XmdptError(f"{path}: not JSON ({what})", UNDERSTOOD) from None


def _missing(name: str) -> None:
    """NaN, as Python writes a missing joint, is null; the infinities are damage."""
    if name != "NaN":
        raise ValueError(f"{name} is not a number; a missing joint is null or has confidence 0")


def _finished(frame: ImagePoses, fractions: bool) -> ImagePoses:
    people, size = frame.people, frame.size
    if size == (1, 1) and fractions:
        size = None  # this is how some files state that they hold fractions
    if size is not None and fractions:
        people = [points * size[::-1] for points in people]
    unsized = size is None and not fractions
    shapeless = size is None and fractions
    return replace(frame, people=people, size=size, unsized=unsized, shapeless=shapeless)


def _unit_note(path: Path, frames: list[ImagePoses], fractions: bool) -> str:
    sizes = {frame.size for frame in frames if frame.size is not None}
    stated = "images of several sizes"
    if len(sizes) == 1:
        ((height, width),) = sizes
        stated = f"{width} x {height}"
    if fractions:
        return f"{path.name}: in fractions of {stated if sizes else 'the image'}"
    return f"{path.name}: in pixels of {stated}, as the file states" if sizes else ""


@dataclass
class _Reader:
    """Walks one file; counts what it leaves out."""

    path: Path
    min_score: float
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    low: int = 0  # joints left out for their score
    seen: int = 0
    scaled: list[Pair] = field(default_factory=list)  # joints that are a scaled -1, -1

    def summed(self) -> list[str]:
        notes = [*self.notes, *scaled_note(self.path.name, self.scaled)]
        if self.low:
            notes.append(
                f"{self.path.name}: {self.low} of {self.low + self.seen} joints have a score below "
                f"{self.min_score:g} and are left out (--min-score)"
            )
        if self.problems:
            first, count = self.problems[0], len(self.problems)
            which = f"{count} annotations are" if count > 1 else "1 annotation is"
            notes.append(f"{self.path.name}: {which} left out ({first.file}: {first.reason})")
        return notes

    def nobody(self, raw: list[ImagePoses]) -> XmdptError:
        if self.problems:
            first = self.problems[0]
            return XmdptError(f"{self.path.parent / first.file}: {first.reason}", UNDERSTOOD)
        if not raw:
            return XmdptError(f"{self.path}: no poses in it", UNDERSTOOD)
        where = raw[0].where if len(raw) == 1 else f"{self.path}, all {len(raw)} frames"
        low = f"; {self.low} joints have a score below {self.min_score:g}" if self.low else ""
        hint = "lower --min-score, if these joints are right" if self.low else UNDERSTOOD
        return XmdptError(f"{where}: nobody in it (no joint of a body){low}", hint)

    def frames(self, data: Any) -> Iterator[ImagePoses]:
        """The frames of a whole file."""
        where, canvas = str(self.path), None
        if isinstance(data, dict):
            canvas = _canvas(data, where)
            listed = next((key for key in _FRAMES if key in data), None)
            if any(key in data for key in _PEOPLE):
                yield self.frame(data, canvas, where)
            elif listed is not None:
                yield from self.sequence(data[listed], canvas, where)
            elif "annotations" in data:
                yield from self.coco(data["annotations"], data.get("images", []), canvas, where)
            elif "keypoints" in data:
                yield self.frame(data, canvas, where)
            elif isinstance(data.get("predictions"), list):  # MMPose: people of each image
                for number, people in enumerate(data["predictions"], start=1):
                    inside = f"{where}, frame {number}"
                    yield ImagePoses(self.persons(people, inside), canvas, inside)
            else:
                keys = ", ".join(shown(str(key), 30) for key in list(data)[:6]) or "nothing"
                raise XmdptError(f"{where}: no pose (it holds: {keys})", UNDERSTOOD)
        elif isinstance(data, list) and any(_is_of_coco(entry) for entry in data):
            yield from self.coco(data, [], canvas, where)
        elif isinstance(data, list) and data and all(_is_of_mmpose(entry) for entry in data):
            yield ImagePoses(self.persons(data, where), None, where)
        elif isinstance(data, list) and data and any(isinstance(entry, dict) for entry in data):
            yield from self.sequence(data, canvas, where)
        else:
            raise XmdptError(f"{where}: no pose ({kind(data)})", UNDERSTOOD)

    def sequence(self, frames: Any, canvas: Size | None, where: str) -> Iterator[ImagePoses]:
        if not isinstance(frames, list):
            raise XmdptError(f"{where}: frames is {kind(frames)} instead of a list", UNDERSTOOD)
        for number, node in enumerate(frames, start=1):
            inside = f"{where}, frame {number}"
            if not isinstance(node, dict) or _frame_key(node) is None:
                raise XmdptError(f"{inside}: no pose ({kind(node)})", UNDERSTOOD)
            yield self.frame(node, _canvas(node, inside) or canvas, inside)

    def frame(self, node: dict[str, Any], canvas: Size | None, where: str) -> ImagePoses:
        key = next((key for key in _PEOPLE if key in node), None)
        if key is None and node["keypoints"] in (None, []):  # a frame in which nobody is
            return ImagePoses([], canvas, where)
        people = [node] if key is None else node[key]
        return ImagePoses(self.persons(people, where), canvas, where)

    def coco(
        self, annotations: Any, images: Any, canvas: Size | None, where: str
    ) -> Iterator[ImagePoses]:
        """A frame for every image in which somebody has joints, as first mentioned. A broken
        annotation is left out, and counted."""
        if not (isinstance(annotations, list) and isinstance(images, list)):
            raise XmdptError(f"{where}: annotations and images are not lists", UNDERSTOOD)
        table = {str(i.get("id")): i for i in images if isinstance(i, dict)}
        groups: dict[str, list[Keypoints]] = {}
        for number, entry in enumerate(annotations, start=1):
            label = f"annotation {number}"
            try:
                if not _is_of_coco(entry):
                    raise XmdptError(f"{label}: no image_id and keypoints")
                persons = self.persons([entry], label)
            except XmdptError as err:
                reason = err.message.removeprefix(f"{label}: ")
                self.problems.append(Problem(f"{self.path.name}, {label}", reason, kept=True))
                continue
            # an image in which nobody was found is there, too: of a video it is a frame
            groups.setdefault(str(entry["image_id"]), []).extend(persons)
        for name, persons in groups.items():
            inside = f"{where}, image {shown(name)}"
            image, size = table.get(name, {}), canvas
            try:
                size = _canvas(image, f"image {shown(name)}") or canvas
            except XmdptError as err:  # then the size is asked for elsewhere
                self.problems.append(Problem(self.path.name, err.message, kept=True))
            # without a table of images the id is the file's name, or a number
            file = str(image.get("file_name", "")) or name
            yield ImagePoses(persons, size, inside, file, separate=bool(table))

    def persons(self, people: Any, where: str) -> list[Keypoints]:
        """Everybody who has a joint; an entry may be hands or a face without a body."""
        if not isinstance(people, list):
            raise XmdptError(f"{where}: people is {kind(people)} instead of a list", UNDERSTOOD)
        found = []
        for number, person in enumerate(people, start=1):
            inside = where if len(people) == 1 else f"{where}, person {number}"
            if not isinstance(person, dict):
                raise XmdptError(f"{inside}: {kind(person)} instead of keypoints", UNDERSTOOD)
            key = next((k for k in ("pose_keypoints_2d", "keypoints") if k in person), None)
            if key is None:
                raise XmdptError(f"{inside}: no pose_keypoints_2d and no keypoints", UNDERSTOOD)
            if person[key] is None or person[key] == []:
                continue
            points, scores = joint_table(person, key, inside)
            own = our_joints(without_missing(points, scores, self.min_score))
            self.scaled += pairs_of(
                points, scaled_missing(points) & _scored(scores, self.min_score)
            )
            if scores is not None:
                there = our_joints(without_missing(points))
                self.low += int((~not_found(there) & not_found(own)).sum())
            if np.isfinite(own).any():
                self.seen += int(np.isfinite(own).all(axis=1).sum())
                found.append(own)
        return found


def _scored(scores: NDArray[np.float64] | None, min_score: float) -> NDArray[np.bool_]:
    return np.asarray(True if scores is None else scores >= min_score)


def _frame_key(node: dict[str, Any]) -> str | None:
    return next((key for key in (*_PEOPLE, "keypoints") if key in node), None)


def _is_of_coco(entry: Any) -> bool:
    return isinstance(entry, dict) and "image_id" in entry and "keypoints" in entry


def _is_of_mmpose(entry: Any) -> bool:
    return isinstance(entry, dict) and "keypoints" in entry and bool(_OF_MMPOSE & set(entry))


def _canvas(node: dict[str, Any], where: str) -> Size | None:
    for wide, high in (("canvas_width", "canvas_height"), ("width", "height")):
        if wide not in node and high not in node:
            continue
        sides = [side for side in (node.get(high), node.get(wide)) if is_number(side)]
        if len(sides) < 2 or min(sides) <= 0 or max(sides) > FARTHEST:
            raise XmdptError(f"{where}: {wide} and {high} are not two positive numbers", _SIZE_HINT)
        return max(1, round(sides[0])), max(1, round(sides[1]))
    return None
