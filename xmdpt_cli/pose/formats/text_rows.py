"""Keypoints as text: annotation rows (.csv, one for each image) and PIDM's pose files (.txt).

Published annotations are ``name:keypoints_y:keypoints_x`` with lists of 18 numbers in brackets;
``Table`` reads other names and separators of columns. A pose file has 18 rows ``x y``. Points are
returned in the file's coordinate frame, NaN for missing joints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.formats.missing import (
    Pair,
    pairs_of,
    remove_repeated,
    scaled_missing,
    scaled_note,
    without_missing,
)
from xmdpt_cli.pose.keypoints import JOINTS, Keypoints
from xmdpt_cli.utils.list_text import Table, decode_text, refuse_all_wrong
from xmdpt_cli.utils.problems import Problem

HEADER = "name:keypoints_y:keypoints_x"
_COLUMNS = (
    ("name", "image", "file", "filename", "path"), ("keypoints_y", "y"), ("keypoints_x", "x"),
)  # fmt: skip
_FARTHEST = 10_000.0  # pixels: a larger coordinate is damage
_MISSING = {"", "null", "none", "nan"}
_ROWS = f"a row is {HEADER}: a name and twice 18 numbers in brackets, -1 for a joint not seen"


class Joints(NamedTuple):
    """One person's joints in the file's coordinate frame."""

    points: Keypoints  # (18, 2), NaN missing
    scaled: list[Pair]  # missing joints that are a scaled -1, -1


@dataclass
class Annotations:
    """The rows of one file. Points are x and y in the file's coordinate frame, NaN missing."""

    path: Path
    points: dict[str, Keypoints] = field(default_factory=dict)  # by the caller's key
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was assumed

    def where(self, key: str) -> str:
        """``file:line`` of a row."""
        return f"{self.path.name}:{self.lines[key]}"


def read_annotations(path: Path, key_of: Callable[[str], str]) -> Annotations:
    """Read an annotation file; rows are stored under ``key_of(name)``.

    Unusable rows are problems. Of two rows with one name the first is used; it is a problem if they
    differ. Raises XmdptError if the file cannot be read, if its header lacks a column, or if no row
    is usable.
    """
    table = Table.open(path, _COLUMNS, colons=True)
    found = Annotations(path, notes=[table.note] if table.note else [])
    zeros = 0
    scaled: list[Pair] = []
    for number, line in table.lines:
        where = f"{path.name}:{number}"
        try:
            name, y, x = table.cells(line)
            rows = _numbers(y, "y"), _numbers(x, "x")
            raw = np.stack(rows[::-1], axis=1)
            joints, key = _checked(raw), key_of(name)
        except (XmdptError, ValueError) as err:
            found.problems.append(Problem(where, f"annotation row: {err}"))
            continue
        zeros += int((raw == 0).all(axis=1).sum())
        scaled += joints.scaled
        first = found.points.setdefault(key, joints.points)
        if first is joints.points:
            found.lines[key] = number
        elif not np.array_equal(first, joints.points, equal_nan=True):
            what = f"second annotation row: the first one of {name} is used, this one differs"
            found.problems.append(Problem(where, what, kept=True))
    bad = [(problem.file, problem.reason) for problem in found.problems if not problem.kept]
    refuse_all_wrong(path, len(found.points), bad, _ROWS)
    if zeros:
        found.notes.append(f"{path.name}: {zeros} joints at exactly (0, 0) are taken as not seen")
    found.notes += scaled_note(path.name, scaled + remove_repeated(list(found.points.values())))
    return found


def read_pose_txt(path: Path) -> Joints:
    """Read one of PIDM's pose files, 18 rows ``x y``.

    Raises ValueError, naming the line, for other content; FileNotFoundError if it does not exist.
    """
    rows = []
    try:
        text = decode_text(path.read_bytes(), path)
    except XmdptError:
        raise ValueError("is not text") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            x, y = (float(field) for field in re.split(r"[\s,;]+", line.strip()))
        except ValueError:
            raise ValueError(f"line {number} is not two numbers") from None
        rows.append((x, y))
    if len(rows) != len(JOINTS):
        raise ValueError(f"holds {len(rows)} joints instead of 18")
    return _checked(np.array(rows, dtype=np.float64))


def _checked(raw: Keypoints) -> Joints:
    """The joints of (18, 2) numbers of a file; ValueError for damage."""
    if (np.abs(raw) > _FARTHEST).any():  # also infinite
        raise ValueError("a coordinate is not a number of pixels")
    return Joints(without_missing(raw), pairs_of(raw, scaled_missing(raw)))


def _numbers(text: str, label: str) -> np.ndarray:
    try:  # there are tens of thousands of rows: the published form is read fastest
        published = np.array(json.loads(text), dtype=np.float64)
        if published.shape == (len(JOINTS),):
            return published
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    tokens = inner.split(",") if "," in inner else inner.split()
    try:
        values = [np.nan if t.strip().lower() in _MISSING else float(t) for t in tokens]
    except ValueError:
        raise ValueError(f"keypoints_{label} is not a list of numbers") from None
    if len(values) != len(JOINTS):
        raise ValueError(f"keypoints_{label} holds {len(values)} numbers instead of {len(JOINTS)}")
    return np.array(values, dtype=np.float64)
