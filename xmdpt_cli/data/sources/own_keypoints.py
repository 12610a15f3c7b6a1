"""Keypoints beside one's own pictures: ``annotations.csv`` in the root, ``pose/<path>.txt``, and
files beside the pictures in any format that is read (``data/keypoints_beside.py``)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.data.keypoints_beside import KeypointsBeside, largest_fractions
from xmdpt_cli.data.lists import Problem, Rows, read_own_annotations, read_pose_txt, to_fractions
from xmdpt_cli.data.names import match_key
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.data.sources.keypoint_files import KeypointFiles
from xmdpt_cli.data.sources.scan import printable
from xmdpt_cli.errors import XmdptError

ANNOTATIONS = "annotations.csv"  # the published form, the name a path below the root; 256x176
POSE = "pose"  # pose/alice/front.jpg.txt or pose/alice/front.txt; padded 256x256 frame
#: how problems with files beside the pictures begin
UNUSABLE = "keypoints that cannot be used, left to OpenPose"


@dataclass
class OwnKeypoints:
    """What is there; what is broken is a problem, and its picture waits for OpenPose."""

    root: Path
    published: KeypointFiles
    labels: list[str] = field(default_factory=list)
    rows: Rows = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    pose: bool = False
    beside: KeypointsBeside | None = None  # None: not looked for
    beside_files: set[Path] = field(default_factory=set)  # that were used
    beside_pictures: int = 0

    @classmethod
    def read(cls, root: Path, published: KeypointFiles, *, beside: bool = True) -> OwnKeypoints:
        """``annotations.csv`` and what ``published`` already found; pose files and files beside
        the pictures (``beside``: there may be some) are read later."""
        own = cls(root, published, problems=list(published.problems))
        if (root / ANNOTATIONS).is_file():
            rows, problems = read_own_annotations(root / ANNOTATIONS)
            own.rows = {_same_letters(name): points for name, points in rows.items()}
            own.problems += problems
            own.labels.append(f"{ANNOTATIONS} in the 256x176 frame")
        if beside:
            own.beside = KeypointsBeside(skip=[root / ANNOTATIONS], say=own._say)
        own.pose = (root / POSE).is_dir()
        if published.rows:
            own.labels.append(published.label)
        elif own.pose:
            own.labels.append("pose txt in the padded 256x256 frame")
        return own

    def find(self, picture: str) -> Keypoints | None:
        """Fractions (18, 2), NaN missing, of the picture of this name below the root, or None."""
        name = _same_letters(picture)
        if name in self.rows:
            self.used.add(name)
            return to_fractions(self.rows[name], padded=False)
        stem = picture.rsplit(".", 1)[0]
        for file in (f"{POSE}/{picture}.txt", f"{POSE}/{stem}.txt") if self.pose else ():
            try:
                return read_pose_txt(self.root / file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as err:
                self._broken(file, err)
        points = self._find_beside(picture)
        published = match_key(picture)
        if points is not None or published is None:
            return points
        try:
            return self.published.find(published)
        except (OSError, ValueError) as err:
            self._broken(self.published.pose_file(published), err)
            return None

    def _find_beside(self, picture: str) -> Keypoints | None:
        if self.beside is None:
            return None
        try:
            found = self.beside.find(self.root / picture, self.root)
        except XmdptError as err:
            file = self.beside.own_file(self.root / picture) or self.root / picture
            self._say(file, err.message)
            return None
        if found is None:
            return None
        if len(found.frame.people) > 1:
            what = f"several people in its keypoints: the largest is taken ({found.file.name})"
            self.problems.append(Problem(picture, what, kept=True))
        self.beside_files.add(found.file)
        self.beside_pictures += 1
        return largest_fractions(found.frame)

    def label(self) -> str:
        """What was used, when every picture was asked for; "" for nothing."""
        labels = list(self.labels)
        if self.beside_pictures:
            files = len(self.beside_files)
            what = "1 file" if files == 1 else f"{files} files"
            labels.append(f"keypoints of {self.beside_pictures} pictures in {what} beside them")
        return " and ".join(labels)

    def _say(self, file: Path, reason: str) -> None:
        """A file beside the pictures that cannot be used, or a line of one."""
        name = printable(file.relative_to(self.root).as_posix())
        self.problems.append(Problem(name, f"{UNUSABLE}: {reason}", kept=True))

    def _broken(self, file: str, err: Exception) -> None:
        self.problems.append(Problem(file, f"pose file, left to OpenPose: {err}", kept=True))

    def close(self) -> list[Problem]:
        """All problems, when every picture was asked for."""
        unused = [name for name in self.rows if name not in self.used]
        what = f"annotation of no usable picture: in {ANNOTATIONS}"
        return self.problems + [Problem(name, what, kept=True) for name in unused]


def _same_letters(name: str) -> str:
    """One form of accents: systems differ in how they store é in a file's name."""
    return unicodedata.normalize("NFC", name)
