"""The charts of an evaluation's page: each metric over its pairs, and over the joints seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.report.charts import CARD, SERIES, TEXT, Chart, percent_number, styled
from xmdpt_cli.report.metric_values import (
    Heading,
    column,
    fixed,
    heading,
    interval,
    interval_text,
    main_row,
    per_pair,
    shown,
    style,
)
from xmdpt_cli.utils.counts import counted

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 400, 200
MAX_BARS = 40
MAX_DOTS = 300  # pairs that are a dot each; more are counted in cells
CELLS = 36  # from bottom to top
JOINTS = 18  # of a complete person
SHADES = 5  # of cells, by the pairs in them


@dataclass(frozen=True)
class MetricCharts:
    """What the page shows of one metric; a chart without values is empty."""

    metric: Heading
    summary: list[str]  # mean, median, and what the charts leave out
    histogram: Markup
    scatter: Markup  # over the joints seen


def joints_seen(evaluation: Evaluation) -> Floats:
    """(pairs,) joints seen in the ground truths; NaN where not known."""
    return np.array([image.get("joints") for image in evaluation.images], dtype=np.float64)


def metric_charts(evaluation: Evaluation) -> list[MetricCharts]:
    """The charts of every metric that pairs have."""
    joints, row = joints_seen(evaluation), main_row(evaluation)
    names = [image["name"] for image in evaluation.images]
    charts = []
    for metric in per_pair([evaluation]):
        values = column(evaluation, row, metric)
        finite = np.isfinite(values)
        mean = evaluation.rows.get(row, {}).get(metric)
        marked = mean if mean is not None and np.isfinite(mean) else None
        ends = None if marked is None else interval(evaluation, row, metric)
        distribution = over_joints = Markup("")
        if finite.any():
            distribution = histogram(values[finite], metric, marked, ends)
        both = np.flatnonzero(finite & np.isfinite(joints))
        if len(both):
            named = [names[i] for i in both]
            over_joints = scatter(values[both], joints[both].astype(np.int64), named, metric)
        summary = _summary(metric, values, mean, ends)
        charts.append(MetricCharts(heading(metric, evaluation), summary, distribution, over_joints))
    return charts


def _summary(
    metric: str, values: Floats, mean: Value, ends: tuple[float, float] | None
) -> list[str]:
    parts = []
    if mean is not None:
        of = "" if ends is None else f" ({interval_text(metric, ends)})"
        parts.append(f"mean {shown(metric, mean)}{of}")
    known = values[~np.isnan(values)]
    if len(known):
        parts.append(f"median {shown(metric, float(np.median(known)))}")
    if infinite := int(np.isinf(values).sum()):
        parts.append(f"{infinite:,} infinite (equal images), not in the charts")
    if missing := len(values) - len(known):
        parts.append(f"{missing:,} without a value")
    return parts


@styled
def histogram(
    values: Floats,
    metric: str,
    mean: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Markup:
    """How often values occur, in percent; ``values`` finite, one at least.

    ``mean`` is marked by a line and ``interval`` by a bar across its top, where they are given.
    """
    width = _step(np.ptp(values) / min(MAX_BARS, max(5, 3 * len(values) ** (1 / 3))), metric)
    places = np.floor(values / width + 1e-9).astype(np.int64)
    first = int(places.min())
    counts = np.bincount(places - first)
    margin = 1 if len(counts) < 3 else 0  # a bar alone is not to fill the chart
    low, high = (first - margin) * width, (first + len(counts) + margin) * width
    chart = Chart(WIDTH, HEIGHT)
    axes = chart.axes
    filled = np.flatnonzero(counts)
    percent = 100 * counts[filled] / len(values)
    starts = (first + filled) * width
    containers = axes.bar(starts + width / 2, percent, 0.92 * width, color=SERIES[0])
    for bar, start, count, share in zip(containers, starts, counts[filled], percent, strict=True):
        ends = f"{_number(start, width)} – {_number(start + width, width)}"
        chart.mark(bar, "s0", [f"{ends}: {counted(int(count), 'pair')} ({share:.1f}%)"])
    axes.grid(axis="x", visible=False)
    axes.set_xlim(low, high)
    _format(axes.xaxis, low, high, metric)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(percent_number)
    if mean is not None:
        _mark_mean(chart, metric, mean, interval)
    return chart.inline(f"{metric}: how often values occur")


def _mark_mean(
    chart: Chart, metric: str, mean: float, interval: tuple[float, float] | None
) -> None:
    axes, text = chart.axes, f"mean {shown(metric, mean)}"
    above = axes.get_xaxis_transform()  # x in values, y from 0 to 1 over the height of the axes
    line = axes.plot([mean, mean], [0, 1.04], color=TEXT, transform=above)[0]
    line.set(linewidth=1.5, dashes=(3, 2))
    chart.mark(line, "mean", [text])
    if interval is not None:
        band = axes.plot(interval, [1.02, 1.02], color=SERIES[1], transform=above)[0]
        band.set(linewidth=5, solid_capstyle="round")
        chart.mark(band, "band", [f"95 % interval {interval_text(metric, interval)}"])
    low, high = axes.get_xlim()
    place = (mean - low) / (high - low)
    side = "right" if place > 0.75 else "left" if place < 0.25 else "center"
    axes.text(mean, 1.07, text, transform=above, ha=side, va="bottom", color=TEXT)


@styled
def scatter(values: Floats, joints: NDArray[np.int64], names: Sequence[str], metric: str) -> Markup:
    """A metric over the joints seen, with the mean over pairs of about as many joints.

    ``values`` finite, one at least; all (pairs,). Few pairs are dots with their names, many are
    cells that are darker where there are more of them.
    """
    chart = Chart(WIDTH, HEIGHT)
    step = _step(np.ptp(values) / 6, metric)
    low = math.floor(values.min() / step + 1e-9) * step
    high = max(math.ceil(values.max() / step - 1e-9) * step, low + step)
    most = max(JOINTS, int(joints.max()))
    if len(values) <= MAX_DOTS:
        # side by side where they have as many joints; the golden ratio spreads evenly
        shift = 0.7 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
        dots = chart.axes.scatter(joints + shift, values, 22, SERIES[0], alpha=0.5, linewidths=0)
        titles = [
            f"{name}: {shown(metric, value)}, {number} joints"
            for value, number, name in zip(values, joints, names, strict=True)
        ]
        chart.mark(dots, "dot", titles)
    else:
        bounds = ((-0.5, most + 0.5), (low, high))
        counts, _, _ = np.histogram2d(joints, values, (most + 1, CELLS), bounds)
        # by the root: single pairs are still seen beside crowds
        shades = np.ceil(np.sqrt(counts.T / counts.max()) * SHADES) / SHADES  # (CELLS, most + 1)
        colours = np.dstack([*(np.full_like(shades, c) for c in to_rgb(SERIES[0])), 0.9 * shades])
        chart.axes.imshow(
            colours,
            extent=(*bounds[0], *bounds[1]),
            origin="lower",
            aspect="auto",
            interpolation="none",
        )
    line = means(values, joints)
    middles, heights = [at for at, *_ in line], [mean for _, mean, *_ in line]
    chart.axes.plot(middles, heights, color=SERIES[1], linewidth=2)
    knots = chart.axes.scatter(middles, heights, 60, SERIES[1], edgecolors=CARD, linewidths=1.5)
    knots.set_zorder(3)
    titles = []
    for _, mean, group, count in line:
        many = f"{group[0]}" if len(group) == 1 else f"{group[0]} – {group[-1]}"
        titles.append(f"{many} joints: mean {shown(metric, mean)} of {counted(count, 'pair')}")
    chart.mark(knots, "knot", titles)
    chart.axes.grid(axis="x", visible=False)
    chart.axes.set(xlim=(-0.7, most + 0.7), ylim=(low, high))
    chart.axes.set_xticks(range(0, most + 1, -(-most // 6)))
    _format(chart.axes.yaxis, low, high, metric)
    return chart.inline(f"{metric} over the joints seen in the ground truth")


def means(values: Floats, joints: NDArray[np.int64]) -> list[tuple[float, float, range, int]]:
    """(mean of joints, mean of values, numbers of joints, pairs) of groups of neighbours.

    A group is extended by the next number of joints until it has three pairs and 2 % of all: the
    mean of fewer is not meaningful.
    """
    enough = max(3, len(values) / 50)
    groups: list[list[int]] = []  # numbers of joints
    total = 0
    for number, count in zip(*np.unique(joints, return_counts=True), strict=True):
        if not groups or total >= enough:
            groups.append([])
            total = 0
        groups[-1].append(int(number))
        total += int(count)
    if len(groups) > 1 and total < enough:  # the last ones join those before
        groups[-2:] = [groups[-2] + groups[-1]]
    found = []
    for group in groups:
        inside = np.isin(joints, group)
        numbers = range(group[0], group[-1] + 1)
        mean = float(values[inside].mean())
        found.append((float(joints[inside].mean()), mean, numbers, int(inside.sum())))
    return found


def _format(axis: Axis, low: float, high: float, metric: str) -> None:
    """Ticks at round values, with no more decimals than they need."""
    step = _step((high - low) / 6, metric)
    axis.set_major_locator(MultipleLocator(step))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value, step)))


def _step(wanted: float, metric: str) -> float:
    """At least ``wanted``: 1, 2 or 5 times a power of ten, no finer than the metric is shown."""
    wanted = max(wanted, 10.0 ** -style(metric).digits)
    power = 10.0 ** math.floor(math.log10(wanted) + 1e-9)
    return next(f * power for f in (1, 2, 5, 10) if f * power >= wanted * (1 - 1e-9))


def _number(value: float, step: float) -> str:
    return fixed(value, max(0, -math.floor(math.log10(step) + 1e-9)))
