"""Clothes: their colours, sampled to be as common as in photographs, and their patterns."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # RGB in [0, 1]

PALETTE: tuple[tuple[Colour, float], ...] = (  # colour, share of the clothes
    ((0.95, 0.95, 0.94), 0.13),  # white
    ((0.93, 0.89, 0.80), 0.04),  # cream
    ((0.14, 0.14, 0.16), 0.12),  # black
    ((0.28, 0.29, 0.31), 0.06),  # charcoal
    ((0.56, 0.57, 0.60), 0.08),  # grey
    ((0.29, 0.40, 0.56), 0.08),  # denim
    ((0.53, 0.64, 0.76), 0.05),  # washed denim
    ((0.13, 0.19, 0.34), 0.07),  # navy
    ((0.78, 0.69, 0.56), 0.06),  # beige
    ((0.43, 0.30, 0.21), 0.04),  # brown
    ((0.42, 0.44, 0.30), 0.04),  # olive
)
MUTED = 0.12  # share of clothes in a muted colour of any hue; the remainder is saturated
WHITE, BLACK, NAVY, DENIM, WASHED = (PALETTE[i][0] for i in (0, 2, 7, 5, 6))
PATTERNS = ("plain", "bands", "pinstripes", "plaid", "dots", "print", "gradient", "diagonal")
PATTERN_ODDS = (0.46, 0.13, 0.08, 0.09, 0.08, 0.08, 0.05, 0.03)


@dataclass(frozen=True)
class Cloth:
    """A texture in body coordinates; ``period`` in body heights.

    ``crease``: share by which folds change the brightness; ``phase`` (radians): their places.
    """

    pattern: str
    colour: Colour
    second: Colour
    period: float
    motif: int
    crease: float = 0.05
    phase: float = 0.0


def cloth_colour(rng: np.random.Generator, hue: float) -> Colour:
    """A colour for clothes: mostly of ``PALETTE``, else a muted or saturated one of ``hue``."""
    place, tone = float(rng.random()), float(rng.uniform(0.93, 1.03))
    for colour, share in PALETTE:
        place -= share
        if place < 0:
            return toned(colour, tone)
    low, high = ((0.16, 0.45), (0.45, 0.85)) if place < MUTED else ((0.55, 0.85), (0.50, 0.90))
    return colorsys.hsv_to_rgb(hue % 1.0, float(rng.uniform(*low)), float(rng.uniform(*high)))


def toned(colour: Colour, tone: float) -> Colour:
    """The colour times ``tone``, at most 0.97."""
    r, g, b = (min(0.97, channel * tone) for channel in colour)
    return (r, g, b)


def _second(rng: np.random.Generator, first: Colour, hue: float) -> Colour:
    """A colour for the pattern with contrast to the ground: light on dark, or another hue."""
    light = 0.3 * first[0] + 0.6 * first[1] + 0.1 * first[2]
    if rng.random() < 0.65:
        return WHITE if light < 0.6 else (BLACK, NAVY, DENIM)[int(rng.integers(3))]
    value = 0.92 if light < 0.5 else 0.40
    saturation = float(rng.uniform(0.35, 0.75))
    return colorsys.hsv_to_rgb((hue + float(rng.uniform(0.3, 0.7))) % 1.0, saturation, value)


def make_cloth(
    rng: np.random.Generator, hue: float, printed: bool = True, jeans: bool = False
) -> Cloth:
    """Sample a cloth whose colour, if not a neutral one, has this hue.

    ``printed``: it may have a print on the chest; ``jeans``: plain denim.
    """
    pattern = str(rng.choice(PATTERNS, p=PATTERN_ODDS))
    if pattern == "print" and not printed:
        pattern = "plain"
    colour = cloth_colour(rng, hue)
    if jeans:
        pattern, colour = "plain", (DENIM, WASHED, NAVY)[int(rng.integers(3))]
    return Cloth(
        pattern=pattern,
        colour=colour,
        second=_second(rng, colour, hue),
        period=float(rng.uniform(0.028, 0.058)),
        motif=int(rng.integers(4)),
        crease=float(rng.uniform(0.025, 0.07)),
        phase=float(rng.uniform(0.0, 2 * np.pi)),
    )
