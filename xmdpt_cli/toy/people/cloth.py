"""Textures as functions of body coordinates, so that patterns move with the clothes."""

from __future__ import annotations

import numpy as np

from xmdpt_cli.toy.people.outfit import Cloth
from xmdpt_cli.toy.people.paint import Plane, as_planes, unit


def _bars(u: Plane, period: float, share: float, pixel: float) -> Plane:
    """Antialiased bars, 1 on ``share`` of each period; u, period and pixel in the same unit."""
    phase = np.abs(u * np.float32(1.0 / period) % 1.0 - np.float32(0.5))
    return unit((np.float32(share / 2) - phase) * np.float32(period / pixel) + np.float32(0.5))


def _dots(u: Plane, v: Plane, period: float, pixel: float) -> Plane:
    """Coverage [0, 1] of a hexagonal grid of dots."""
    row = np.floor(v / period)
    x = (u / period + np.float32(0.5) * (row % 2)) % 1.0 - np.float32(0.5)
    y = v / period - row - np.float32(0.5)
    distance = np.sqrt(x * x + y * y)
    return np.clip((np.float32(0.29) - distance) * np.float32(period / pixel) + 0.5, 0.0, 1.0)


def motif(u: Plane, v: Plane, kind: int, size: float, pixel: float) -> Plane:
    """Coverage [0, 1] of a print around (0, 0): disc, heart, star or two bars."""
    x, y = u * np.float32(1 / size), v * np.float32(1 / size)
    if kind == 0:
        inside = 1.0 - np.hypot(x, y)
    elif kind == 1:
        inside = 0.75 - np.hypot(x, y + 0.2 - 0.75 * np.sqrt(np.abs(x) + 0.01))
    elif kind == 2:
        angle = np.arctan2(x, -y)
        inside = 0.72 + 0.3 * np.cos(5 * angle) - np.hypot(x, y)
    else:
        inside = np.minimum(1.2 - np.abs(x), 0.28 - np.abs(np.abs(y) - 0.5))
    return np.clip(inside * np.float32(size / pixel) + 0.5, 0.0, 1.0)


def folds(cloth: Cloth, u: Plane, v: Plane) -> Plane:
    """Brightness of soft folds, about 1, at (u around, v along) in body heights."""
    phase = np.float32(cloth.phase)
    # bent, as of cloth that hangs; continuous where u wraps around the trunk
    bend = np.sin(u * np.float32(37.5) + v * np.float32(11.0) + phase)
    bend *= np.float32(1.5)
    bend += v * np.float32(46.0)
    bend -= np.abs(u) * np.float32(34.0)
    wave = np.sin(bend, out=bend)
    wave *= np.float32(cloth.crease)
    wave += np.float32(1.0)
    return wave


def weave(cloth: Cloth, u: Plane, v: Plane, pixel: float, *, front: bool = False) -> Plane:
    """The unshaded colour at (u around, v along): (3, h, w), or (3, 1, 1) if it is uniform.

    u, v and ``pixel``, the size of a pixel, are in body heights.
    ``front``: u = 0 is the middle of the chest, the only place of a print.
    """
    first, second = as_planes(cloth.colour), as_planes(cloth.second)
    period = cloth.period
    if cloth.pattern == "bands":
        share = _bars(v, period * 1.3, 0.5, pixel)
    elif cloth.pattern == "pinstripes":
        share = _bars(u, period * 0.75, 0.34, pixel)
    elif cloth.pattern == "plaid":
        share = 0.5 * _bars(u, period, 0.45, pixel) + 0.5 * _bars(v, period, 0.45, pixel)
    elif cloth.pattern == "dots":
        share = _dots(u, v, period * 0.85, pixel)
    elif cloth.pattern == "diagonal":
        share = _bars((u + v) * np.float32(0.7071), period, 0.5, pixel)
    elif cloth.pattern == "gradient":
        share = np.clip(v * np.float32(2.2) - np.float32(0.1), 0.0, 1.0)
    elif cloth.pattern == "print" and front:
        share = motif(u, v - np.float32(0.125), cloth.motif, 0.038, pixel)
    else:
        return first
    return first + share * (second - first)
