"""What the pages we write share: one HTML file that needs nothing else, no fonts, pictures or
scripts from elsewhere, readable by day, by night and on paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2330;
  --soft: #667085; --line: #e3e7ee; --s0: #3b6fd4; --s1: #e08a1e; --track: #eef1f6;
  --warn: #fff4d6; --warn-line: #e2b33c; --shade: rgb(15 23 42 / .26); }
@media (prefers-color-scheme: dark) { :root { --back: #12151b; --card: #1b2029; --text: #e4e8ef;
  --soft: #98a2b3; --line: #2d3440; --s0: #7aa5f5; --s1: #f2b05e; --track: #262d38;
  --warn: #3a2f12; --warn-line: #a67c1a; --shade: rgb(0 0 0 / .7); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1260px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 40px 0 12px; }
h3 { font-size: 14px; margin: 0 0 10px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); }
.toy { background: var(--warn); border: 1px solid var(--warn-line); border-radius: 10px;
  padding: 12px 16px; margin: 18px 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 20px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; min-width: 0; }
.tiles b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 13px; } .tiles small { display: block;
  color: var(--soft); font-size: 12.5px; margin-top: 4px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 14px; }
svg { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--line); } svg .track { fill: var(--track); }
svg text { fill: var(--soft); font-size: 12px; } svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; } .s0 { fill: var(--s0); } .s1 { fill: var(--s1); }
.legend { display: flex; gap: 18px; font-size: 13px; color: var(--soft); margin: 8px 0 0; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 6px; } .legend .s0 { background: var(--s0); } .legend .s1 { background: var(--s1); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr));
  gap: 18px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption { font-size: 12.5px; margin-top: 5px; overflow-wrap: anywhere; line-height: 1.35; }
figcaption span { color: var(--soft); }
/* a shadow at a side where there is more to scroll to */
.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--card) 40%, transparent) 0 0 / 36px 100% local no-repeat,
  linear-gradient(to left, var(--card) 40%, transparent) 100% 0 / 36px 100% local no-repeat,
  linear-gradient(to right, var(--shade), transparent) 0 0 / 14px 100% scroll no-repeat,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / 14px 100% scroll no-repeat; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } th { color: var(--soft); font-weight: 600;
  white-space: nowrap; }
td.n, th.n { width: 1%; text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td small { display: block; color: var(--soft); }
code { font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
@media (max-width: 600px) { .card { padding: 14px; }
  .stacked tr:first-child { display: none; } .stacked tr, .stacked td { display: block; }
  .stacked tr { padding: 10px 0; border-bottom: 1px solid var(--line); }
  .stacked tr:last-child { border-bottom: 0; } .stacked tr td { width: auto; padding: 1px 0;
  border: 0; text-align: left; white-space: normal; } .stacked td:empty { display: none; }
  .stacked td::before { content: attr(data-name) " "; color: var(--soft); } }
@media print { body { background: #fff; } main { max-width: none; padding: 0; }
  .card { break-inside: avoid; } }
"""


def document(title: str, sections: Iterable[str], style: str = "") -> str:
    """A whole page. ``sections`` are HTML, empty ones are left out; ``style``: CSS after ours."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def tiles(cells: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers side by side, as texts: value, its name, more about it."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span>'
        f"<small>{escape(more)}</small></div>"
        for value, name, more in cells
    )
    return f'<div class="tiles">{inner}</div>'


def code(value: Any) -> str:
    """A text to copy: a hash, a file's name."""
    return f"<code>{escape(str(value))}</code>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a column whose name begins with ``#`` holds numbers.

    On a phone a table of more than two columns shows a row's cells one below the other.
    """
    classes = [' class="n"' if name.startswith("#") else "" for name in header]
    head = "".join(
        f"<th{c}>{escape(name.removeprefix('#'))}</th>"
        for c, name in zip(classes, header, strict=True)
    )
    names = [f' data-name="{escape(name.removeprefix("#"))}"' for name in header]
    body = "".join(
        "<tr>"
        + "".join(f"<td{c}{n}>{x}</td>" for c, n, x in zip(classes, names, row, strict=True))
        + "</tr>"
        for row in rows
    )
    kind = ' class="stacked"' if len(header) > 2 else ""
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>{body}</table></div>'


def ceiling(percent: float) -> float:
    """The top of a chart's axis of percents: round, at or above, a quarter of it round as well."""
    steps = (0.4, 1, 2, 4, 8, 12, 20, 32, 40, 60, 80, 100)
    return next((float(step) for step in steps if step >= percent), 100.0)
