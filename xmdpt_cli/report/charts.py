"""Bar charts as inline SVG: no scripts, colours from the page's CSS, numbers on hovering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from xmdpt_cli.report.html import ceiling

MOST_BARS = 20  # a longer histogram is put into bins


@dataclass(frozen=True)
class Series:
    """One colour of a chart: counts at the chart's labels."""

    name: str
    counts: Sequence[int]

    def percent(self, i: int) -> float:
        """Of all this series counts."""
        return 100 * self.counts[i] / max(1, sum(self.counts))


def bins(counters: Sequence[Counter[int]], full: range | None = None) -> list[range]:
    """The values that one bar stands for: each by itself, or evenly many where they are many.

    ``full``: these values in any case.
    """
    values = [value for counter in counters for value in counter]
    low = min([*values, *(full or ())], default=0)
    high = max([*values, *(full or ())], default=0)
    width = -(-(high - low + 1) // MOST_BARS)
    return [range(at, at + width) for at in range(low, high + 1, width)]


def histogram(
    names: Sequence[str],
    counters: Sequence[Counter[int]],
    unit: str,
    full: range | None = None,
    height: int = 230,
) -> str:
    """Side by side, how often each value occurs, in percent of its counter.

    ``unit`` names what is counted ("garments"), for the numbers on hovering.
    """
    places = bins(counters, full)
    labels = [str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in places]
    series = [
        Series(name, [sum(counter[value] for value in place) for place in places])
        for name, counter in zip(names, counters, strict=True)
    ]
    return columns(labels, series, unit, height)


WIDTH = 560  # of every chart; pages scale them
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 12, 30


def columns(labels: Sequence[str], series: Sequence[Series], unit: str, height: int) -> str:
    """A chart of upright bars, a group a label, in percent of each series."""
    top = ceiling(max((s.percent(i) for s in series for i in range(len(labels))), default=0))
    inner_w, inner_h = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM
    parts = []
    for step in range(5):
        value = top * step / 4
        y = TOP + inner_h * (1 - step / 4)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text class="axis end" x="{LEFT - 8}" y="{y + 4:g}">{value:g}%</text>')
    group = inner_w / max(1, len(labels))
    bar = min(36.0, group * 0.78 / max(1, len(series)))
    every = -(-max((len(label) for label in labels), default=1) * len(labels) * 8 // inner_w)
    for i, label in enumerate(labels):
        middle = LEFT + group * (i + 0.5)
        if i % every == 0:
            where = f'x="{middle:.1f}" y="{height - 10}"'
            parts.append(f'<text class="axis middle" {where}>{escape(label)}</text>')
        for n, one in enumerate(series):
            if one.counts[i]:
                tall = max(1.0, inner_h * one.percent(i) / top)
                x = middle + (n - len(series) / 2) * bar
                hover = f"{one.name}, {label}: {one.counts[i]:,} {unit} ({one.percent(i):.1f}%)"
                parts.append(
                    f'<rect class="s{n}" x="{x + 0.5:.1f}" y="{TOP + inner_h - tall:.1f}" '
                    f'width="{bar - 1:.1f}" height="{tall:.1f}" rx="2">'
                    f"<title>{escape(hover)}</title></rect>"
                )
    return _svg(WIDTH, height, parts)


def legend(names: Sequence[str]) -> str:
    """Which colour is which series; nothing to tell apart where there is one."""
    if len(names) < 2:
        return ""
    keys = (f'<span><i class="s{n}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{"".join(keys)}</p>'


NAMED, ROW = 128, 22  # pixels: for names, from row to row


def bars(labels: Sequence[str], counts: Sequence[int], of: int, unit: str) -> str:
    """A chart of lying bars: counts in percent of ``of``."""
    inner = WIDTH - NAMED - 56
    parts = []
    for i, (label, count) in enumerate(zip(labels, counts, strict=True)):
        share, y = count / max(1, of), i * ROW
        parts.append(
            f'<text class="axis end" x="{NAMED - 10}" y="{y + 15}">{escape(label)}</text>'
            f'<rect class="track" x="{NAMED}" y="{y + 4}" width="{inner}" height="14" rx="3"/>'
            f'<rect class="s0" x="{NAMED}" y="{y + 4}" width="{inner * share:.1f}" height="14" '
            f'rx="3"><title>{escape(f"{label}: {count:,} of {of:,} {unit}")}</title></rect>'
            f'<text class="axis" x="{NAMED + inner + 8}" y="{y + 15}">{100 * share:.0f}%</text>'
        )
    return _svg(WIDTH, max(1, len(labels)) * ROW + 2, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
