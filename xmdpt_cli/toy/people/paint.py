"""Antialiased shapes with body coordinates: bent limbs (round cones) and trunks (profiles).

A shape is a ``Field`` over a small window of the canvas: the signed distance to its outline
in pixels, and where on the body each pixel lies, so that a texture can follow the cloth.
Everything is float32; positions in canvas pixels, (0, 0) at the corner of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.toy.people.outfit import Colour

Plane = NDArray[np.float32]  # (h, w) of a window; colours are (3, h, w)
Point = tuple[float, float]
SHADE = 0.20  # share by which a limb is darker at its edge than in its middle
LIGHT = -0.12  # default of a canvas
ROOT = 0.06  # share by which a limb is darker where it joins the trunk
TABLE = 192  # rows of a trunk's profile
INK = 0.52  # brightness of the contour relative to the colour


@dataclass
class Field:
    """``inside`` in pixels (> 0 inside), ``across`` in [-1, 1], ``along`` in pixels from A.

    ``edge`` is the distance to that part of the outline which gets a contour. ``lit`` is the
    brightness that the light adds, as a share of the colour.
    """

    rows: slice
    columns: slice
    inside: Plane
    across: Plane
    along: Plane
    edge: Plane
    lit: Plane


def as_planes(colour: Plane | Colour) -> Plane:
    """Return a flat colour as (3, 1, 1), and planes (3, h, w) unchanged."""
    if isinstance(colour, np.ndarray):
        return colour
    return np.array(colour, np.float32)[:, None, None]


def unit(x: Plane) -> Plane:
    """Clip a fresh plane to [0, 1], in place (np.clip costs twice as much on small windows)."""
    np.maximum(x, 0.0, out=x)
    return np.minimum(x, 1.0, out=x)


class Canvas:
    """An image, and the coverage of each pixel by the person, in [0, 1].

    ``light``: the share by which the lit side of a shape is brighter than its middle; negative if
    the light comes from the upper left, positive from the upper right.
    """

    def __init__(self, height: int, width: int, background: Colour, light: float = LIGHT) -> None:
        self.light = (0.85 * light, -0.55 * abs(light))  # x, y, towards the light
        # planes, not pixels: blending runs over long contiguous rows
        self.rgb = np.empty((3, height, width), np.float32)
        self.rgb[:] = as_planes(background)
        self.cover = np.zeros((height, width), np.float32)

    def window(self, low: Point, high: Point) -> tuple[slice, slice, Plane, Plane] | None:
        """Rows, columns and pixel-centre coordinates (x (1, w), y (h, 1)) of a box, if in view."""
        height, width = self.cover.shape
        x0, x1 = max(0, int(low[0]) - 2), min(width, int(high[0]) + 3)
        y0, y1 = max(0, int(low[1]) - 2), min(height, int(high[1]) + 3)
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
        return slice(y0, y1), slice(x0, x1), x, y

    def put(self, field: Field, colour: Plane | Colour, where: Plane | None = None) -> None:
        """Blend a flat colour or planes (3, h, w) over the canvas, inside the field.

        ``where``: additional weights in [0, 1].
        """
        cover = unit(field.inside + np.float32(0.5))
        if where is not None:
            cover *= where
        region = self.rgb[:, field.rows, field.columns]
        step = as_planes(colour) - region
        step *= cover
        region += step
        covered = self.cover[field.rows, field.columns]
        np.maximum(covered, cover, out=covered)

    def model(
        self,
        field: Field,
        colour: Plane | Colour,
        line: float,
        where: Plane | None = None,
        fade: float = 0.0,
        depth: float = SHADE,
    ) -> None:
        """Blend a colour with soft shading and a darker contour ``line`` pixels wide.

        Both grow in over the first ``fade`` pixels along, so that a limb joins the trunk.
        """
        shade = field.across * field.across
        shade *= np.float32(-depth)
        shade += field.lit
        edge = field.edge * np.float32(-1.0 / line)
        edge += np.float32(1.25)
        unit(edge)
        if fade > 0:
            grown = unit(field.along * np.float32(1.0 / fade) - np.float32(0.2))
            shade += np.float32(ROOT)
            shade *= grown
            shade -= np.float32(ROOT)
            # the contour stays against the background
            edge *= np.maximum(grown, 1.0 - self.cover[field.rows, field.columns])
        shade += np.float32(1.0)
        edge *= np.float32(INK - 1.0)
        edge += np.float32(1.0)
        shade *= edge
        self.put(field, as_planes(colour) * shade, where)

    def shadow(self, field: Field, width: float, strength: float) -> None:
        """Darken what is already rendered of the person, up to ``width`` pixels around a shape."""
        share = field.inside * np.float32(1.0 / width)
        share += 1.0
        unit(share)
        share *= self.cover[field.rows, field.columns]
        share *= np.float32(-strength)
        share += 1.0
        self.rgb[:, field.rows, field.columns] *= share


def limb(
    canvas: Canvas,
    points: list[Point],
    radii: list[float],
    *,
    flat_end: bool = False,
    flat_start: bool = False,
) -> Field | None:
    """The union of round cones along a polyline; ``None`` if it is outside the image."""
    largest = max(radii)
    low = (min(p[0] for p in points) - largest, min(p[1] for p in points) - largest)
    high = (max(p[0] for p in points) + largest, max(p[1] for p in points) + largest)
    window = canvas.window(low, high)
    if window is None:
        return None
    rows, columns, x, y = window
    inside: Plane | None = None
    across = along = np.zeros((1, 1), np.float32)
    slope: Plane | np.float32 = np.float32(0.0)
    travelled = 0.0
    lx, ly = canvas.light
    for (ax, ay), (bx, by), ra, rb in zip(points, points[1:], radii, radii[1:], strict=False):
        dx, dy = bx - ax, by - ay
        length = max(float(np.hypot(dx, dy)), 1e-3)
        ux, uy = np.float32(dx / length), np.float32(dy / length)
        px, py = x - np.float32(ax), y - np.float32(ay)
        walk = px * ux + py * uy
        off = px * uy - py * ux
        held = np.minimum(np.maximum(walk, 0.0), np.float32(length))
        over = walk - held
        radius = held * np.float32((rb - ra) / length)
        radius += np.float32(ra)
        over *= over
        over += off * off
        np.sqrt(over, out=over)
        f = radius - over
        s, v = off / radius, walk + np.float32(travelled)
        glow = np.float32(lx * uy - ly * ux)  # (uy, -ux) points to the side of s = 1
        if flat_end and (bx, by) == points[-1]:
            f = np.minimum(f, np.float32(length) - walk)
        if flat_start and (ax, ay) == points[0]:
            f = np.minimum(f, walk)
        if inside is None:
            inside, across, along, slope = f, s, v, glow
        else:
            better = f > inside
            inside = np.where(better, f, inside)
            across, along = np.where(better, s, across), np.where(better, v, along)
            slope = np.where(better, glow, slope)
        travelled += length
    assert inside is not None
    np.maximum(across, -1.0, out=across)
    np.minimum(across, 1.0, out=across)
    return Field(rows, columns, inside, across, along, inside, across * slope)


def trunk(
    canvas: Canvas,
    start: Point,
    axis: Point,
    levels: NDArray[np.float64],
    centre: NDArray[np.float64],
    half: NDArray[np.float64],
    *,
    sag: float = 0.0,
    ink: str = "hem",
) -> Field | None:
    """A shape with a profile: at ``levels`` (increasing pixels along the unit ``axis``) it spans
    ``centre`` -+ ``half`` across; ``None`` if it is outside the image.

    The lower edge hangs ``sag`` pixels deeper in the middle. ``ink`` says what gets a contour
    besides the sides: "hem", "waist hem" or "".
    """
    ux, uy = axis
    extent = float(np.max(np.abs(centre) + half))
    ends = [
        (start[0] + ux * t, start[1] + uy * t) for t in (float(levels[0]), float(levels[-1]) + sag)
    ]
    low = (min(e[0] for e in ends) - extent, min(e[1] for e in ends) - abs(ux) * extent)
    high = (max(e[0] for e in ends) + extent, max(e[1] for e in ends) + abs(ux) * extent)
    window = canvas.window(low, high)
    if window is None:
        return None
    rows, columns, x, y = window
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    along = px * np.float32(ux) + py * np.float32(uy)
    off = px * np.float32(uy) - py * np.float32(ux)
    first, final = float(levels[0]), float(levels[-1])
    fine, step = np.linspace(first, final, TABLE, retstep=True)
    row = (along * np.float32(1.0 / step) - np.float32(first / step)).astype(np.int32)
    np.maximum(row, 0, out=row)
    np.minimum(row, TABLE - 1, out=row)
    c, w = _smooth(np.interp(fine, levels, centre)), _smooth(np.interp(fine, levels, half))
    # distance to the sloping side, not along the row, which would make jagged shoulders
    rise = np.diff(w, append=w[-1]) * np.float32(1.0 / step)
    across = (off - c[row]) / w[row]
    sides = (1.0 - np.abs(across)) * (w / np.sqrt(1.0 + rise * rise))[row]
    bow = np.float32(sag) * (1.0 - across * across) if sag else np.float32(0.0)
    hem = np.float32(final) + bow - along
    waist = along - np.float32(first) + np.float32(0.4) * bow
    edge = np.minimum(sides, hem) if "hem" in ink else sides
    edge = np.minimum(edge, waist) if "waist" in ink else edge
    inside = np.minimum(np.minimum(sides, hem), waist)
    np.maximum(across, -1.0, out=across)
    np.minimum(across, 1.0, out=across)
    lit = across * np.float32(canvas.light[0] * uy - canvas.light[1] * ux)
    return Field(rows, columns, inside, across, along, edge, lit)


_KERNEL = np.hanning(21)[1:-1] / np.hanning(21)[1:-1].sum()


def _smooth(profile: NDArray[np.float64]) -> Plane:
    """Round the corners of a piecewise linear profile."""
    side = np.ones(len(_KERNEL) // 2)
    padded = np.concatenate([side * profile[0], profile, side * profile[-1]])
    return np.convolve(padded, _KERNEL, mode="valid").astype(np.float32)
