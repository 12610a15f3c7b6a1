"""A line chart as an SVG file of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 36, 44
#: told apart by most eyes (Okabe and Ito 2008)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]  # (x, y), x rising


def line_chart(lines: Sequence[Line], across: str, up: str, title: str) -> str:
    """``lines`` over a logarithmic x axis; ``across`` and ``up`` name the axes."""
    places = sorted({x for line in lines for x, _ in line.points})
    values = [y for line in lines for _, y in line.points]
    low, high, stride = _ticks(min(values), max(values))
    first, last = math.log(places[0]), math.log(max(places[-1], places[0] * 1.01))

    def at(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (math.log(x) - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(right, 1), round(down, 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, weight="bold"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across, anchor="middle"),
        text(8, TOP - 4, up),
    ]
    for number in range(round((high - low) / stride) + 1):
        value = low + number * stride
        _, y = at(places[0], value)
        out.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(text(LEFT - 6, y + 4, f"{value:.4g}", anchor="end"))
    for x in places:
        out.append(text(at(x, low)[0], HEIGHT - BOTTOM + 16, f"{x:g}", anchor="middle"))
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="5 3"' if number >= len(COLOURS) else ""
        path = "L".join(f"{x} {y}" for x, y in (at(*point) for point in line.points))
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for point in line.points:
            x, y = at(*point)
            out.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        y = TOP + 10 + 18 * number
        left = WIDTH - RIGHT + 16
        out.append(f'<path d="M{left} {y}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(text(left + 28, y + 4, line.name))
    return "\n".join([*out, "</svg>", ""])


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """Round ends around low..high and a round stride: 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 4))
    stride = next(f * power for f in (1, 2, 5, 10) if span / (f * power) <= 5)
    return math.floor(low / stride) * stride, math.ceil(high / stride) * stride, stride


def text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
