"""Time against work, with the machine's roof: one SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from xmdpt_cli.report.line_chart import COLOURS, HEIGHT, TOP, WIDTH, text

LEFT, RIGHT, BOTTOM = 64, 210, 44


def roof_chart(report: Mapping[str, Any], title: str) -> str:
    """Every row of a report of drawing: GFLOP across, seconds up, both logarithmic.

    The lines are what the machine's own peak allows in each precision: no row can lie below.
    """
    rows = report["rows"]
    work = [row["gflop"] for row in rows]
    seconds = [1 / row["images_per_second"] for row in rows]
    peaks = {
        name.removeprefix("peak "): value["median"] / 1e9
        for name, value in report["peak"].items()
        if name != "copy"
    }
    roofs = [x / peak for x in (min(work), max(work)) for peak in peaks.values()]
    across = _decades(min(work), max(work))
    up = _decades(min(seconds + roofs), max(seconds))

    def at(x: float, y: float) -> tuple[float, float]:
        right = LEFT + _share(x, across) * (WIDTH - LEFT - RIGHT)
        return round(right, 1), round(HEIGHT - BOTTOM - _share(y, up) * (HEIGHT - TOP - BOTTOM), 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, weight="bold"),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "GFLOP a picture", anchor="middle"),
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
        'text-anchor="middle">seconds a picture</text>',
    ]
    for value in _marks(across):
        x, y = at(value, up[0])
        out.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        out.append(text(x, y + 16, _plain(value), anchor="middle"))
    for value in _marks(up):
        x, y = at(across[0], value)
        out.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(text(x - 6, y + 4, _plain(value), anchor="end"))
    for number, peak in enumerate(peaks.values()):
        ends = [at(x, max(x / peak, up[0])) for x in (max(across[0], up[0] * peak), across[1])]
        path = "L".join(f"{x} {y}" for x, y in ends)
        dash = ' stroke-dasharray="6 3"' if number else ""
        out.append(f'<path d="M{path}" fill="none" stroke="#888" stroke-width="1.5"{dash}/>')
    models = list(dict.fromkeys(row["model"] for row in rows))
    for row, x_value, y_value in zip(rows, work, seconds, strict=True):
        x, y = at(x_value, y_value)
        colour = COLOURS[models.index(row["model"]) % len(COLOURS)]
        said = (
            f"{row['key']}: {x_value:,.0f} GFLOP, {y_value:.3g} s, MFU {row['mfu']['median']:.0%}"
        )
        out.append(
            f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" fill-opacity="0.75">'
            f"<title>{escape(said)}</title></circle>"
        )
    left, y = WIDTH - RIGHT + 16, TOP + 10.0
    for number, model in enumerate(models):
        out.append(f'<circle cx="{left + 6}" cy="{y}" r="5" fill="{COLOURS[number]}"/>')
        out.append(text(left + 20, y + 4, model))
        y += 18
    for number, (name, peak) in enumerate(peaks.items()):
        dash = ' stroke-dasharray="6 3"' if number else ""
        out.append(f'<path d="M{left} {y}h14" stroke="#888" stroke-width="1.5"{dash}/>')
        out.append(text(left + 20, y + 4, f"roof in {name}, {peak:,.3g} GFLOP/s"))
        y += 18
    return "\n".join([*out, "</svg>", ""])


def _decades(low: float, high: float) -> tuple[float, float]:
    """1, 2 or 5 times powers of ten around low..high."""
    below = [v for v in _steps(low, high) if v <= low]
    above = [v for v in _steps(low, high) if v >= high]
    return max(below), min(above)


def _steps(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [f * 10.0**power for power in range(first, last + 1) for f in (1, 2, 5)]


def _marks(ends: tuple[float, float]) -> list[float]:
    inside = [v for v in _steps(*ends) if ends[0] <= v <= ends[1]]
    tens = [v for v in inside if math.isclose(math.log10(v), round(math.log10(v)), abs_tol=1e-9)]
    return tens if len(tens) >= 3 else inside


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _share(value: float, ends: tuple[float, float]) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])
