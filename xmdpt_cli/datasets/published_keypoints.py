"""Published keypoints beside the images: annotation CSV files, and PIDM's ``pose/`` tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmdpt_cli.datasets.layouts import GENDERS, Place
from xmdpt_cli.datasets.pair_lists import STEMS
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.missing import Pair, scaled_note
from xmdpt_cli.pose.formats.text_rows import Annotations, read_annotations, read_pose_txt
from xmdpt_cli.pose.frame_decision import Decision, decide, some_of
from xmdpt_cli.pose.frame_fit import mostly_outside
from xmdpt_cli.pose.frames import PADDED, PHOTOGRAPHS, CoordinateFrame, Placement, of_own_images
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.utils.deepfashion_names import ImageName, parse_name
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

_POSE_TREES = ("pose", "pose/img", "pose/img_highres")
OUTSIDE = "most joints lie outside of the image"
#: the size of the image that a row or pose file belongs to, None where it is not known
SizeOfRow = Callable[[str], "Size | None"]


@dataclass
class FramedRows:
    """An annotation file and the frame that it was found to be in."""

    file: Annotations
    frame: CoordinateFrame
    size_of: SizeOfRow

    @classmethod
    def decide(
        cls,
        file: Annotations,
        size_of: SizeOfRow,
        *,
        deepfashion: bool,
        forced: CoordinateFrame | None,
        like: CoordinateFrame | None = None,
    ) -> tuple[FramedRows, Decision]:
        """XmdptError where the frame cannot be decided."""
        names = list(file.points)
        some = [names[i] for i in some_of(len(names))]
        raw = np.reshape([file.points[name] for name in some], (len(some), len(JOINTS), 2))
        keys = [f"{file.where(name)}, {name}" for name in some]
        sizes = sizes_of(some, size_of)
        placement = PHOTOGRAPHS if deepfashion else of_own_images(sizes)
        decision = decide(file.path.name, keys, raw, sizes, placement, forced, like)
        return cls(file, decision.frame, size_of), decision

    def find(self, key: str) -> Keypoints | None:
        """Fractions (18, 2), NaN missing; None for no such row. ValueError for unusable ones."""
        raw = self.file.points.get(key)
        return None if raw is None else in_frame(raw, self.frame, lambda: self.size_of(key))


def in_frame(raw: Keypoints, frame: CoordinateFrame, size: Callable[[], Size | None]) -> Keypoints:
    """Raw (18, 2) points of one image as fractions; ValueError if most are outside of it."""
    sides = None
    if frame.of_images:
        height_width = size()
        if height_width is None:
            raise ValueError("the size of its image is not known")
        sides = np.array(height_width[::-1], dtype=np.float64)
    points = frame.fractions(raw, sides)
    if mostly_outside(points):
        raise ValueError(OUTSIDE)
    return points


def sizes_of(keys: Sequence[str], size_of: SizeOfRow) -> np.ndarray | None:
    """(N, 2) width and height, NaN unknown; None if none is known."""
    sizes = [size_of(key) for key in keys]
    if not any(sizes):
        return None
    nothing = (np.nan, np.nan)
    return np.array([nothing if size is None else size[::-1] for size in sizes], dtype=np.float64)


def decide_of_poses(
    root: Path,
    folder: str,
    files: Mapping[str, Sequence[str]],
    size_of: SizeOfRow,
    placement: Placement,
    forced: CoordinateFrame | None,
) -> tuple[Decision | None, list[str]]:
    """The frame of a folder of pose files, by those of some images, and notes on how it was read.

    ``files``: by image, what its pose file may be called below ``root``. None if there is none.
    XmdptError where the frame cannot be decided.
    """
    there: dict[str, Keypoints] = {}
    names: list[str] = []
    scaled: list[Pair] = []
    keys = list(files)
    for key in (keys[i] for i in some_of(len(keys))):
        for file in files[key]:
            try:
                there[key], pairs = read_pose_txt(root / file)
            except (OSError, ValueError):  # named when it is needed
                continue
            scaled += pairs
            names.append(file)
            break
    notes = scaled_note(f"{folder}/", scaled)
    if not there:
        return None, notes
    raw, sizes = np.stack(list(there.values())), sizes_of(list(there), size_of)
    return decide(f"{folder}/", names, raw, sizes, placement, forced), notes


@dataclass
class KeypointFiles:
    """What was found; ``label`` is empty where there are no keypoint files at all.

    ``settle`` decides the frames, which takes the images' sizes; before it ``find`` may not be
    called.
    """

    root: Path
    label: str = ""
    files: list[Annotations] = field(default_factory=list)  # by ImageName.key
    pose: str = ""  # folder below the root, "" if there is none
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    framed: list[FramedRows] = field(default_factory=list)
    pose_frame: CoordinateFrame = PADDED
    size_of: SizeOfRow = lambda key: None

    def settle(
        self,
        names: Sequence[ImageName],
        size_of: SizeOfRow,
        forced: CoordinateFrame | None = None,
    ) -> None:
        """Decide the frame of each file and of the pose tree, and note how.

        ``names``: of images, among which pose files are looked at. ``size_of``: by
        ``ImageName.key``. XmdptError where a frame cannot be decided.
        """
        self.size_of = size_of
        labels = []
        like: CoordinateFrame | None = None
        for file in sorted(self.files, key=lambda file: -len(file.points)):
            rows, decision = FramedRows.decide(
                file, size_of, deepfashion=True, forced=forced, like=like
            )
            like = decision.frame if like is None else like
            self.framed.append(rows)
            self.notes.append(f"keypoints: {file.path.name}, {len(file.points)} rows, {decision}")
            labels.append(f"annotations (frame {decision.frame})")
        if self.pose:
            gaps = " where an annotation row is missing" if self.files else ""
            files = {name.key: [self.pose_file(name)] for name in names}
            found, notes = decide_of_poses(
                self.root, self.pose, files, size_of, PHOTOGRAPHS, forced
            )
            how = "by --frame" if forced else "as published"
            decision = found or Decision(forced or PADDED, how)
            self.notes += notes
            self.pose_frame = decision.frame
            self.notes.append(f"keypoints: {self.pose}/, {decision}{gaps}")
            txt = f"pose txt (frame {decision.frame})"
            labels.append("pose txt for the rest" if labels else txt)
        self.label = ", ".join(dict.fromkeys(labels))

    def find(self, name: ImageName) -> Keypoints | None:
        """Fractions of width and height (18, 2), NaN missing; None if there are none.

        Raises ValueError or OSError if there is a row or pose file that cannot be used.
        """
        for rows in self.framed:
            points = rows.find(name.key)
            if points is not None:
                return points
        if not self.pose:
            return None
        try:
            raw = read_pose_txt(self.root / self.pose_file(name)).points
        except FileNotFoundError:
            return None
        return in_frame(raw, self.pose_frame, lambda: self.size_of(name.key))

    def source(self, name: ImageName) -> str:
        """What holds the keypoints of this image: ``file:line``, or the pose file's place."""
        rows = next((rows for rows in self.framed if name.key in rows.file.points), None)
        return self.pose_file(name) if rows is None else rows.file.where(name.key)

    def pose_file(self, name: ImageName) -> str:
        """Where the pose file of this image belongs, below the root."""
        return f"{self.pose}/{name.path.rsplit('.', 1)[0]}.txt"


def read_keypoint_files(root: Path, places: Sequence[Place]) -> KeypointFiles:
    """All annotation files of the first family that is there; ``pose/`` fills the gaps."""
    files = KeypointFiles(root)
    for stem in STEMS:
        paths = [_first(places, f"{stem}-annotation-{split}.csv") for split in SPLITS]
        there = [root / path for path in paths if path is not None]
        if there:
            files.files = [read_annotations(path, _image) for path in there]
            break
    for file in files.files:
        files.problems += file.problems
        files.notes += file.notes
    files.pose = _find_pose(root, places)
    if files.files or files.pose:
        files.label = "keypoints"
    return files


def _image(name: str) -> str:
    return parse_name(name).key


def _first(places: Sequence[Place], file: str) -> str | None:
    return next((place.below(file) for place in places if file in place.files), None)


def _find_pose(root: Path, places: Sequence[Place]) -> str:
    """The folder below which the tree of pose files begins, "" if there is no ``pose/``."""
    top = next((place.below("pose") for place in places if "pose" in place.folders), None)
    if top is None:
        return ""
    trees = [top.removesuffix("pose") + tree for tree in _POSE_TREES]
    full = (t for t in trees if any((root / t / gender).is_dir() for gender in GENDERS))
    return next(full, top)
