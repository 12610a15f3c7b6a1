"""Reads lists (CSV and similar) in UTF-8 or UTF-16 with any usual separator.

Lists come from spreadsheets and from pandas as well as from the published archives: with a byte
order mark, with CRLF, separated by comma, semicolon or tab, with an index column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmdpt_cli.errors import XmdptError

SEPARATORS = (",", ";", "\t")
LONGEST_LINE = 100_000  # characters: a row of 18 keypoints has about 300
SHOWN = 80  # characters of a cell in a message
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # what Excel writes as "Unicode text"
# Outside of quotes and brackets: a list of numbers is one cell, whatever separates its numbers.
_CELLS = {
    separator: re.compile(rf"(?:^|(?<={separator}))((?:\[[^\[\]]*\]|[^{separator}])*)")
    for separator in SEPARATORS
}


def decode_text(data: bytes, path: Path) -> str:
    """The text of a list; XmdptError naming ``path`` if it is in neither encoding."""
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as err:
        raise XmdptError(
            f"{path} is neither UTF-8 nor UTF-16 ({err.reason} at byte {err.start})",
            "save it as CSV in UTF-8",
        ) from None
    if "\0" in text:
        raise XmdptError(f"{path} is not text: it holds zero bytes", "save it as CSV in UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """All lines of a list, blank ones included, so that indices are line numbers."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise XmdptError(f"cannot read {path}: {err.strerror or err}") from None
    # not splitlines(): names may hold any of the characters that Unicode calls a line's end
    return re.split(r"\r\n|\r|\n", decode_text(data, path))


def separator_of(line: str) -> str:
    """The separator of a line: the most frequent of the usual ones, outside of brackets."""
    return max(SEPARATORS, key=_outside_lists(line).count)


def _outside_lists(line: str) -> str:
    return re.sub(r"\[[^\[\]]*\]|\"[^\"]*\"", "", line)


def split_cells(line: str, separator: str) -> list[str]:
    """The cells of a line, stripped where it is CSV; ValueError if it is too long or not CSV."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line):,} characters")
    if separator == ":":  # the published annotations: nothing is quoted
        return line.split(":")
    if '"' in line:
        try:
            cells = next(csv.reader([line], delimiter=separator, strict=True))
        except (csv.Error, StopIteration) as err:
            raise ValueError(f"not CSV ({err})") from None
    else:
        cells = _CELLS[separator].findall(line)
    return [cell.strip() for cell in cells]


def shown(text: str) -> str:
    """A cell as messages quote it: not longer than a line of a terminal."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


@dataclass(frozen=True)
class Table:
    """How a list is laid out: ``places`` of the wanted columns among ``count`` of each line."""

    lines: list[tuple[int, str]]  # (line number from 1, line), without the header and blank lines
    separator: str
    places: tuple[int, ...]
    count: int
    note: str = ""  # message about assumptions that were made

    @classmethod
    def open(cls, path: Path, columns: Sequence[Sequence[str]], *, colons: bool = False) -> Table:
        """Read a list whose header names ``columns``, in any order; the first name of each is ours.

        Without a header the columns are taken in the given order, an index column before them is
        skipped. ``colons``: colons separate columns, unless another separator stands outside of
        lists of numbers; a first column may hold colons itself. XmdptError if the file cannot be
        read or if its header lacks a column.
        """
        lines = [(n, line) for n, line in enumerate(read_lines(path), start=1) if line.strip()]
        first = lines[0][1] if lines else ""
        separator = _separator(first, colons=colons)
        try:
            cells = split_cells(first, separator)
        except ValueError:  # it is refused when it is read as a row
            cells = []
        lower = [cell.strip().strip('"').lower() for cell in cells]
        found = [next((lower.index(n) for n in names if n in lower), None) for names in columns]
        places = tuple(place for place in found if place is not None)
        ours = (":" if colons else ",").join(names[0] for names in columns)
        if len(places) == len(columns):
            return cls(lines[1:], separator, places, len(cells))
        if "[" not in first and (places or "keypoints" in first.lower()):
            missing = [names[0] for names, p in zip(columns, found, strict=True) if p is None]
            raise XmdptError(
                f"{path}: its header {shown(first)} lacks {', '.join(missing)}",
                f"the columns are called {ours}, in any order",
            )
        numbered = separator != ":" and len(cells) == len(columns) + 1 and cells[0].isdigit()
        places = tuple(range(numbered, len(columns) + numbered))
        note = f"{path.name}: no header, its columns are taken as {ours}" if lines else ""
        return cls(lines, separator, places, len(columns) + numbered, note)

    def cells(self, line: str) -> list[str]:
        """The wanted cells of a line; ValueError for another number of columns."""
        cells = split_cells(line, self.separator)
        more = len(cells) - self.count
        if self.separator == ":" and more > 0:  # a path may hold colons
            name = self.places[0]
            cells[name : name + more + 1] = [":".join(cells[name : name + more + 1])]
        if len(cells) != self.count:
            raise ValueError(f"found {len(cells)} fields instead of {self.count}")
        return [cells[place] for place in self.places]


def _separator(line: str, *, colons: bool) -> str:
    bare = _outside_lists(line)
    if colons and (bare.count(":") >= 2 or not any(s in bare for s in SEPARATORS)):
        return ":"
    return separator_of(line)


def refuse_all_wrong(path: Path, good: int, wrong: Sequence[tuple[str, str]], hint: str) -> None:
    """XmdptError if no row of a list can be used: one error instead of one per row."""
    if wrong and not good:
        where, reason = wrong[0]
        what = "its only row is wrong" if len(wrong) == 1 else f"all {len(wrong):,} rows are wrong"
        raise XmdptError(f"{path}: {what}; {where}: {reason}", hint)
