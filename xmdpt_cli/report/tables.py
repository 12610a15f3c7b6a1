"""Tables: as Markdown, fitted to a terminal, and (by templates/macros.html.j2) in a page.

In a terminal nothing is cut and nothing is folded inside a cell. A table that is too wide gets its
header in several lines, then is transposed (or its two keys share a column), then split into
several with the first columns repeated; as the last resort it becomes a list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Table:
    """Cells as text; for a page also as ``Markup``."""

    title: str
    header: list[str]
    rows: list[list[str]]
    keys: int = 1  # the one or two leading columns that identify a row
    numbers: tuple[int, ...] = ()  # columns that a page aligns to the right

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in x)} |" for x in lines)

    def widths(self) -> list[int]:
        """Columns of the terminal that each column's longest line takes."""
        cells = zip(self.header, *self.rows, strict=True)
        return [max(columns(line) for cell in c for line in cell.split("\n")) for c in cells]

    @property
    def width(self) -> int:
        """Width of the table in columns, with a space on both sides of a cell and lines between."""
        return _framed(self.widths())

    def fitted(self, width: int | None) -> list[Table]:
        """This table in one or several tables of at most ``width`` columns; None: any width.

        Wider than that is only what holds a single cell of more than ``width`` columns.
        """
        if width is None or self.width <= width:
            return [self]
        forms = [self._with_short_header()]
        forms.append(self._transposed() if self.keys == 1 else forms[0]._grouped())
        for form in forms:
            if form.width <= width:
                return [form]
        splits = [parts for form in forms if (parts := form._split(width))]
        return min(splits, key=len) if splits else [self._as_list()]

    def _with_short_header(self) -> Table:
        """The header's words in several lines, where the cells below are narrower."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        header = []
        for name, below in zip(self.header, cells, strict=True):
            words = re.split(r" (?![^(]*\))", name)  # what is in brackets stays together
            room = max([columns(text) for text in (*words, *below)])
            header.append("\n".join(_lines(words, room)))
        return replace(self, header=header)

    def _transposed(self) -> Table:
        """Rows become columns; the header becomes the first column."""
        header, *lines = (list(line) for line in zip(self.header, *self.rows, strict=True))
        return Table(self.title, header, lines)

    def _grouped(self) -> Table:
        """Both keys in one column: a row for the first, and below it, indented, the second."""
        rows, last = [], None
        for outer, inner, *values in self.rows:
            if inner and outer != last:
                rows.append([outer, *("" for _ in values)])
            last = outer
            rows.append([f"  {inner}" if inner else outer, *values])
        return Table(self.title, [" / ".join(self.header[:2]), *self.header[2:]], rows)

    def _split(self, width: int) -> list[Table]:
        """Tables with some of the columns each; none if a single column is too wide already."""
        widths = self.widths()
        keys = widths[: self.keys]
        parts: list[list[int]] = [[]]
        for column in range(self.keys, len(widths)):
            if _framed([*keys, widths[column]]) > width:
                return []
            if _framed([*keys, *(widths[i] for i in parts[-1]), widths[column]]) > width:
                parts.append([])
            parts[-1].append(column)
        return [self._part(chosen, first=n == 0) for n, chosen in enumerate(parts)]

    def _part(self, chosen: Sequence[int], first: bool) -> Table:
        which = [*range(self.keys), *chosen]
        title = self.title if first or not self.title else f"{self.title} (continued)"
        header, *rows = ([line[i] for i in which] for line in (self.header, *self.rows))
        return Table(title, header, rows, self.keys)

    def _as_list(self) -> Table:
        """One column: the keys of a row, then a line for each of its values."""
        lines = []
        for row in self.rows:
            lines.append([" / ".join(cell for cell in row[: self.keys] if cell)])
            pairs = zip(self.header[self.keys :], row[self.keys :], strict=True)
            lines += [[f"  {name}: {cell}" if name else f"  {cell}"] for name, cell in pairs]
        return Table(self.title, [" / ".join(filter(None, self.header[: self.keys]))], lines)


def columns(text: str) -> int:
    """Columns of a terminal that a line takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _framed(widths: Sequence[int]) -> int:
    return sum(widths) + 3 * len(widths) + 1


def _lines(words: Sequence[str], room: int) -> Iterator[str]:
    """Words in lines of at most ``room`` columns; a longer word is a line of its own."""
    line = ""
    for word in words:
        longer = f"{line} {word}" if line else word
        if line and columns(longer) > room:
            yield line
            longer = word
        line = longer
    yield line
