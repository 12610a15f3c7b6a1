"""Keypoint files beside one's own images, in any format that ``pose.formats`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmdpt_cli.datasets.keypoint_sources import SizeOf, sizes_of
from xmdpt_cli.datasets.scan import printable
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.pose.formats import open_file
from xmdpt_cli.pose.formats.beside_images import KeypointsBeside, largest_fractions
from xmdpt_cli.pose.formats.missing import TAKEN
from xmdpt_cli.pose.frame_decision import decide, decide_alone, some_of
from xmdpt_cli.pose.frames import OWN_POSES, CoordinateFrame
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.problems import Problem

#: suffixes of files beside the images that do not state the frame of their values
UNSTATED = (".txt", ".csv")
#: how problems with files beside the images begin
UNUSABLE = "keypoints that cannot be used, left to OpenPose"


@dataclass
class BesideKeypoints:
    """The files beside the images of ``root``, as a source of keypoints.

    Unusable files are added to ``problems``. Call ``decide_frames``, then ``find`` for every image,
    then ``label`` and ``close``.
    """

    root: Path
    skip: Path  # a file that another source reads
    problems: list[Problem]
    forced: CoordinateFrame | None = None  # --frame
    images: int = 0  # that a file was used for
    files: set[Path] = field(default_factory=set)  # that were used
    scaled: dict[Path, str] = field(default_factory=dict)  # notes on scaled -1, -1

    def __post_init__(self) -> None:
        self._beside = KeypointsBeside(skip=[self.skip], report=self._report)

    def decide_frames(self, images: Sequence[str], size_of: SizeOf) -> list[str]:
        """Decide the frame of files that do not state it, from some of them; returns notes.

        ``images``: names below the root. XmdptError where a frame cannot be decided.
        """
        notes = []
        if self.forced is not None:
            self._beside.frames = dict.fromkeys(UNSTATED, self.forced)
        files = {name: self._beside.own_file(self.root / name) for name in images}
        for suffix in UNSTATED:
            of_suffix = [n for n, file in files.items() if file and file.suffix.lower() == suffix]
            some = (of_suffix[i] for i in some_of(len(of_suffix)))
            found = {name: _only_pose(files[name]) for name in some}
            present = {name: points for name, points in found.items() if points is not None}
            if not present:
                continue
            names, what = list(present), f"{suffix} files beside the images"
            raw, sizes = np.stack(list(present.values())), sizes_of(names, size_of)
            if suffix == ".csv" and self.forced is None:  # a row alone is as sample reads it
                decision = decide_alone(what, names[0], raw, sizes)
            else:
                decision = decide(what, names, raw, sizes, OWN_POSES, self.forced)
            self._beside.frames[suffix] = decision.frame
            notes.append(f"keypoints: {what}, {decision}")
        return notes

    def find(self, image: str) -> Keypoints | None:
        """Fractions (18, 2), NaN missing, of the image of this name below the root, or None."""
        path = self.root / image
        try:
            found = self._beside.find(path, self.root)
        except XmdptError as err:
            self._report(self._beside.own_file(path) or path, err.message)
            return None
        if found is None:
            return None
        if len(found.frame.people) > 1:
            what = f"several people in its keypoints: the largest is taken ({found.file.name})"
            self.problems.append(Problem(image, what, kept=True))
        self.images += 1
        self.files.add(found.file)
        notes = [note for note in found.notes if TAKEN in note]
        if notes:
            self.scaled[found.file] = "; ".join(notes)
        return largest_fractions(found.frame)

    def label(self) -> list[str]:
        """The files that were used, empty for none."""
        if not self.images:
            return []
        images, files = counted(self.images, "image"), counted(len(self.files), "file")
        return [f"keypoints of {images} in {files} beside {'it' if self.images == 1 else 'them'}"]

    def close(self, *, alone: bool) -> list[str]:
        """Notes, after ``find`` for every image. ``alone``: no other keypoint files were found."""
        notes = []
        if self.scaled:
            more = len(self.scaled) - 1
            also = f"; so in {more} more of the files beside the images" if more else ""
            notes.append(f"keypoints: {next(iter(self.scaled.values()))}{also}")
        others = sorted(f.name for f in self.files if f.suffix.lower() not in UNSTATED)
        if self.forced is None or not others:
            return notes
        what = (
            f"--frame {self.forced.name} does not apply to JSON files beside the images "
            f"({others[0]})"
        )
        if alone and len(others) == len(self.files):
            raise ConfigError(
                f"{what}: they state themselves what their numbers are of",
                'leave --frame out; the size of their image is "canvas_width", "canvas_height"',
            )
        return [*notes, f"keypoints: {what}"]

    def _report(self, file: Path, reason: str) -> None:
        """A file that cannot be used, or a line of one."""
        name = printable(file.relative_to(self.root).as_posix())
        self.problems.append(Problem(name, f"{UNUSABLE}: {reason}", kept=True))


def _only_pose(path: Path | None) -> Keypoints | None:
    """The joints of a file of one image and person, None if there is none or it cannot be used."""
    try:
        frames = open_file(path).frames if path else []
    except XmdptError:  # reported when it is needed
        return None
    return frames[0].people[0] if len(frames) == 1 and len(frames[0].people) == 1 else None
