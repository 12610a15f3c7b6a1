"""Keypoints beside one's own images: ``annotations.csv`` in the root, ``pose/<path>.txt``, and
files beside the images (``beside_keypoints``)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from xmdpt_cli.datasets.beside_keypoints import BesideKeypoints
from xmdpt_cli.datasets.listing import ImageRef
from xmdpt_cli.datasets.published_keypoints import (
    FramedRows,
    KeypointFiles,
    SizeOfRow,
    decide_of_poses,
    in_frame,
)
from xmdpt_cli.datasets.scan import printable
from xmdpt_cli.datasets.stored import stored_image_size
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.text_rows import Annotations, read_annotations, read_pose_txt
from xmdpt_cli.pose.frames import OWN_POSES, PADDED, CoordinateFrame
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.deepfashion_names import match_key
from xmdpt_cli.utils.problems import Problem

ANNOTATIONS = "annotations.csv"  # the published form, the name a path below the root
WANTED_NAME = "alice/front.jpg"
POSE = "pose"  # pose/alice/front.jpg.txt or pose/alice/front.txt


@dataclass
class OwnImages:
    """The images that need keypoints; their sizes decide the frame of keypoint files."""

    root: Path
    images: dict[str, ImageRef]  # by the name below the root

    def __post_init__(self) -> None:
        self.names = list(self.images)
        keys = {name: match_key(name) for name in self.names}
        self.published = [key for key in keys.values() if key is not None]
        self._by_key = {_same_letters(name): image for name, image in self.images.items()}
        self._by_key |= {key.key: self.images[n] for n, key in keys.items() if key}

    def check_named(self, file: Annotations) -> None:
        """XmdptError if no row of an annotation file names an image."""
        if file.points and not any(name in self._by_key for name in file.points):
            name = next(iter(file.points))
            image = self.names[0] if self.names else WANTED_NAME
            raise XmdptError(
                f"{file.path}: none of its {len(file.points)} rows names an image below "
                f"{self.root} (the first, line {file.lines[name]}: {printable(name)})",
                f"a name is the path below that folder, as {printable(image)}; or remove the file",
            )

    def size_of(self, key: str) -> Size | None:
        """By the name below the root or by ``ImageName.key``; None where it is not known, and
        for padded images, whose pixels are cut."""
        image = self._by_key.get(_same_letters(key))
        if image is None or getattr(image, "padded", False):
            return None
        return stored_image_size(image)


@dataclass
class OwnKeypoints:
    """All keypoint files; a damaged one is a problem, and its image is left to OpenPose."""

    root: Path
    published: KeypointFiles
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: FramedRows | None = None
    problems: list[Problem] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    pose: bool = False
    pose_frame: CoordinateFrame = PADDED
    pose_size: SizeOfRow = lambda image: None
    beside: BesideKeypoints | None = None  # None: not looked for

    @classmethod
    def read(
        cls,
        images: OwnImages,
        published: KeypointFiles,
        *,
        beside: bool = True,
        frame: CoordinateFrame | None = None,
    ) -> OwnKeypoints:
        """``annotations.csv`` and what ``published`` already found; pose files and files beside
        the images (``beside``: there may be some) are read later. ``frame``: ``--frame``, None:
        decided from the values and the images' sizes."""
        root = images.root
        own = cls(root, published, problems=list(published.problems))
        if (root / ANNOTATIONS).is_file():
            file = read_annotations(root / ANNOTATIONS, _same_letters)
            images.check_named(file)
            own.rows, decision = FramedRows.decide(
                file, images.size_of, deepfashion=False, forced=frame
            )
            own.problems += file.problems
            own.notes += [*file.notes, f"keypoints: {ANNOTATIONS}, {decision}"]
            own.labels.append(f"{ANNOTATIONS} (frame {decision.frame})")
        if beside:
            own.beside = BesideKeypoints(root, root / ANNOTATIONS, own.problems, frame)
            own.notes += own.beside.settle(images.names, images.size_of)
        own.pose = (root / POSE).is_dir()
        if published.files or (published.pose and images.published):
            published.settle(images.published, images.size_of, frame)
            own.notes += published.notes
            own.labels.append(published.label)
            own.pose_frame, own.pose_size = published.pose_frame, images.size_of
        elif own.pose:
            own._settle_pose(images, frame)
        return own

    def _settle_pose(self, images: OwnImages, frame: CoordinateFrame | None) -> None:
        """The frame of ``pose/`` by the files of some images; as published if there are none."""
        files = {name: self._pose_files(name) for name in images.names}
        decision, notes = decide_of_poses(self.root, POSE, files, images.size_of, OWN_POSES, frame)
        self.notes += notes
        if decision is not None:
            self.pose_frame = decision.frame
            self.notes.append(f"keypoints: {POSE}/, {decision}")
        self.pose_size = images.size_of
        self.labels.append(f"pose txt (frame {self.pose_frame})")

    def _pose_files(self, image: str) -> tuple[str, ...]:
        stem = image.rsplit(".", 1)[0]
        return (f"{POSE}/{image}.txt", f"{POSE}/{stem}.txt") if self.pose else ()

    def find(self, image: str) -> Keypoints | None:
        """Fractions (18, 2), NaN missing, of the image of this name below the root, or None."""
        name = _same_letters(image)
        if self.rows is not None and name in self.rows.file.points:
            self.used.add(name)
            try:
                return self.rows.find(name)
            except ValueError as err:
                self._broken(self.rows.file.where(name), err, "annotation row")
                return None
        for file in self._pose_files(image):
            try:
                raw = read_pose_txt(self.root / file).points
                return in_frame(raw, self.pose_frame, lambda: self.pose_size(image))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as err:
                self._broken(file, err)
        points = None if self.beside is None else self.beside.find(image)
        published = match_key(image)
        if points is not None or published is None:
            return points
        try:
            return self.published.find(published)
        except (OSError, ValueError) as err:
            self._broken(self.published.source(published), err, "keypoints")
            return None

    def label(self) -> str:
        """The files that were used, after ``find`` for every image; "" for none."""
        return " and ".join(self.labels + ([] if self.beside is None else self.beside.label()))

    def _broken(self, file: str, err: Exception, what: str = "pose file") -> None:
        self.problems.append(Problem(file, f"{what}, left to OpenPose: {err}", kept=True))

    def close(self) -> list[Problem]:
        """All problems, after ``find`` for every image."""
        if self.beside is not None:
            self.notes += self.beside.close(alone=not self.labels)
        rows = [] if self.rows is None else list(self.rows.file.points)
        unused = [name for name in rows if name not in self.used]
        what = f"annotation of no usable image: in {ANNOTATIONS}"
        return self.problems + [Problem(name, what, kept=True) for name in unused]


def _same_letters(name: str) -> str:
    """One form of accents, which systems store differently, and of paths: ./alice\\front.jpg is
    alice/front.jpg."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()
