"""DeepFashion's published keypoints: annotation CSV files, and PIDM's ``pose/`` tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from xmdpt_cli.datasets.keypoint_sources import (
    AnnotationRows,
    KeypointSource,
    PoseFiles,
    decide_pose_files,
    decide_rows,
)
from xmdpt_cli.datasets.layouts import GENDERS, Place
from xmdpt_cli.datasets.pair_lists import STEMS
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.text_rows import Annotations, read_annotations
from xmdpt_cli.pose.frame_decision import Decision
from xmdpt_cli.pose.frames import PADDED, PHOTOGRAPHS, CoordinateFrame
from xmdpt_cli.utils.deepfashion_names import ImageName, match_key, parse_name
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

_POSE_TREES = ("pose", "pose/img", "pose/img_highres")


@dataclass(frozen=True)
class PublishedFiles:
    """The keypoint files that lie below ``root``; true if there are any."""

    root: Path
    annotations: list[Annotations]  # rows by ImageName.key
    pose: str  # folder of pose files below the root, "" if there is none

    def __bool__(self) -> bool:
        return bool(self.annotations or self.pose)

    @property
    def problems(self) -> list[Problem]:
        return [problem for file in self.annotations for problem in file.problems]


@dataclass
class PublishedKeypoints:
    """The keypoint files as sources, in decided frames."""

    sources: list[KeypointSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label: str = ""
    pose_frame: CoordinateFrame = PADDED


def find_published_files(root: Path, places: Sequence[Place]) -> PublishedFiles:
    """All annotation files of the first family that is there, and the ``pose/`` tree."""
    families = ([f"{stem}-annotation-{split}.csv" for split in SPLITS] for stem in STEMS)
    existing = (
        [root / place for file in files if (place := _first(places, file)) is not None]
        for files in families
    )
    paths = next((paths for paths in existing if paths), [])
    annotations = [read_annotations(path, lambda name: parse_name(name).key) for path in paths]
    return PublishedFiles(root, annotations, _find_pose(root, places))


def published_keypoints(
    files: PublishedFiles,
    names: Sequence[ImageName],
    size_of_key: Callable[[str], Size | None],
    forced: CoordinateFrame | None = None,
) -> PublishedKeypoints:
    """The files as sources: annotations first, the larger file before; pose files fill the gaps.

    ``names``: images from whose pose files the frame is decided; ``size_of_key``: (height, width)
    by ``ImageName.key``. Raises XmdptError if a frame cannot be decided.
    """
    found = PublishedKeypoints(notes=[note for file in files.annotations for note in file.notes])
    labels = []
    like: CoordinateFrame | None = None

    def size_of(image: str) -> Size | None:
        return size_of_key(_key(image))

    for file in sorted(files.annotations, key=lambda file: -len(file.points)):
        decision = decide_rows(file, size_of_key, lambda _: PHOTOGRAPHS, forced, like)
        like = decision.frame if like is None else like
        found.sources.append(AnnotationRows(file, decision.frame, _key, size_of))
        found.notes.append(f"keypoints: {file.path.name}, {len(file.points)} rows, {decision}")
        labels.append(f"annotations (frame {decision.frame})")
    if files.pose:

        def file_of(image: str) -> str | None:
            name = _match(image)
            return None if name is None else f"{files.pose}/{name.path.rsplit('.', 1)[0]}.txt"

        some = {name.key: [path] for name in names if (path := file_of(name.path)) is not None}
        decided, notes = decide_pose_files(
            files.root, files.pose, some, size_of_key, PHOTOGRAPHS, forced
        )
        how = "by --frame" if forced else "as published"
        decision = decided or Decision(forced or PADDED, how)
        found.pose_frame = decision.frame
        found.sources.append(PoseFiles(files.root, decision.frame, file_of, size_of))
        gaps = " where an annotation row is missing" if labels else ""
        found.notes += [*notes, f"keypoints: {files.pose}/, {decision}{gaps}"]
        labels.append("pose txt for the rest" if labels else f"pose txt (frame {decision.frame})")
    found.label = ", ".join(dict.fromkeys(labels))
    return found


_match = lru_cache(maxsize=2**18)(match_key)  # called by every source for every image


def _key(image: str) -> str:
    name = _match(image)
    return "" if name is None else name.key


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
