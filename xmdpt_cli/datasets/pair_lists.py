"""Readers of the two families of published lists: CSV files, and PIDM's text files.

Readers never stop at a bad line: they return what is usable and name the rest, file and line.
Only a list of which no row is usable is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.deepfashion_names import ImageName, parse_name
from xmdpt_cli.utils.list_text import (
    columns_of,
    read_lines,
    refuse_all_wrong,
    separator_of,
    shown,
    split_cells,
)
from xmdpt_cli.utils.problems import Problem


@dataclass(frozen=True)
class ListedPair:
    """One row of a pair list: source -> target, and where it stands."""

    source: ImageName
    target: ImageName
    position: int  # 0-based, in the published list, unusable rows counted
    where: str  # file:line


_PAIR_COLUMNS = (("from", "source", "src"), ("to", "target", "tgt"))
_PAIR_HINT = "a row is from,to: the name of the source image, then that of the target"
_PIDM_HINT = "a row is the target image, then its sources, separated by commas"


@dataclass
class PairRows:
    """The pairs of one list, what cannot be used of it, and what was taken how."""

    pairs: list[ListedPair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse_all_wrong(self, path: Path, hint: str) -> PairRows:
        bad = [(problem.file, problem.reason) for problem in self.problems]
        refuse_all_wrong(path, len(self.pairs), bad, hint)
        return self


def read_pairs_csv(path: Path) -> PairRows:
    """Rows of a source and a target. The header (``from,to``) names the columns, in any order;
    without one that order is taken. XmdptError if no row can be used."""
    found = PairRows()
    position, layout = 0, None
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        if layout is None:
            layout, is_header = _pair_layout(line, path)
            if is_header:
                continue
            found.notes.append(f"{path.name}: no header, a row is taken as source, target")
        try:
            source, target = layout.names(line)
            found.pairs.append(ListedPair(parse_name(source), parse_name(target), position, where))
        except (XmdptError, ValueError) as err:
            found.problems.append(Problem(where, getattr(err, "message", str(err))))
        position += 1
    return found.refuse_all_wrong(path, _PAIR_HINT)


@dataclass(frozen=True)
class _PairLayout:
    separator: str
    source: int
    target: int
    count: int

    def names(self, line: str) -> tuple[str, str]:
        cells = split_cells(line, self.separator)
        if len(cells) != self.count:
            two = "two names" if self.count == 2 else f"{self.count} cells"
            raise ValueError(f"expected {two}, found {len(cells)}")
        return cells[self.source], cells[self.target]


def _pair_layout(line: str, path: Path) -> tuple[_PairLayout, bool]:
    """The layout by the first line, and whether that is a header."""
    separator = separator_of(line)
    try:
        cells = split_cells(line, separator)
    except ValueError:  # said when it is read as a row
        cells = []
    source, target = columns_of(cells, _PAIR_COLUMNS)
    if source is not None and target is not None:
        return _PairLayout(separator, source, target, len(cells)), True
    if source is not None or target is not None:
        known = "from" if source is not None else "to"
        raise XmdptError(f"{path}: its header {shown(line)} names {known} only", _PAIR_HINT)
    index = int(len(cells) == 3 and cells[0].isdigit())
    return _PairLayout(separator, index, index + 1, index + 2), False


def read_pairs_pidm(path: Path) -> PairRows:
    """PIDM's lines: the target first, then its sources, separated by commas (or as CSV files)."""
    found = PairRows()
    position = 0
    for number, line in enumerate(read_lines(path), start=1):
        fields = [field.strip() for field in re.split(r"[,;\t]", line) if field.strip()]
        if not fields:
            continue
        where = f"{path.name}:{number}"
        if len(fields) == 1:
            found.problems.append(Problem(where, "a target without a source"))
        for source in fields[1:]:
            try:
                pair = ListedPair(parse_name(source), parse_name(fields[0]), position, where)
                found.pairs.append(pair)
            except XmdptError as err:
                found.problems.append(Problem(where, err.message))
            position += 1
    return found.refuse_all_wrong(path, _PIDM_HINT)
