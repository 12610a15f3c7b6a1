"""The page's charts as inline SVG: no scripts, colours from its CSS, numbers on hovering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.report.html import ceiling
from xmdpt_cli.report.metric_values import fixed, shown, style

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 400, 190  # of every chart; pages scale them little, so that text stays readable
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 28, 26
MOST_BARS = 40
MOST_DOTS = 300  # pairs drawn one by one; more are counted in cells
CELLS = 36  # from bottom to top
JOINTS = 18  # of a whole person
SHADES = 5  # of cells, by the pairs in them


def histogram(
    values: Floats,
    metric: str,
    mean: float | None = None,
    interval: tuple[float, float] | None = None,
) -> str:
    """How often values occur, in percent; ``values`` finite, one at least.

    ``mean`` is marked by a line and ``interval`` by a bar across its top, where they are given.
    """
    step = _step(np.ptp(values) / min(MOST_BARS, max(5, 3 * len(values) ** (1 / 3))), metric)
    places = np.floor(values / step + 1e-9).astype(np.int64)
    first = int(places.min())
    counts = np.bincount(places - first)
    air = 1 if len(counts) < 3 else 0  # a bar alone is not to fill the chart
    low, high = (first - air) * step, (first + len(counts) + air) * step
    percent = 100 * counts / len(values)
    top = ceiling(float(percent.max()))
    parts = _grid([top * n / 4 for n in range(5)], (0, top), "%")
    parts += _below(_ticks(low, high, metric), (low, high), metric)
    wide = (WIDTH - LEFT - RIGHT) / (len(counts) + 2 * air)
    for i in np.flatnonzero(counts):
        start = (first + int(i)) * step
        y = min(_up(percent[i], (0, top)), HEIGHT - BOTTOM - 1.0)
        said = f"{_number(start, step)} – {_number(start + step, step)}: {_pairs(int(counts[i]))}"
        parts.append(
            f'<rect class="s0" x="{_right(start, (low, high)) + 0.5:.1f}" y="{y:.1f}" '
            f'width="{max(0.5, wide - 1):.1f}" height="{HEIGHT - BOTTOM - y:.1f}" rx="1.5">'
            f"<title>{escape(said)} ({percent[i]:.1f}%)</title></rect>"
        )
    if mean is not None:
        parts += _mark(metric, mean, interval, (low, high))
    return _svg(parts, f"{metric}: how often values occur")


def _mark(
    metric: str, mean: float, interval: tuple[float, float] | None, ends: tuple[float, float]
) -> list[str]:
    parts, x = [], _right(mean, ends)
    if interval is not None:
        left, right = (_right(end, ends) for end in interval)
        wide = max(2.0, right - left)  # narrower could not be seen
        parts.append(
            f'<rect class="band" x="{(left + right - wide) / 2:.1f}" y="{TOP - 9}" '
            f'width="{wide:.1f}" height="5" rx="2.5"/>'
        )
    side = "end" if x > WIDTH * 0.75 else "start" if x < WIDTH * 0.25 else "middle"
    parts.append(f'<path class="mean" d="M{x:.1f} {TOP - 11}V{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text class="said {side}" x="{x:.1f}" y="{TOP - 15}">mean {shown(metric, mean)}</text>'
    )
    return parts


def scatter(values: Floats, joints: NDArray[np.int64], names: Sequence[str], metric: str) -> str:
    """A metric over the joints seen, with the mean over pairs of about as many joints.

    ``values`` finite, one at least; all (pairs,). Few pairs are dots with their names, many are
    cells that are darker where there are more of them.
    """
    ticks = _ticks(float(values.min()), float(values.max()), metric, outside=True)
    ends, most = (ticks[0], ticks[-1]), max(JOINTS, int(joints.max()))
    across = (-0.7, most + 0.7)
    parts = _grid(ticks, ends, metric=metric)
    marks = list(range(0, most + 1, -(-most // 6)))
    parts += [
        f'<text class="middle" x="{_right(n, across):.1f}" y="{HEIGHT - 8}">{n}</text>'
        for n in marks
    ]
    if len(values) <= MOST_DOTS:
        parts += _dots(values, joints, names, metric, across, ends)
    else:
        parts += _cells(values, joints, across, ends)
    line = means(values, joints)
    points = [(_right(at, across), _up(mean, ends)) for at, mean, _, _ in line]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts.append(f'<path class="line" d="M{path}"/>')
    for (x, y), (_, mean, group, count) in zip(points, line, strict=True):
        many = f"{group[0]}" if len(group) == 1 else f"{group[0]} – {group[-1]}"
        said = f"{many} joints: mean {shown(metric, mean)} of {_pairs(count)}"
        parts.append(
            f'<circle class="knot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>'
        )
    return _svg(parts, f"{metric} over the joints seen in the truth")


def means(values: Floats, joints: NDArray[np.int64]) -> list[tuple[float, float, range, int]]:
    """(mean of joints, mean of values, numbers of joints, pairs) of groups of neighbours.

    A group takes in the next number of joints until it has three pairs and a fiftieth of them
    all: the mean of fewer says nothing.
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


