"""Charts as SVG files."""

from __future__ import annotations

import io
import re
from importlib import resources
from xml.etree import ElementTree

import numpy as np
import pytest
from bench_reports import sampling_report
from PIL import Image

from xmdpt_cli.report.charts import PROPERTIES, Estimate, Line, bars, interval_chart, line_chart

SPACE = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_its_lines_and_ticks() -> None:
    lines = [Line("a & b", [(4, 0.5), (8, 0.75), (50, 1.0)]), Line("c", [(8, 0.6)])]
    svg = line_chart(lines, "steps", "score", "title").svg()
    assert "a &amp; b" in svg
    for tick in (">4<", ">8<", ">50<", ">0.5<", ">1<"):
        assert tick in svg
    line = ElementTree.fromstring(svg).iter(f"{SPACE}use")
    assert len([*line]) == 4 + 2  # points, and one in the legend for each line
    assert line_chart(lines, "steps", "score", "title").svg() == svg


def test_ticks_that_would_overlap_are_replaced() -> None:
    points = [(0.25, 0.1), (0.26, 0.2), (1.0, 0.3)]
    svg = line_chart([Line("a", points)], "", "", "").svg()
    assert ">0.26<" not in svg
    assert ">0.5<" in svg


def test_an_interval_chart_shows_intervals_whole_unless_they_are_far_wider_than_its_dots() -> None:
    narrow = [Estimate("a", 0.1, (-0.1, 0.3)), Estimate("b", -0.1, (-0.2, 0.0))]
    wide = [*narrow, Estimate("c", 0.05, (-9.0, 9.0))]
    for rows, ends in ((narrow, (-0.2, 0.3)), (wide, (-0.7, 0.7))):
        axes = interval_chart(rows, "difference", "title").axes
        assert axes.get_xlim() == pytest.approx(ends)
        lines = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2]
        assert len(lines) == len(rows)
        for row, line in zip(rows, lines, strict=True):
            assert row.interval is not None
            assert line == pytest.approx(np.clip(row.interval, *ends))


def test_an_interval_chart_marks_each_row_at_its_value() -> None:
    rows = [Estimate("worse", -2.0, (-3.0, -1.0)), Estimate("none", 0.0, None)]
    rows.append(Estimate("better", 1.0, (-1.0, 3.0)))
    chart = interval_chart(rows, "difference", "title")
    root = ElementTree.fromstring(chart.svg())
    titles = [title.text for title in root.iter(f"{SPACE}title")]
    assert titles == ["worse: -2", "none: 0", "better: 1"]
    (x0, y0), (x1, y1), (x2, y2) = (
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for use in root.iter(f"{SPACE}use")
        if use.get("class") == "dot"
    )
    assert (x1 - x0) / (x2 - x1) == pytest.approx(2, rel=1e-3)
    assert y1 - y0 == pytest.approx(y2 - y1, rel=1e-2)
    with Image.open(io.BytesIO(chart.png())) as image:
        assert image.size == (2 * 720, 2 * (80 + 24 * 3))


def test_text_is_escaped_and_a_dollar_is_no_formula() -> None:
    (label, *_) = [
        text.text
        for text in ElementTree.fromstring(
            line_chart([Line("cost in $ and <b>", [(1, 0.5), (2, 0.6)])], "$x$", "", "").svg()
        ).iter(f"{SPACE}text")
        if "cost" in (text.text or "")
    ]
    assert label == "cost in $ and <b>"


def test_colours_of_a_chart_in_a_page_are_those_of_the_stylesheet() -> None:
    """Readable in dark mode too; in light mode as matplotlib renders it."""
    chart = bars(["nose"], [1], 2, "images", "a <label>")
    assert not re.search("#[0-9a-f]{6}|font-family", chart)
    assert 'aria-label="a &lt;label&gt;"' in chart
    styles = resources.files("xmdpt_cli.report").joinpath("templates/style.css").read_text()
    day, night = (
        dict(re.findall(r"(--[\w-]+): ([^;]+);", block))
        for block in re.findall(r":root \{(.*?)\}", styles, re.DOTALL)
    )
    for colour, name in PROPERTIES.items():
        assert day[name] in (colour, f"#{colour[1::2]}"), name
        assert night[name] != day[name]


def test_marks_lie_on_or_above_the_roof() -> None:
    """A row at an MFU of 1 lies on the line, one of 0.5 above it by a factor of two."""
    report = sampling_report(
        {"M / full": (200.0, 1.0), "M / half": (200.0, 0.5), "N / small": (20.0, 0.8)}
    )
    root = ElementTree.fromstring(report.chart())
    marks = {}
    for use in root.iter(f"{SPACE}use"):
        title = use.findtext(f"{SPACE}title")
        if title is not None:
            marks[title.split(":")[0]] = float(use.attrib["x"]), float(use.attrib["y"])
    (roof,) = [
        path.attrib["d"] for path in root.iter(f"{SPACE}path") if path.get("class") == "roof"
    ]
    (x0, y0), (x1, y1) = (tuple(map(float, end.split())) for end in roof[1:].split("L"))
    slope = (y1 - y0) / (x1 - x0)

    def above(name: str) -> float:
        x, y = marks[name]
        return y0 + slope * (x - x0) - y  # SVG's y goes down

    assert above("M / full") == pytest.approx(0, abs=0.3)
    assert above("M / half") > 3
    assert above("M / half") > above("N / small") > 0.3
    texts = "".join(root.itertext())
    for message in (
        "Time against work, P",
        "roof in fp32, 100 GFLOP/s",
        "GFLOP per image",
        "M / half",
    ):
        assert message in texts
