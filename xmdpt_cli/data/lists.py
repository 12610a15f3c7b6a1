"""Readers of the two families of published lists: CSV files, and PIDM's text files.

Readers never stop at a bad line: they return what is usable and name the rest, file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmdpt_cli.data.names import ImageName, parse_name
from xmdpt_cli.data.pose import (
    FRAME_WIDTH,
    JOINTS,
    Keypoints,
    fractions_from_176,
    fractions_from_padded,
)
from xmdpt_cli.errors import XmdptError

SPLITS = ("train", "test")
_FARTHEST = 10_000.0  # pixels: a coordinate beyond this is damage, not a joint


@dataclass(frozen=True)
class Problem:
    """Something of a dataset that cannot be used, or (``kept``) that is odd but used."""

    file: str  # the file, with ``:line`` where it is a line of a list
    reason: str
    kept: bool = False


@dataclass(frozen=True)
class ListedPair:
    """One row of a pair list: source -> target, and where it stands."""

    source: ImageName
    target: ImageName
    position: int  # 0-based, in the published list, unusable rows counted
    where: str  # file:line


def _lines(path: Path) -> list[str]:
    try:
        # not splitlines(): names may hold any of the characters that Unicode calls a line's end
        return re.split(r"\r\n|\r|\n", path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as err:
        raise XmdptError(f"cannot read {path}: {err}") from None


def read_pairs_csv(path: Path) -> tuple[list[ListedPair], list[Problem]]:
    """``from,to`` rows: source, target."""
    pairs: list[ListedPair] = []
    problems: list[Problem] = []
    position = 0
    for number, line in enumerate(_lines(path), start=1):
        fields = [field.strip().strip('"') for field in line.split(",")]
        if not line.strip() or (number == 1 and fields == ["from", "to"]):
            continue
        where = f"{path.name}:{number}"
        try:
            if len(fields) != 2:
                raise XmdptError(f"expected two names, found {len(fields)}")
            pairs.append(ListedPair(parse_name(fields[0]), parse_name(fields[1]), position, where))
        except XmdptError as err:
            problems.append(Problem(where, err.message))
        position += 1
    return pairs, problems


def read_pairs_pidm(path: Path) -> tuple[list[ListedPair], list[Problem]]:
    """PIDM's lines: the target first, then its sources, comma separated."""
    pairs: list[ListedPair] = []
    problems: list[Problem] = []
    position = 0
    for number, line in enumerate(_lines(path), start=1):
        fields = [field.strip() for field in line.split(",") if field.strip()]
        if not fields:
            continue
        where = f"{path.name}:{number}"
        if len(fields) == 1:
            problems.append(Problem(where, "a target without a source"))
        for source in fields[1:]:
            try:
                pairs.append(ListedPair(parse_name(source), parse_name(fields[0]), position, where))
            except XmdptError as err:
                problems.append(Problem(where, err.message))
            position += 1
    return pairs, problems


Rows = dict[str, Keypoints]
HEADER = "name:keypoints_y:keypoints_x"


def read_annotation_csv(path: Path) -> tuple[Rows, list[Problem]]:
    """``name:keypoints_y:keypoints_x`` rows -> {garment/view: raw (18, 2), x and y}.

    Raw means pixels of the file's own frame, -1 where missing. Of two rows with one name the
    first counts; if they differ that is said.
    """
    return _read_rows(path, lambda name: parse_name(name).picture)


def read_own_annotations(path: Path) -> tuple[Rows, list[Problem]]:
    """The same form for any pictures: {path below the dataset root: raw (18, 2), x and y}."""
    return _read_rows(path, lambda name: name)


def _read_rows(path: Path, key_of: Callable[[str], str]) -> tuple[Rows, list[Problem]]:
    rows: Rows = {}
    problems: list[Problem] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or (number == 1 and line.startswith("name:")):
            continue
        where = f"{path.name}:{number}"
        try:
            name, points = _annotation_row(line)
            first = rows.setdefault(key_of(name), points)
        except (XmdptError, ValueError) as err:
            problems.append(Problem(where, f"annotation row: {err}"))
            continue
        if first is not points and not np.array_equal(first, points):
            what = f"second annotation row: the first one of {name} is used, this one differs"
            problems.append(Problem(where, what, kept=True))
    return rows, problems


def _annotation_row(line: str) -> tuple[str, Keypoints]:
    parts = line.rsplit(":", 2)  # a path of one's own may hold colons
    if len(parts) != 3:
        raise ValueError(f"expected {HEADER}, found {len(parts)} fields")
    columns = []
    for label, text in (("y", parts[1]), ("x", parts[2])):
        try:
            values = json.loads(text)
            column = np.array(values, dtype=np.float64)
        except (ValueError, TypeError):
            raise ValueError(f"keypoints_{label} is not a list of numbers") from None
        if column.shape != (len(JOINTS),):
            raise ValueError(f"keypoints_{label} holds {column.size} numbers instead of 18")
        columns.append(column)
    return parts[0], _sane(np.stack(columns[::-1], axis=1))


def _sane(points: Keypoints) -> Keypoints:
    if not np.isfinite(points).all() or np.abs(points).max() > _FARTHEST:
        raise ValueError("a coordinate is not a number of pixels")
    return points


def is_padded(rows: Rows) -> bool:
    """Whether these annotations are in the padded 256 frame: any x beyond the 176 frame."""
    return any(bool((points[:, 0] >= FRAME_WIDTH).any()) for points in rows.values())


def to_fractions(points: Keypoints, padded: bool) -> Keypoints:
    """Raw keypoints of one of the two frames -> fractions of width and height, NaN missing."""
    return fractions_from_padded(points) if padded else fractions_from_176(points)


def read_pose_txt(path: Path) -> Keypoints:
    """One of PIDM's pose files (18 rows ``x y``, padded 256 frame) -> fractions, NaN missing.

    Raises ValueError, saying which line, if it is not that; FileNotFoundError if not there.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            x, y = (float(field) for field in line.replace(",", " ").split())
        except ValueError:
            raise ValueError(f"line {number} is not two numbers") from None
        rows.append((x, y))
    if len(rows) != len(JOINTS):
        raise ValueError(f"holds {len(rows)} joints instead of 18")
    return fractions_from_padded(_sane(np.array(rows, dtype=np.float64)))
