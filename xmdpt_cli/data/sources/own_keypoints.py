"""Keypoints beside one's own pictures: ``annotations.csv`` in the root, ``pose/<path>.txt``."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.data.lists import Problem, Rows, read_own_annotations, read_pose_txt, to_fractions
from xmdpt_cli.data.names import match_key
from xmdpt_cli.data.pose import Keypoints
from xmdpt_cli.data.sources.keypoint_files import KeypointFiles

ANNOTATIONS = "annotations.csv"  # the published form, the name a path below the root; 256x176
POSE = "pose"  # pose/alice/front.jpg.txt or pose/alice/front.txt; padded 256x256 frame


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

    @classmethod
    def read(cls, root: Path, published: KeypointFiles) -> OwnKeypoints:
        """``annotations.csv`` and what ``published`` already found; pose files are read later."""
        own = cls(root, published, problems=list(published.problems))
        if (root / ANNOTATIONS).is_file():
            rows, problems = read_own_annotations(root / ANNOTATIONS)
            own.rows = {_same_letters(name): points for name, points in rows.items()}
            own.problems += problems
            own.labels.append(f"{ANNOTATIONS} in the 256x176 frame")
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
        published = match_key(picture)
        if published is None:
            return None
        try:
            return self.published.find(published)
        except (OSError, ValueError) as err:
            self._broken(self.published.pose_file(published), err)
            return None

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
