"""Published keypoints beside the pictures: annotation CSV files, and PIDM's ``pose/`` tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.data.lists import (
    SPLITS,
    Problem,
    is_padded,
    read_annotation_csv,
    read_pose_txt,
    to_fractions,
)
from xmdpt_cli.data.names import ImageName
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.data.sources.layouts import GENDERS, Place

# The published files say "fasion"; corrected copies exist.
STEMS = ("fasion-resize", "fashion-resize", "fasion", "fashion")
_POSE_TREES = ("pose", "pose/img", "pose/img_highres")


@dataclass
class KeypointFiles:
    """What was found; ``label`` is empty where there are no keypoint files at all."""

    root: Path
    label: str = ""
    rows: dict[str, Keypoints] = field(default_factory=dict)  # fractions, by ImageName.picture
    pose: str = ""  # folder below the root, "" if there is none
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, name: ImageName) -> Keypoints | None:
        """Fractions of width and height (18, 2), NaN missing; None if there are none.

        Raises ValueError or OSError if there is a pose file that cannot be read.
        """
        points = self.rows.get(name.picture)
        if points is not None or not self.pose:
            return points
        try:
            return read_pose_txt(self.root / self.pose_file(name))
        except FileNotFoundError:
            return None

    def pose_file(self, name: ImageName) -> str:
        """Where the pose file of this picture belongs, below the root."""
        return f"{self.pose}/{name.path.rsplit('.', 1)[0]}.txt"


def read_keypoint_files(root: Path, places: Sequence[Place]) -> KeypointFiles:
    """All annotation files of the first family that is there; ``pose/`` fills the gaps."""
    files = KeypointFiles(root)
    for stem in STEMS:
        paths = [_first(places, f"{stem}-annotation-{split}.csv") for split in SPLITS]
        there = [root / path for path in paths if path is not None]
        if there:
            files.label = _read_annotations(files, stem, there)
            break
    files.pose = _find_pose(root, places)
    if files.pose:
        gaps = " where an annotation row is missing" if files.rows else ""
        files.notes.append(f"keypoints: {files.pose}/, padded 256x256 frame{gaps}")
        txt = "pose txt in the padded 256x256 frame"
        files.label = f"{files.label}, pose txt for the rest" if files.label else txt
    return files


def _first(places: Sequence[Place], file: str) -> str | None:
    return next((place.below(file) for place in places if file in place.files), None)


def _read_annotations(files: KeypointFiles, stem: str, paths: list[Path]) -> str:
    read = [(path, *read_annotation_csv(path)) for path in paths]
    # "-resize-" is the 256x176 frame; without it either frame exists, and a family of files
    # is in one frame.
    padded = "resize" not in stem and any(is_padded(rows) for _, rows, _ in read)
    frame = "padded 256x256 frame" if padded else "256x176 frame"
    for path, rows, problems in read:
        files.problems += problems
        for picture, points in rows.items():
            files.rows.setdefault(picture, to_fractions(points, padded))
        files.notes.append(f"keypoints: {path.name}, {len(rows)} rows, {frame}")
    return f"annotations in the {frame}"


def _find_pose(root: Path, places: Sequence[Place]) -> str:
    """The folder below which the tree of pose files begins, "" if there is no ``pose/``."""
    top = next((place.below("pose") for place in places if "pose" in place.folders), None)
    if top is None:
        return ""
    trees = [top.removesuffix("pose") + tree for tree in _POSE_TREES]
    full = (t for t in trees if any((root / t / gender).is_dir() for gender in GENDERS))
    return next(full, top)
