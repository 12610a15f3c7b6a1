"""Seconds per image against FLOPs, with the machine's roofline (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import LogLocator

from xmdpt_cli.report.charts import COLOURS, SOFT, Chart, plain_number, styled


@styled
def roof_chart(report: Mapping[str, Any], title: str) -> str:
    """Every row of a sampling report as an SVG file: GFLOP across, seconds up, both logarithmic.

    The lines are what the machine's own peak allows in each precision: no row can lie below.
    """
    chart = Chart(720, 400)
    axes = chart.axes
    rows = report["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    for number, model in enumerate(models):
        of_model = [row for row in rows if row["model"] == model]
        work = [row["gflop"] for row in of_model]
        seconds = [1 / row["images_per_second"] for row in of_model]
        colour = COLOURS[number % len(COLOURS)]
        dots = axes.scatter(work, seconds, 90, colour, alpha=0.75, linewidths=0, label=model)
        said = [
            f"{row['key']}: {x:,.0f} GFLOP, {y:.3g} s, MFU {row['mfu']['median']:.0%}"
            for row, x, y in zip(of_model, work, seconds, strict=True)
        ]
        chart.mark(dots, "row", said)
    peaks = {
        name.removeprefix("peak "): value["median"] / 1e9
        for name, value in report["peak"].items()
        if name != "copy"
    }
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
