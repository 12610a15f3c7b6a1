"""``xmdpt sample --pairs FILE.csv``: a list of source images and poses, one generated image a line.

The header names the columns, in any order: ``source`` and ``pose``, and optionally ``out`` (the
image's name below --out), ``source_keypoints`` and ``seed``. Comma, semicolon or tab.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import expanded
from xmdpt_cli.sampling.record import SHEET
from xmdpt_cli.utils.list_text import decode_text, separator_of, shown

REQUIRED = ("source", "pose")
COLUMNS = (*REQUIRED, "out", "source_keypoints", "seed")
INDEX = " index"  # cannot be a column's name, since names are stripped
EXAMPLE = "for instance: source,pose,out (next line: alice.jpg,pose.json,alice_walks.png)"
_LARGEST_SEED = 2**63


@dataclass(frozen=True)
class Row:
    """One image to generate. Whether its files exist is checked when the row is generated."""

    line: int  # in the file, 1 the first
    source: Path
    pose: Path
    out: str = ""  # below --out, with forward slashes; "": named after source and pose
    source_keypoints: Path | None = None
    seed: int | None = None  # None: the command's


def read_pair_file(path: Path, out: Path) -> list[Row]:
    """The rows of a list for the folder ``out``, at least one.

    Paths are relative to the list's folder, or to the working directory if they only exist there.
    Raises ConfigError, naming the lines, for errors in the list itself: nothing is generated then.
    """
    lines = _lines(path)
    if not lines:
        raise ConfigError(f"{path} is empty", EXAMPLE)
    header = _header(lines[0][1], path)
    rows, wrong = [], []
    for line, cells in lines[1:]:
        try:
            rows.append(_row(line, cells, header, path.absolute().parent, out))
        except XmdptError as err:
            wrong.append(f"line {line}: {err.message}")
    wrong += _twice(rows)
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"{path}, {'; '.join(wrong[:3])}{more}", "correct the list: nothing was generated"
        )
    if not rows:
        raise ConfigError(f"{path} holds a header and no rows", EXAMPLE)
    return rows


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of all lines that are not blank; quoted cells may span lines."""
    try:
        text = decode_text(path.read_bytes(), path)
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror or err}", EXAMPLE) from None
    except XmdptError as err:
        raise ConfigError(err.message, err.hint) from None
    separator = separator_of(text.lstrip().partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as err:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({err})", EXAMPLE) from None


def _header(cells: Sequence[str], path: Path) -> list[str]:
    """The names of the columns, in lower case; ConfigError for missing or unknown ones."""
    names = [cell.strip().lower() for cell in cells]
    if not names[0]:
        names[0] = INDEX  # pandas writes an index column without a name
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ConfigError(
            f"{path}: its first line is no header with the columns source and pose "
            f"(not found: {', '.join(missing)})",
            EXAMPLE,
        )
    unknown = [name or "an empty name" for name in names if name not in (*COLUMNS, INDEX)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if unknown or twice:
        what = f"unknown columns: {', '.join(unknown)}" if unknown else f"{twice[0]} twice"
        raise ConfigError(f"{path}: {what}", f"columns are {', '.join(COLUMNS)}")
    return names


def _row(line: int, cells: Sequence[str], header: Sequence[str], base: Path, out: Path) -> Row:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise ConfigError(
            f"{len(cells)} cells for {len(header)} columns (a name with a delimiter is quoted)"
        )
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    for name in REQUIRED:
        if not values.get(name):
            raise ConfigError(f"no {name}")
    keypoints = values.get("source_keypoints")
    return Row(
        line,
        _found(values["source"], base),
        _found(values["pose"], base),
        _below(values.get("out", ""), out),
        _found(keypoints, base) if keypoints else None,
        _seed(values.get("seed", "")),
    )


def _found(name: str, base: Path) -> Path:
    path = expanded(name)
    if path.is_absolute() or (base / path).exists() or not path.exists():
        return base / path
    return path


def _seed(text: str) -> int | None:
    if not text:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST_SEED))
    if not digits or int(text) >= _LARGEST_SEED:
        raise ConfigError(f"a seed is a whole number from 0 on, below 2**63, not {shown(text)}")
    return int(text)


def _below(name: str, out: Path) -> str:
    """The name of a PNG below ``out``, with forward slashes; ConfigError for any other path."""
    if not name:
        return ""
    path = Path(name)
    if path.is_absolute():
        try:
            path = path.relative_to(out.absolute())
        except ValueError:
            raise ConfigError(f"out {name!r} is not in {out}") from None
    parts = PurePosixPath(path.as_posix()).parts
    strange = "\0" in name or "\\" in name or PureWindowsPath(name).drive
    if strange or ".." in parts or any(part.startswith(".") for part in parts):
        raise ConfigError(f"out {name!r} is no plain name below the folder --out")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"out {name!r} does not end in .png")
    if parts == (SHEET,):
        raise ConfigError(f"out {name!r} is the name of the contact sheet")
    if not (out / path).resolve().is_relative_to(out.resolve()):  # by a link
        raise ConfigError(f"out {name!r} leads out of {out}")
    return "/".join(parts)


def _twice(rows: Sequence[Row]) -> list[str]:
    """Errors for names that two rows have, ignoring case as some file systems do."""
    first: dict[str, int] = {}
    wrong = []
    for row in rows:
        name = row.out.casefold()
        if name and name in first:
            wrong.append(f"line {row.line}: out {row.out!r} is that of line {first[name]}, too")
        first.setdefault(name, row.line)
    return wrong
