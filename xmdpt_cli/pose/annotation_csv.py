"""Annotation files: one row an image, its name and the y and x of 18 keypoints.

Published is ``name:keypoints_y:keypoints_x`` with lists in brackets. The header names the columns,
in any order; without one the published order is taken. Comma, semicolon and tab separate columns
as well, and an index column is skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.pose.pose_image import JOINTS, Keypoints, raw_to_nan
from xmdpt_cli.pose.scaled_missing import Pair, pairs_of, repeated, said, scaled_missing
from xmdpt_cli.utils.list_text import (
    LONGEST_LINE,
    SEPARATORS,
    columns_of,
    read_lines,
    refuse_all_wrong,
    separator_of,
    shown,
    split_cells,
)
from xmdpt_cli.utils.problems import Problem

HEADER = "name:keypoints_y:keypoints_x"
_NAMES = (("name", "image", "file", "filename", "path"), ("keypoints_y", "y"), ("keypoints_x", "x"))
_PUBLISHED = (0, 1, 2)
_FARTHEST = 10_000.0  # pixels: a coordinate beyond this is damage, not a joint
_MISSING = {"", "null", "none", "nan"}
_ROWS = f"a row is {HEADER}: a name and twice 18 numbers in brackets, -1 for a joint not seen"


@dataclass
class Annotations:
    """The rows of one file. Points are raw: x and y in the file's own frame, NaN missing."""

    path: Path
    points: dict[str, Keypoints] = field(default_factory=dict)  # by the caller's key
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was taken how, for people

    def where(self, key: str) -> str:
        """``file:line`` of a row."""
        return f"{self.path.name}:{self.lines[key]}"


@dataclass(frozen=True)
class _Columns:
    """How one file is laid out."""

    separator: str
    places: tuple[int, ...]  # of name, y and x
    count: int

    def split(self, line: str) -> tuple[str, str, str]:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line of {len(line):,} characters")
        if self.separator != ":":
            cells = split_cells(line, self.separator)
        else:
            cells = self._at_colons(line)
        if len(cells) != self.count:
            raise ValueError(f"expected {HEADER}, found {len(cells)} fields")
        name, y, x = (cells[place] for place in self.places)
        return name, y, x

    def _at_colons(self, line: str) -> list[str]:
        cells = line.split(":")
        more = len(cells) - self.count
        if more > 0:  # a path of one's own may hold colons
            name = self.places[0]
            cells[name : name + more + 1] = [":".join(cells[name : name + more + 1])]
        return cells


def read_annotations(path: Path, key_of: Callable[[str], str]) -> Annotations:
    """The rows of an annotation file by ``key_of`` of their names.

    Of two rows with one name the first counts; if they differ that is said. Bad rows are problems.
    XmdptError if the file cannot be read, if its header lacks a column, or if no row is usable.
    """
    found = Annotations(path)
    columns: _Columns | None = None
    zeros = 0
    scaled: list[Pair] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        if columns is None:
            columns, is_header = _columns(line, path)
            if is_header:
                continue
            found.notes.append(f"{path.name}: no header, its columns are taken as {HEADER}")
        try:
            name, y, x = columns.split(line)
            raw = _points(y, x)
            pairs: list[Pair] = []
            points = sane(raw, pairs)
            key = key_of(name)
        except (XmdptError, ValueError) as err:
            found.problems.append(Problem(f"{path.name}:{number}", f"annotation row: {err}"))
            continue
        zeros += int((raw == 0).all(axis=1).sum())
        scaled += pairs
        _keep(found, key, name, number, points)
    bad = [(problem.file, problem.reason) for problem in found.problems if not problem.kept]
    refuse_all_wrong(path, len(found.points), bad, _ROWS)
    if zeros:
        found.notes.append(f"{path.name}: {zeros} joints at exactly (0, 0) are taken as not seen")
    found.notes += said(path.name, scaled + _without_repeated(found.points))
    return found


