"""The lists of pairs: the published CSV files, else PIDM's text files.

Readers never stop at a bad line: they return what is usable and name the rest, file and line.
Only a list of which no row is usable is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.layouts import Place
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.deepfashion_names import ImageName, parse_name
from xmdpt_cli.utils.list_text import Table, read_lines, refuse_all_wrong
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS

# The published files spell it "fasion"; corrected copies exist.
STEMS = ("fasion-resize", "fashion-resize", "fasion", "fashion")
_COLUMNS = (("from", "source", "src"), ("to", "target", "tgt"))
_CSV_HINT = "a row is from,to: the name of the source image, then that of the target"
_PIDM_HINT = "a row is the target image, then its sources, separated by commas"


@dataclass(frozen=True)
class ListedPair:
    """One row of a pair list: source -> target, and its place in the file."""

    source: ImageName
    target: ImageName
    position: int  # 0-based, in the published list, unusable rows counted
    where: str  # file:line


@dataclass
class PairRows:
    """The pairs of one list, its unusable rows, and notes on what was assumed."""

    pairs: list[ListedPair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class PairLists:
    """The pairs of both splits; ``label`` is empty where there is no list."""

    label: str = ""
    pairs: dict[str, list[ListedPair]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_pair_lists(places: Sequence[Place]) -> dict[str, list[str]]:
    """The existing lists of each split, the one to use first."""
    found = {}
    for split in SPLITS:
        names = [f"{stem}-pairs-{split}.csv" for stem in STEMS] + [f"{split}_pairs.txt"]
        found[split] = [place.below(n) for n in names for place in places if n in place.files]
    return found


def read_pair_lists(root: Path, places: Sequence[Place]) -> PairLists:
    """The list of each split to use: the first that exists, in the root before other folders."""
    lists = PairLists()
    labels = []
    for split, files in find_pair_lists(places).items():
        if not files:
            lists.notes.append(f"pairs of {split}: no list")
            continue
        path = root / files[0]
        read = read_pairs(path)
        lists.pairs[split] = read.pairs
        lists.problems += read.problems
        lists.notes += read.notes
        family = path.name.split("-pairs-")[0]
        csv = path.suffix == ".csv"
        labels.append(f"pairs CSV ({family})" if csv else "PIDM pair lists, target first")
        unused = f" (not used: {', '.join(files[1:])})" if len(files) > 1 else ""
        lists.notes.append(
            f"pairs of {split}: {files[0]}, {counted(len(read.pairs), 'pair')}{unused}"
        )
    lists.label = " and ".join(dict.fromkeys(labels))
    return lists


def read_pairs(path: Path) -> PairRows:
    """Read a list of pairs.

    ``.csv``: a source and a target in each row, the columns named by the header (``from,to``).
    Other files: PIDM's lines, a target and then its sources. Raises XmdptError if no row can be
    used.
    """
    found = PairRows()
    csv = path.suffix == ".csv"
    rows = _csv_rows(path, found) if csv else _pidm_rows(path, found)
    for position, (number, row) in enumerate(rows):
        where = f"{path.name}:{number}"
        try:
            if isinstance(row, ValueError):
                raise row
            source, target = (parse_name(name) for name in row)
            found.pairs.append(ListedPair(source, target, position, where))
        except (XmdptError, ValueError) as err:
            found.problems.append(Problem(where, getattr(err, "message", str(err))))
    bad = [(problem.file, problem.reason) for problem in found.problems]
    refuse_all_wrong(path, len(found.pairs), bad, _CSV_HINT if csv else _PIDM_HINT)
    return found


Rows = Iterator[tuple[int, "tuple[str, str] | ValueError"]]


def _csv_rows(path: Path, found: PairRows) -> Rows:
    table = Table.open(path, _COLUMNS)
    found.notes += [table.note] if table.note else []
    for number, line in table.lines:
        try:
            source, target = table.cells(line)
            yield number, (source, target)
        except ValueError as err:
            yield number, err


def _pidm_rows(path: Path, found: PairRows) -> Rows:
    for number, line in enumerate(read_lines(path), start=1):
        target, *sources = [f.strip() for f in re.split(r"[,;\t]", line) if f.strip()] or [""]
        if target and not sources:
            found.problems.append(Problem(f"{path.name}:{number}", "a target without a source"))
        yield from ((number, (source, target)) for source in sources)
