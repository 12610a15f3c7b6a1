"""Charts as SVG and PNG, made by matplotlib without a display.

Text stays text and the same numbers give the same bytes. A chart is written either as a file or as
an SVG element of a page, where its colours are those of the stylesheet (light and dark), and a mark
shows its numbers on hovering.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

TEXT, SOFT, LINE, TRACK, CARD = "#1c2330", "#667085", "#e3e7ee", "#eef1f6", "#ffffff"
SERIES = ("#3b6fd4", "#e08a1e")
#: the custom properties of templates/style.css that stand for these colours in a page
PROPERTIES = {TEXT: "--text", SOFT: "--soft", LINE: "--line", TRACK: "--track", CARD: "--card",
              SERIES[0]: "--s0", SERIES[1]: "--s1"}  # fmt: skip
#: distinguishable with colour vision deficiency (Okabe and Ito 2008)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xmdpt",  # else the ids of shapes are random
    "text.parse_math": False,  # a name with a dollar is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": TEXT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,  # keeps the first label clear of the 0% beside it
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}
styled = matplotlib.style.context(["default", STYLE])  # independent of matplotlibrc
# 10,000 and 0.5, not 10^4
plain_number = FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1000 else f"{v:.4g}")
percent_number = FuncFormatter(lambda value, _: f"{value:g}%")
NEAREST_TICKS = 0.06  # of the axis: nearer labels overlap
MAX_BARS = 20  # a longer histogram is put into bins
WIDTH = 440  # of the charts of the dataset page: on a phone their text is still legible


class Chart:
    """A figure with one pair of axes. Make and fill it in functions that are ``@styled``."""

    def __init__(self, width: float, height: float) -> None:
        """Pixels of the viewBox; a page scales the chart to its column."""
        self.figure = Figure((width / 72, height / 72), dpi=72, layout="constrained")
        self.axes = self.figure.add_subplot()
        self._titles: dict[str, list[str]] = {}

    def mark(self, artist: Artist, kind: str, titles: Sequence[str]) -> None:
        """Let the elements of ``artist`` show ``titles`` on hovering, one each; ``kind`` becomes
        the class of the SVG elements."""
        name = f"mark-{len(self._titles)}-{kind}"
        artist.set_gid(name)
        self._titles[name] = list(titles)

    def svg(self) -> str:
        """As the text of an SVG file, on white."""
        root = self._elements()
        root.set("xmlns", "http://www.w3.org/2000/svg")
        return ElementTree.tostring(root, encoding="unicode") + "\n"

    @styled
    def png(self) -> bytes:
        """As a PNG file, on white, with twice the pixels of the viewBox."""
        stream = io.BytesIO()
        self.figure.savefig(stream, format="png", dpi=144, metadata={"Software": None})
        return stream.getvalue()

    def inline(self, label: str) -> Markup:
        """As an element of a page; ``label`` is its text for screen readers."""
        self.figure.patch.set_visible(False)
        self.axes.patch.set_visible(False)
        root = self._elements()
        for name in ("width", "height", "version"):
            del root.attrib[name]
        root.attrib.update({"role": "img", "aria-label": label})
        for element in root.iter():
            style = element.get("style")
            if style:  # the page chooses fonts and colours
                style = re.sub("font-family: [^;]*; ", "", style)
                element.set("style", re.sub("#[0-9a-f]{6}", _property, style))
        return Markup(ElementTree.tostring(root, encoding="unicode"))

    @styled
    def _elements(self) -> ElementTree.Element:
        """The SVG without what a page does not need, and with titles."""
        stream = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.figure.savefig(stream, format="svg", metadata=nothing)
        root = ElementTree.fromstring(stream.getvalue())
        parents = {child: parent for parent in root.iter() for child in parent}
        for element in list(root.iter()):
            element.tag = element.tag.partition("}")[2]
            element.tail = None
            if element.tag in ("style", "clipPath"):
                parents[parents[element]].remove(parents[element])
            for name, value in list(element.attrib.items()):
                if name == "clip-path" or value.startswith("rotate(-0 "):
                    del element.attrib[name]
                elif name.startswith("{"):
                    element.attrib[name.partition("}")[2]] = element.attrib.pop(name)
                elif name in ("d", "x", "y"):
                    element.set(name, re.sub(r"\d+\.\d{3,}", _rounded, value))
            if element.text and not element.text.strip():
                element.text = None
        used = {element.get("href", "").removeprefix("#") for element in root.iter("use")}
        for element in list(root.iter()):
            name = element.get("id", "")
            if name in self._titles:
                _add_titles(element, name.split("-")[2], self._titles[name])
            if name not in used:
                element.attrib.pop("id", None)
        return root


def _add_titles(group: ElementTree.Element, kind: str, titles: Sequence[str]) -> None:
    definitions = {shape for defs in group.iter("defs") for shape in defs.iter()}
    shapes = [s for s in group.iter() if s.tag in ("path", "use") and s not in definitions]
    for shape, title in zip(shapes, titles, strict=True):
        shape.set("class", kind)
        ElementTree.SubElement(shape, "title").text = title


def _property(colour: re.Match[str]) -> str:
    name = PROPERTIES.get(colour[0])
    return colour[0] if name is None else f"var({name})"


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def bins(counters: Sequence[Counter[int]], full: range | None = None) -> list[range]:
    """The values of each bar: one value, or equally many if there are more than MAX_BARS.

    ``full``: values that are included in any case.
    """
    values = [value for counter in counters for value in counter]
    low = min([*values, *(full or ())], default=0)
    high = max([*values, *(full or ())], default=0)
    width = -(-(high - low + 1) // MAX_BARS)
    return [range(start, start + width) for start in range(low, high + 1, width)]


@styled
def histogram(
    names: Sequence[str],
    counters: Sequence[Counter[int]],
    unit: str,
    label: str,
    full: range | None = None,
    height: int = 180,
) -> Markup:
    """Side by side, how often each value occurs, in percent of its counter.

    ``unit`` names what is counted ("items"), for the numbers on hovering.
    """
    places = bins(counters, full)
    labels = [str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in places]
    chart = Chart(WIDTH, height)
    wide = min(0.78, 0.08 * len(places)) / len(names)  # few bars stay slender
    for number, (name, counter) in enumerate(zip(names, counters, strict=True)):
        counts = [sum(counter[value] for value in place) for place in places]
        percent = [100 * count / max(1, counter.total()) for count in counts]
        middle = [at + (number - (len(names) - 1) / 2) * wide for at in range(len(places))]
        containers = chart.axes.bar(
            middle, percent, 0.94 * wide, color=SERIES[number % len(SERIES)]
        )
        for bar, where, count, share in zip(containers, labels, counts, percent, strict=True):
            title = f"{name}, {where}: {count:,} {unit} ({share:.1f}%)"
            chart.mark(bar, f"s{number}", [title])
    chart.axes.grid(axis="x", visible=False)
    chart.axes.set_xlim(-0.6, len(places) - 0.4)
    every = -(-sum(map(len, labels)) // 45)  # as many labels as have room
    chart.axes.set_xticks(range(0, len(places), every), labels[::every])
    chart.axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    chart.axes.yaxis.set_major_formatter(percent_number)
    return chart.inline(label)


@styled
def bars(labels: Sequence[str], counts: Sequence[int], of: int, unit: str, label: str) -> Markup:
    """Horizontal bars: counts in percent of ``of``, the first at the top."""
    chart = Chart(WIDTH, 17 * max(1, len(labels)) + 4)
    chart.axes.axis("off")
    places = range(len(labels))
    percent = [100 * count / max(1, of) for count in counts]
    chart.axes.barh(places, [100] * len(labels), 0.64, color=TRACK)
    containers = chart.axes.barh(places, percent, 0.64, color=SERIES[0])
    for place, bar, name, count in zip(places, containers, labels, counts, strict=True):
        chart.mark(bar, "s0", [f"{name}: {count:,} of {of:,} {unit}"])
        chart.axes.text(-2, place, name, ha="right", va="center_baseline", color=SOFT)
        chart.axes.text(102, place, f"{percent[place]:.0f}%", va="center_baseline", color=SOFT)
    chart.axes.set_xlim(0, 100)
    chart.axes.set_ylim(len(labels) - 0.5, -0.5)
    return chart.inline(label)


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]  # (x, y), x rising


@styled
def line_chart(lines: Iterable[Line], across: str, up: str, title: str) -> Chart:
    """``lines`` over a logarithmic x axis; ``across`` and ``up`` name the axes."""
    chart = Chart(720, 400)
    places: set[float] = set()
    for number, line in enumerate(lines):
        x, y = zip(*line.points, strict=True)
        places |= {*x}
        colour = COLOURS[number % len(COLOURS)]
        dashes = "-" if number < len(COLOURS) else "--"
        chart.axes.plot(x, y, dashes, color=colour, marker="o", markersize=6, label=line.name)
    chart.axes.set(xscale="log", xlabel=across, ylabel=up, title=title)
    if _have_room(sorted(places)):
        chart.axes.set_xticks(sorted(places), [f"{x:g}" for x in sorted(places)])
    else:
        chart.axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        chart.axes.xaxis.set_major_formatter(plain_number)
    chart.axes.minorticks_off()
    chart.axes.yaxis.set_major_formatter(plain_number)
    chart.axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return chart


def _have_room(places: Sequence[float]) -> bool:
    """Whether labels at rising places of a logarithmic axis do not overlap."""
    logs = [math.log(place) for place in places]
    return all(b - a >= NEAREST_TICKS * (logs[-1] - logs[0]) for a, b in pairwise(logs))


class Estimate(NamedTuple):
    name: str
    value: float
    interval: tuple[float, float] | None  # None: not known


def _limits(rows: Sequence[Estimate]) -> tuple[float, float]:
    """The ends of an axis with all dots, 0, and the intervals within three times their range."""
    values = [row.value for row in rows] + [0.0]
    low, high = min(values), max(values)
    span = high - low or 1.0
    ends = [end for row in rows for end in row.interval or ()]
    left = max(low - 3 * span, min([low - span / 2, *ends]))
    right = min(high + 3 * span, max([high + span / 2, *ends]))
    return left, right


@styled
def interval_chart(rows: Sequence[Estimate], across: str, title: str) -> Chart:
    """A dot with its interval in a line for each row, the first at the top; a line marks 0.

    Intervals that are far wider than the dots are apart are cut at the edge of the chart.
    """
    chart = Chart(720, 80 + 24 * len(rows))
    left, right = _limits(rows)
    for place, row in enumerate(rows):
        colour = SOFT
        if row.interval is not None:
            low, high = row.interval
            colour = SOFT if low <= 0 <= high else SERIES[0]
            # cut here: the SVG has no clipping paths
            shown = [max(low, left), min(high, right)]
            chart.axes.plot(shown, [place, place], color=colour, linewidth=2)
        title_of = f"{row.name}: {row.value:.4g}"
        chart.mark(
            chart.axes.plot([row.value], [place], "o", color=colour, markersize=6)[0],
            "dot",
            [title_of],
        )
    chart.axes.axvline(0, color=TEXT, linewidth=1)
    chart.axes.set_xlim(left, right)
    chart.axes.set_ylim(len(rows) - 0.5, -0.5)
    chart.axes.set_yticks(range(len(rows)), [row.name for row in rows])
    chart.axes.grid(axis="y", visible=False)
    chart.axes.set(xlabel=across, title=title)
    return chart