def _dots(
    values: Floats,
    joints: NDArray[np.int64],
    names: Sequence[str],
    metric: str,
    across: tuple[float, float],
    ends: tuple[float, float],
) -> list[str]:
    parts = []
    for i, (value, number, name) in enumerate(zip(values, joints, names, strict=True)):
        # side by side where they have as many joints; the golden ratio spreads evenly
        x = _right(number + 0.7 * ((i * 0.618034) % 1 - 0.5), across)
        said = f"{name}: {shown(metric, value)}, {number} joints"
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{_up(value, ends):.1f}" r="2.6">'
            f"<title>{escape(said)}</title></circle>"
        )
    return parts


def _cells(
    values: Floats,
    joints: NDArray[np.int64],
    across: tuple[float, float],
    ends: tuple[float, float],
) -> list[str]:
    span = ends[1] - ends[0]
    rows = np.clip((values - ends[0]) / span * CELLS, 0, CELLS - 1).astype(np.int64)
    cells, counts = np.unique(joints * CELLS + rows, return_counts=True)
    # by the root: single pairs are still seen beside crowds
    shades = np.ceil(np.sqrt(counts / counts.max()) * SHADES).astype(np.int64)
    wide = 0.86 * (WIDTH - LEFT - RIGHT) / (across[1] - across[0])
    tall = (HEIGHT - TOP - BOTTOM) / CELLS
    paths: dict[int, list[str]] = {}
    for cell, shade in zip(cells.tolist(), shades.tolist(), strict=True):
        number, row = divmod(cell, CELLS)
        x, y = _right(number, across) - wide / 2, HEIGHT - BOTTOM - (row + 1) * tall
        paths.setdefault(shade, []).append(f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z")
    return [f'<path class="cell c{n}" d="{"".join(paths[n])}"/>' for n in sorted(paths)]


def _grid(
    values: Sequence[float], ends: tuple[float, float], unit: str = "", metric: str = ""
) -> list[str]:
    parts = []
    step = values[1] - values[0]
    for value in values:
        y = _up(value, ends)
        text = _number(value, step) if metric else f"{value:g}"
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{text}{unit}</text>')
    return parts


def _below(values: Sequence[float], ends: tuple[float, float], metric: str) -> list[str]:
    step = values[1] - values[0] if len(values) > 1 else 10.0 ** -style(metric).digits
    return [
        f'<text class="middle" x="{_right(value, ends):.1f}" y="{HEIGHT - 8}">'
        f"{_number(value, step)}</text>"
        for value in values
    ]


def _step(wanted: float, metric: str) -> float:
    """At least ``wanted``: 1, 2 or 5 times a power of ten, no finer than the metric is shown."""
    wanted = max(wanted, 10.0 ** -style(metric).digits)
    power = 10.0 ** math.floor(math.log10(wanted) + 1e-9)
    return next(f * power for f in (1, 2, 5, 10) if f * power >= wanted * (1 - 1e-9))


def _ticks(low: float, high: float, metric: str, *, outside: bool = False) -> list[float]:
    """Round values between both ends, or around them: two at least then."""
    step = _step((high - low) / 6, metric)
    first, last = low / step, high / step
    if outside:
        start = math.floor(first + 1e-9)
        stop = max(math.ceil(last - 1e-9), start + 1)
    else:
        start, stop = math.ceil(first - 1e-9), math.floor(last + 1e-9)
    return [number * step for number in range(start, stop + 1)]


def _number(value: float, step: float) -> str:
    return fixed(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def _right(value: float, ends: tuple[float, float]) -> float:
    return LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (WIDTH - LEFT - RIGHT)


def _up(value: float, ends: tuple[float, float]) -> float:
    share = (value - ends[0]) / (ends[1] - ends[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _pairs(count: int) -> str:
    return f"{count:,} pair{'' if count == 1 else 's'}"


def _svg(parts: Sequence[str], told: str) -> str:
    inner = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">{inner}</svg>'
    )
