"""Poses in JSON: files of OpenPose, COCO, Halpe, MMPose and AlphaPose, and a plain form of our own.

The keys of a file decide its form (``_FORMS``). Every form is read as people, each a table of
joints, and as the size of the image whose pixels these are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_poses import ImagePoses
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
from xmdpt_cli.pose.keypoints import Keypoints, Size, seen
from xmdpt_cli.utils.problems import Problem

_SIZE_HINT = 'add "canvas_width" and "canvas_height", the size of the image, beside the keypoints'
#: keys of an entry in a list of MMPose's people, which our own form does not have
_OF_MMPOSE = {"keypoint_scores", "bbox_score"}


@dataclass
class PosesJson:
    """The frames of a JSON file; ``problems``: annotations that were left out; ``notes``: how the
    numbers were read, one clause each."""

    frames: list[ImagePoses]
    problems: list[Problem]
    notes: list[str]


def read_json(path: Path, text: str, min_score: float = MIN_SCORE) -> PosesJson:
    """All frames of a JSON file. Raises XmdptError naming the file and frame if it has no poses.

    Frames in pixels that do not state the size of their image are ``unsized``. Frames of a sequence
    may have no people.
    """
    reader = _Reader(path, min_score)
    raw = list(reader.frames(_load(path, text)))
    if not any(frame.people for frame in raw):
        raise reader.no_people(raw)
    fractions = are_fractions(all_joints(p for frame in raw for p in frame.people), str(path))
    frames = [_in_units(frame, fractions) for frame in raw]
    reader.notes += _unit_note(path, frames, fractions)
    if not fractions:
        for size in dict.fromkeys(frame.size for frame in frames if frame.size is not None):
            of_size = [frame for frame in frames if frame.size == size]
            check_stated([p for frame in of_size for p in frame.people], size, of_size[0].where)
    return PosesJson(frames, reader.problems, [*reader.notes, *reader.left_out()])


def _load(path: Path, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_missing)
    except (ValueError, RecursionError) as err:
        what = "too deeply nested" if isinstance(err, RecursionError) else str(err)
        raise XmdptError(f"{path}: not JSON ({what})", UNDERSTOOD) from None


def _missing(name: str) -> None:
    """Read NaN, which Python writes for a missing joint, as null. Infinity is an error."""
    if name != "NaN":
        raise ValueError(f"{name} is not a number; a missing joint is null or has confidence 0")


def _in_units(frame: ImagePoses, fractions: bool) -> ImagePoses:
    """A frame as read -> in pixels, or in fractions if its size is not stated."""
    people, size = frame.people, frame.size
    if fractions and size == (1, 1):
        size = None  # some files state fractions in this way
    if fractions and size is not None:
        people = [points * size[::-1] for points in people]
    unstated = size is None
    return replace(
        frame,
        people=people,
        size=size,
        unsized=unstated and not fractions,
        shapeless=unstated and fractions,
    )


def _unit_note(path: Path, frames: list[ImagePoses], fractions: bool) -> list[str]:
    sizes = {frame.size for frame in frames if frame.size is not None}
    stated = "images of several sizes"
    if len(sizes) == 1:
        ((height, width),) = sizes
        stated = f"{width} x {height}"
    if fractions:
        return [f"{path.name}: in fractions of {stated if sizes else 'the image'}"]
    return [f"{path.name}: in pixels of {stated}, as the file states"] if sizes else []


@dataclass
class _Reader:
    """Reads the frames of one file, and counts the joints that it leaves out."""

    path: Path
    min_score: float
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    low: int = 0  # joints left out for their score
    found: int = 0
    scaled: list[Pair] = field(default_factory=list)  # joints that are a scaled -1, -1

    def left_out(self) -> list[str]:
        """Notes on the joints and annotations that were left out."""
        notes = scaled_note(self.path.name, self.scaled)
        if self.low:
            notes.append(
                f"{self.path.name}: {self.low} of {self.low + self.found} joints have a score "
                f"below {self.min_score:g} and are left out (--min-score)"
            )
        if self.problems:
            first, count = self.problems[0], len(self.problems)
            which = f"{count} annotations are" if count > 1 else "1 annotation is"
            notes.append(f"{self.path.name}: {which} left out ({first.file}: {first.reason})")
        return notes

    def no_people(self, frames: list[ImagePoses]) -> XmdptError:
        """The error for a file in which no joint was found."""
        if self.problems:
            first = self.problems[0]
            return XmdptError(f"{self.path.parent / first.file}: {first.reason}", UNDERSTOOD)
        if not frames:
            return XmdptError(f"{self.path}: no poses in it", UNDERSTOOD)
        where = frames[0].where if len(frames) == 1 else f"{self.path}, all {len(frames)} frames"
        low = f"; {self.low} joints have a score below {self.min_score:g}" if self.low else ""
        hint = "lower --min-score, if these joints are right" if self.low else UNDERSTOOD
        return XmdptError(f"{where}: no person in it (no joint of a body){low}", hint)

    def frames(self, data: Any) -> Iterator[ImagePoses]:
        """The frames of a whole file."""
        where = str(self.path)
        if isinstance(data, dict):
            read = next((read for key, read in _FORMS.items() if key in data), None)
            if read is None:
                keys = ", ".join(shown(str(key), 30) for key in list(data)[:6]) or "nothing"
                raise XmdptError(f"{where}: no pose (it holds: {keys})", UNDERSTOOD)
            return read(self, data, _canvas(data, where), where)
        entries = data if isinstance(data, list) else []
        if any(_is_of_coco(entry) for entry in entries):
            return self.coco({"annotations": data}, None, where)
        if entries and all(_is_of_mmpose(entry) for entry in entries):
            return self.one_frame({"people": data}, None, where)
        if any(isinstance(entry, dict) for entry in entries):
            return self.sequence({"frames": data}, None, where)
        raise XmdptError(f"{where}: no pose ({kind(data)})", UNDERSTOOD)

    def one_frame(
        self, node: dict[str, Any], canvas: Size | None, where: str
    ) -> Iterator[ImagePoses]:
        """People in a list, or one person's keypoints."""
        people = next((node[key] for key in ("people", "instances") if key in node), None)
        if people is None and "people" not in node and "instances" not in node:
            # a frame without people may have no keypoints
            people = [] if node["keypoints"] in (None, []) else [node]
        yield ImagePoses(self.people(people, where), canvas, where)

    def sequence(
        self, data: dict[str, Any], canvas: Size | None, where: str
    ) -> Iterator[ImagePoses]:
        """A list of frames, each with the keys of ``one_frame``."""
        frames = next(data[key] for key in ("frames", "instance_info") if key in data)
        if not isinstance(frames, list):
            raise XmdptError(f"{where}: frames is {kind(frames)} instead of a list", UNDERSTOOD)
        for number, node in enumerate(frames, start=1):
            inside = f"{where}, frame {number}"
            if not isinstance(node, dict) or not {"people", "instances", "keypoints"} & set(node):
                raise XmdptError(f"{inside}: no pose ({kind(node)})", UNDERSTOOD)
            yield from self.one_frame(node, _canvas(node, inside) or canvas, inside)

    def predictions(
        self, data: dict[str, Any], canvas: Size | None, where: str
    ) -> Iterator[ImagePoses]:
        """MMPose: a list of the people of each image."""
        frames = data["predictions"]
        if not isinstance(frames, list):
            raise XmdptError(f"{where}: no pose (it holds: predictions)", UNDERSTOOD)
        for number, people in enumerate(frames, start=1):
            inside = f"{where}, frame {number}"
            yield ImagePoses(self.people(people, inside), canvas, inside)

    def coco(self, data: dict[str, Any], canvas: Size | None, where: str) -> Iterator[ImagePoses]:
        """A frame for each image that an annotation names, in the order of the annotations. Broken
        annotations are problems."""
        annotations, images = data["annotations"], data.get("images", [])
        if not (isinstance(annotations, list) and isinstance(images, list)):
            raise XmdptError(f"{where}: annotations and images are not lists", UNDERSTOOD)
        table = {str(i.get("id")): i for i in images if isinstance(i, dict)}
        groups: dict[str, list[Keypoints]] = {}
        for number, entry in enumerate(annotations, start=1):
            label = f"annotation {number}"
            try:
                if not _is_of_coco(entry):
                    raise XmdptError(f"{label}: no image_id and keypoints")
                people = self.people([entry], label)
            except XmdptError as err:
                reason = err.message.removeprefix(f"{label}: ")
                self.problems.append(Problem(f"{self.path.name}, {label}", reason, kept=True))
                continue
            # an image without people is kept: it may be a frame of a video
            groups.setdefault(str(entry["image_id"]), []).extend(people)
        for name, people in groups.items():
            image, size = table.get(name, {}), canvas
            try:
                size = _canvas(image, f"image {shown(name)}") or canvas
            except XmdptError as err:  # the size is then determined as if it were not stated
                self.problems.append(Problem(self.path.name, err.message, kept=True))
            # without a table of images the id is the file's name, or a number
            file = str(image.get("file_name", "")) or name
            inside = f"{where}, image {shown(name)}"
            yield ImagePoses(people, size, inside, file, separate=bool(table))

    def people(self, entries: Any, where: str) -> list[Keypoints]:
        """Everyone with at least one joint; an entry may be hands or a face without a body."""
        if not isinstance(entries, list):
            raise XmdptError(f"{where}: people is {kind(entries)} instead of a list", UNDERSTOOD)
        people = []
        for number, person in enumerate(entries, start=1):
            inside = where if len(entries) == 1 else f"{where}, person {number}"
            if not isinstance(person, dict):
                raise XmdptError(f"{inside}: {kind(person)} instead of keypoints", UNDERSTOOD)
            key = next((k for k in ("pose_keypoints_2d", "keypoints") if k in person), None)
            if key is None:
                raise XmdptError(f"{inside}: no pose_keypoints_2d and no keypoints", UNDERSTOOD)
            if person[key] is None or person[key] == []:
                continue
            points, scores = joint_table(person, key, inside)
            joints = our_joints(without_missing(points, scores, self.min_score))
            scored = np.asarray(True if scores is None else scores >= self.min_score)
            self.scaled += pairs_of(points, scaled_missing(points) & scored)
            if scores is not None:
                confident = our_joints(without_missing(points))
                self.low += int((~not_found(confident) & not_found(joints)).sum())
            if seen(joints).any():
                self.found += int(seen(joints).sum())
                people.append(joints)
        return people


