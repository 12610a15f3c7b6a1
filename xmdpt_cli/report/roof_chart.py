"""Seconds per image against FLOPs, with the machine's roofline (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import LogLocator

from xmdpt_cli.report.charts import COLOURS, SOFT, Chart, plain_number, styled


class Dot(NamedTuple):
    """One measured implementation of a model."""

    model: str  # decides the colour
    name: str
    gflop: float  # per image
    seconds: float  # per image
    mfu: float  # share of the peak, 0..1


@styled
def roof_chart(dots: Sequence[Dot], peaks: Mapping[str, float], title: str) -> str:
    """An SVG file: GFLOP across, seconds up, both logarithmic.

    ``peaks``: measured GFLOP/s of the machine by precision. Each is a line that no dot of that
    precision can lie below.
    """
    chart = Chart(720, 400)
    axes = chart.axes
    for number, model in enumerate(dict.fromkeys(dot.model for dot in dots)):
        own = [dot for dot in dots if dot.model == model]
        work, seconds = [dot.gflop for dot in own], [dot.seconds for dot in own]
        colour = COLOURS[number % len(COLOURS)]
        marks = axes.scatter(work, seconds, 90, colour, alpha=0.75, linewidths=0, label=model)
        texts = [f"{d.name}: {d.gflop:,.0f} GFLOP, {d.seconds:.3g} s, MFU {d.mfu:.0%}" for d in own]
        chart.mark(marks, "row", texts)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(xlabel="GFLOP per image", ylabel="seconds per image")
    left, right = axes.get_xlim()
    for number, (name, peak) in enumerate(peaks.items()):
        ends, label = [left, right], f"roof in {name}, {peak:,.3g} GFLOP/s"
        line = axes.plot(ends, [x / peak for x in ends], "--" if number else "-", color=SOFT)
        line[0].set_label(label)
        chart.mark(line[0], "roof", [label])
    axes.set_xlim(left, right)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(plain_number)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return chart.svg()
