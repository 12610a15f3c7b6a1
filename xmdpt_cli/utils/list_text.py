"""The text of a list and the cells of its lines: UTF-8 or UTF-16, any usual separator.

Lists come from spreadsheets and from pandas as well as from the published archives: with a byte
order mark, with CRLF, separated by comma, semicolon or tab, with an index column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
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
    """All lines of a list, blank ones too, so that places are line numbers."""
    try:
        data = path.read_bytes()
    except OSError as err:
        raise XmdptError(f"cannot read {path}: {err.strerror or err}") from None
    # not splitlines(): names may hold any of the characters that Unicode calls a line's end
    return re.split(r"\r\n|\r|\n", decode_text(data, path))


def separator_of(line: str) -> str:
    """The separator of a line: of the usual ones the most frequent outside of brackets."""
    bare = re.sub(r"\[[^\[\]]*\]|\"[^\"]*\"", "", line)
    return max(SEPARATORS, key=bare.count)


def split_cells(line: str, separator: str) -> list[str]:
    """The cells of one line, stripped; ValueError for a line that is too long or not CSV."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line):,} characters")
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


def columns_of(header: Sequence[str], wanted: Sequence[tuple[str, ...]]) -> list[int | None]:
    """The place of each wanted column in a header; a column may have several names."""
    names = [cell.strip().strip('"').lower() for cell in header]
    return [next((names.index(n) for n in known if n in names), None) for known in wanted]


def refuse_all_wrong(path: Path, good: int, wrong: Sequence[tuple[str, str]], hint: str) -> None:
    """XmdptError where no row of a list can be used: one error, not one for each row."""
    if wrong and not good:
        where, reason = wrong[0]
        what = "its only row is wrong" if len(wrong) == 1 else f"all {len(wrong):,} rows are wrong"
        raise XmdptError(f"{path}: {what}; {where}: {reason}", hint)