#: the first of these keys that a file has decides how it is read
_FORMS: dict[str, Callable[[_Reader, dict[str, Any], Size | None, str], Iterator[ImagePoses]]] = {
    "people": _Reader.one_frame,  # OpenPose, and our own form
    "instances": _Reader.one_frame,  # MMPose
    "frames": _Reader.sequence,  # our own form
    "instance_info": _Reader.sequence,  # MMPose, a video
    "annotations": _Reader.coco,
    "keypoints": _Reader.one_frame,  # our own form
    "predictions": _Reader.predictions,  # MMPose
}


def _is_of_coco(entry: Any) -> bool:
    return isinstance(entry, dict) and "image_id" in entry and "keypoints" in entry


def _is_of_mmpose(entry: Any) -> bool:
    return isinstance(entry, dict) and "keypoints" in entry and bool(_OF_MMPOSE & set(entry))


def _canvas(node: dict[str, Any], where: str) -> Size | None:
    """The (height, width) that a file, frame or image states; XmdptError for unusable numbers."""
    for wide, high in (("canvas_width", "canvas_height"), ("width", "height")):
        if wide not in node and high not in node:
            continue
        sides = [side for side in (node.get(high), node.get(wide)) if is_number(side)]
        if len(sides) < 2 or min(sides) <= 0 or max(sides) > FARTHEST:
            raise XmdptError(f"{where}: {wide} and {high} are not two positive numbers", _SIZE_HINT)
        return max(1, round(sides[0])), max(1, round(sides[1]))
    return None