def _without_repeated(rows: dict[str, Keypoints]) -> list[Pair]:
    """Make the negative pairs that rows share NaN, in place; returns them, one a joint."""
    pairs = repeated(list(rows.values()))
    found: list[Pair] = []
    for points in rows.values() if pairs else ():
        missing = np.array([(float(x), float(y)) in pairs for x, y in points])
        found += pairs_of(points, missing)
        points[missing] = np.nan
    return found


def _keep(found: Annotations, key: str, name: str, number: int, points: Keypoints) -> None:
    first = found.points.setdefault(key, points)
    if first is points:
        found.lines[key] = number
    elif not np.array_equal(first, points, equal_nan=True):
        what = f"second annotation row: the first one of {name} is used, this one differs"
        found.problems.append(Problem(f"{found.path.name}:{number}", what, kept=True))


def _columns(line: str, path: Path) -> tuple[_Columns, bool]:
    """The layout by the first line, and whether that is a header."""
    header = "keypoints" in line.lower() or not re.search(r"\d", line)
    separator = _separator(line)
    try:
        cells = line.split(":") if separator == ":" else split_cells(line, separator)
    except ValueError:  # said when it is read as a row
        cells = []
    places = columns_of(cells, _NAMES)
    if None not in places:
        return _Columns(separator, tuple(p for p in places if p is not None), len(cells)), True
    if header and "[" not in line and any(place is not None for place in places):
        missing = [names[0] for names, p in zip(_NAMES, places, strict=True) if p is None]
        raise XmdptError(
            f"{path}: its header {shown(line)} lacks {', '.join(missing)}",
            f"the columns are called name, keypoints_y and keypoints_x, in any order: {HEADER}",
        )
    index = separator != ":" and len(cells) == len(_PUBLISHED) + 1 and cells[0].isdigit()
    published = tuple(place + index for place in _PUBLISHED)
    return _Columns(separator, published, len(_PUBLISHED) + index), False


def _separator(line: str) -> str:
    """Colons as published, unless another separator stands outside of the lists."""
    bare = re.sub(r"\[[^\[\]]*\]|\"[^\"]*\"", "", line)
    if bare.count(":") >= 2 or not any(separator in bare for separator in SEPARATORS):
        return ":"
    return separator_of(line)


def _points(y: str, x: str) -> Keypoints:
    """(18, 2) x and y as they are in the file."""
    columns = [_numbers(text, label) for label, text in (("y", y), ("x", x))]
    return np.stack(columns[::-1], axis=1)


def sane(raw: Keypoints, scaled: list[Pair] | None = None) -> Keypoints:
    """(18, 2) as files hold them -> NaN for missing: -1, also scaled (``scaled`` collects these),
    no number, or both exactly 0 (a joint in the very corner of an image is none; a single 0 is a
    place). ValueError for damage."""
    if (np.abs(raw) > _FARTHEST).any():  # infinite ones too
        raise ValueError("a coordinate is not a number of pixels")
    missing = scaled_missing(raw)
    if scaled is not None:
        scaled += pairs_of(raw, missing)
    missing |= (raw == 0).all(axis=1)
    return raw_to_nan(np.where(missing[:, None], -1.0, raw))


def _numbers(text: str, label: str) -> np.ndarray:
    try:  # tens of thousands of rows: the published spelling is the fastest
        published = np.array(json.loads(text), dtype=np.float64)
        if published.shape == (len(JOINTS),):
            return published
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    tokens = inner.split(",") if "," in inner else inner.split()
    try:
        values = [_number(token.strip()) for token in tokens]
    except ValueError:
        raise ValueError(f"keypoints_{label} is not a list of numbers") from None
    if len(values) != len(JOINTS):
        raise ValueError(f"keypoints_{label} holds {len(values)} numbers instead of {len(JOINTS)}")
    return np.array(values, dtype=np.float64)


def _number(token: str) -> float:
    return float("nan") if token.lower() in _MISSING else float(token)
