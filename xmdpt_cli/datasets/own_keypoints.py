"""Keypoints of one's own images: ``annotations.csv`` in the root, ``pose/<path>.txt``, files beside
the images (``beside_keypoints``), and published files for images with DeepFashion's names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from xmdpt_cli.datasets.beside_keypoints import BesideKeypoints
from xmdpt_cli.datasets.keypoint_sources import (
    AnnotationRows,
    KeypointSource,
    PoseFiles,
    UnusableKeypointsError,
    decide_pose_files,
    decide_rows,
)
from xmdpt_cli.datasets.listing import ImageRef
from xmdpt_cli.datasets.published_keypoints import PublishedFiles, published_keypoints
from xmdpt_cli.datasets.scan import printable
from xmdpt_cli.datasets.stored import stored_image_size
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.image_size import Size
from xmdpt_cli.pose.formats.text_rows import Annotations, read_annotations
from xmdpt_cli.pose.frames import OWN_POSES, PADDED, CoordinateFrame, of_own_images
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
    """All sources of keypoints of one's own images, the preferred one first.

    Keypoints that cannot be used are problems: another source or OpenPose replaces them.
    """

    sources: list[KeypointSource] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused: list[Problem] = field(default_factory=list)  # annotation rows of no image
    beside: BesideKeypoints | None = None  # None: not searched

    @classmethod
    def read(
        cls,
        images: OwnImages,
        published: PublishedFiles,
        *,
        beside: bool = True,
        frame: CoordinateFrame | None = None,
    ) -> OwnKeypoints:
        """Find the sources and decide their frames.

        ``beside``: whether to search beside the images. ``frame``: ``--frame``; None: decided from
        the values and the images' sizes.
        """
        own = cls(problems=list(published.problems))
        own._add_annotations(images, frame)
        has_poses = (images.root / POSE).is_dir()
        pose_frame: CoordinateFrame | None = None
        of_names = None
        if beside:
            own.beside = BesideKeypoints(
                images.root, images.root / ANNOTATIONS, own.problems, frame
            )
            own.notes += own.beside.decide_frames(images.names, images.size_of)
        if published.annotations or (published.pose and images.published):
            of_names = published_keypoints(published, images.published, images.size_of, frame)
            own.notes += of_names.notes
            own.labels.append(of_names.label)
            pose_frame = of_names.pose_frame
        elif has_poses:
            pose_frame = own._decide_pose_frame(images, frame)
        if has_poses and pose_frame is not None:
            own.sources += [
                PoseFiles(images.root, pose_frame, file_of, images.size_of)
                for file_of in _POSE_FILES
            ]
        own.sources += [own.beside] if own.beside is not None else []
        own.sources += of_names.sources if of_names is not None else []
        return own

    def _add_annotations(self, images: OwnImages, frame: CoordinateFrame | None) -> None:
        path = images.root / ANNOTATIONS
        if not path.is_file():
            return
        file = read_annotations(path, _same_letters)
        images.check_named(file)
        decision = decide_rows(file, images.size_of, of_own_images, frame)
        self.sources.append(AnnotationRows(file, decision.frame, _same_letters, images.size_of))
        self.problems += file.problems
        self.notes += [*file.notes, f"keypoints: {ANNOTATIONS}, {decision}"]
        self.labels.append(f"{ANNOTATIONS} (frame {decision.frame})")
        names = {_same_letters(name) for name in images.names}
        what = f"annotation of no usable image: in {ANNOTATIONS}"
        self.unused = [Problem(row, what, kept=True) for row in file.points if row not in names]

    def _decide_pose_frame(
        self, images: OwnImages, frame: CoordinateFrame | None
    ) -> CoordinateFrame:
        """The frame of ``pose/`` by the files of some images; as published if there are none."""
        files = {name: [file_of(name) for file_of in _POSE_FILES] for name in images.names}
        decision, notes = decide_pose_files(
            images.root, POSE, files, images.size_of, OWN_POSES, frame
        )
        self.notes += notes
        if decision is not None:
            self.notes.append(f"keypoints: {POSE}/, {decision}")
        decided = PADDED if decision is None else decision.frame
        self.labels.append(f"pose txt (frame {decided})")
        return decided

    def find(self, image: str) -> Keypoints | None:
        """Fractions (18, 2), NaN missing, of the image of this name below the root, or None."""
        for source in self.sources:
            try:
                points = source.find(image)
            except UnusableKeypointsError as err:
                what = f"{err.kind}, left to OpenPose: {err}"
                self.problems.append(Problem(err.where, what, kept=True))
                if isinstance(source, AnnotationRows):
                    return None
                continue
            if points is not None:
                return points
        return None

    def label(self) -> str:
        """The files that were used, after ``find`` for every image; "" for none."""
        return " and ".join(self.labels + ([] if self.beside is None else self.beside.label()))

    def close(self) -> list[Problem]:
        """All problems, after ``find`` for every image."""
        if self.beside is not None:
            self.notes += self.beside.close(alone=not self.labels)
        return self.problems + self.unused


#: the places of an image's pose file, the first that exists is used
_POSE_FILES: tuple[Callable[[str], str], ...] = (
    lambda image: f"{POSE}/{image}.txt",
    lambda image: f"{POSE}/{image.rsplit('.', 1)[0]}.txt",
)


def _same_letters(name: str) -> str:
    """One form of accents, which systems store differently, and of paths: ./alice\\front.jpg is
    alice/front.jpg."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()
