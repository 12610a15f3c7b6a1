"""A person: body proportions, skin, hair and clothes, all sampled from one seed.

Lengths are in body heights (the top of the head to the soles is about 1); colours are RGB
in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[float, float, float]

SKINS: tuple[Colour, ...] = (
    (0.98, 0.86, 0.77),
    (0.95, 0.79, 0.67),
    (0.90, 0.71, 0.57),
    (0.82, 0.61, 0.45),
    (0.70, 0.49, 0.35),
    (0.56, 0.37, 0.26),
    (0.42, 0.27, 0.19),
)
HAIRS: tuple[Colour, ...] = (
    (0.10, 0.09, 0.10),
    (0.24, 0.15, 0.10),
    (0.40, 0.25, 0.14),
    (0.58, 0.27, 0.12),
    (0.86, 0.69, 0.38),
    (0.66, 0.64, 0.63),
    (0.72, 0.26, 0.42),
)
NEUTRALS: tuple[Colour, ...] = (
    (0.95, 0.95, 0.94),
    (0.13, 0.13, 0.15),
    (0.46, 0.47, 0.50),
    (0.78, 0.69, 0.56),
    (0.12, 0.18, 0.36),
)
PATTERNS = ("plain", "bands", "pinstripes", "plaid", "dots", "print", "gradient", "diagonal")
PATTERN_ODDS = (0.40, 0.13, 0.09, 0.10, 0.10, 0.09, 0.05, 0.04)


@dataclass(frozen=True)
class Body:
    """Proportions; half-widths are to the joint centres, girths scale every limb's radius."""

    stature: float  # of the tallest person
    shoulders: float
    chest: float
    waist: float
    hips: float
    bust: float
    girth: float
    head: float  # scale of the head
    torso: float  # neck to the line between the hips
    arm: tuple[float, float]
    leg: tuple[float, float]


@dataclass(frozen=True)
class Cloth:
    """A texture in body coordinates; ``period`` in body heights."""

    pattern: str
    colour: Colour
    second: Colour
    period: float
    motif: int


@dataclass(frozen=True)
class Person:
    """The properties of a person that are the same in all views."""

    woman: bool
    body: Body
    skin: Colour
    hair: Colour
    hair_style: str  # short, crop, bob, long, ponytail, bun, afro
    top: Cloth
    sleeve: float  # 0 none .. 1 elbow .. 2 wrist
    neckline: str  # round, vee, boat
    neck_depth: float
    tucked: bool
    bottom: Cloth
    bottom_kind: str  # trousers, shorts, skirt, dress (then bottom is the same cloth as top)
    bottom_length: float  # 0 hip .. 1 knee .. 2 ankle
    flare: float
    jacket: Cloth | None
    shoes: Colour
    boot: float  # how far up the shin, 0 to 0.6

    @property
    def category(self) -> str:
        """The category folder of DeepFashion for this outfit."""
        if self.jacket is not None:
            return "Jackets_Coats" if self.woman else "Jackets_Vests"
        if self.bottom_kind == "dress":
            return "Dresses"
        if self.top.pattern == "plain" and self.bottom.pattern == "plain":
            return "Tees_Tanks"
        names = {"trousers": "Pants", "shorts": "Shorts", "skirt": "Skirts"}
        return names[self.bottom_kind]


def _colour(rng: np.random.Generator, hue: float) -> Colour:
    """A saturated colour of that hue for clothes, or sometimes a neutral one."""
    if rng.random() < 0.16:
        return NEUTRALS[int(rng.integers(len(NEUTRALS)))]
    saturation, value = rng.uniform(0.58, 0.95), rng.uniform(0.50, 0.95)
    return colorsys.hsv_to_rgb(hue % 1.0, float(saturation), float(value))


def _second(rng: np.random.Generator, first: Colour, hue: float) -> Colour:
    """A colour for the pattern with contrast to the ground: light on dark, or another hue."""
    light = 0.3 * first[0] + 0.6 * first[1] + 0.1 * first[2]
    if rng.random() < 0.6:
        return NEUTRALS[0] if light < 0.6 else NEUTRALS[int(rng.choice((1, 4)))]
    value = 0.95 if light < 0.5 else 0.38
    return colorsys.hsv_to_rgb((hue + float(rng.uniform(0.3, 0.7))) % 1.0, 0.75, value)


def _cloth(rng: np.random.Generator, hue: float, printed: bool = True) -> Cloth:
    pattern = str(rng.choice(PATTERNS, p=PATTERN_ODDS))
    if pattern == "print" and not printed:
        pattern = "plain"
    colour = _colour(rng, hue)
    return Cloth(
        pattern=pattern,
        colour=colour,
        second=_second(rng, colour, hue),
        period=float(rng.uniform(0.028, 0.058)),
        motif=int(rng.integers(4)),
    )


def _body(rng: np.random.Generator, woman: bool) -> Body:
    girth = float(rng.uniform(0.90, 1.22))
    shoulders = float(rng.uniform(0.088, 0.098) if woman else rng.uniform(0.103, 0.115))
    chest = (0.074 if woman else 0.084) * (0.6 + 0.4 * girth)
    waist = (0.056 if woman else 0.074) * (0.2 + 0.8 * girth)
    hips = (0.083 if woman else 0.076) * (0.4 + 0.6 * girth)
    leg = float(rng.uniform(0.96, 1.04))
    return Body(
        stature=float(rng.uniform(0.90, 0.97) if woman else rng.uniform(0.94, 1.0)),
        shoulders=shoulders,
        chest=chest,
        waist=waist,
        hips=hips,
        bust=float(rng.uniform(0.010, 0.024)) if woman else 0.0,
        girth=girth * (1.0 if woman else 1.06),
        head=float(rng.uniform(1.08, 1.18)),
        torso=0.298 * float(rng.uniform(0.96, 1.04)),
        arm=(0.158 * leg, 0.138 * leg),
        leg=(0.238 * leg, 0.228 * leg),
    )


def make_person(seed: int | Sequence[int], *, plain: bool = False) -> Person:
    """One person from a non-negative integer or a sequence of them; same seed, same person.

    ``plain``: the same person without patterns and without a jacket.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    woman = bool(rng.random() < 0.6)
    hue = float(rng.random())
    other = hue + float(rng.uniform(0.2, 0.8))
    kinds = ("dress", "trousers", "skirt", "shorts") if woman else ("trousers", "shorts")
    kind = str(rng.choice(kinds, p=(0.3, 0.3, 0.24, 0.16) if woman else (0.68, 0.32)))
    top = _cloth(rng, hue)
    bottom = top if kind == "dress" else _cloth(rng, other, printed=False)
    lengths = {"trousers": (1.75, 1.98), "shorts": (0.45, 0.85)}
    length = float(rng.uniform(*lengths.get(kind, (0.62, 1.5))))
    sleeves = ((0.0, 0.0), (0.45, 0.75), (1.0, 1.2), (1.85, 1.95))
    odds = (0.32, 0.34, 0.08, 0.26) if woman else (0.10, 0.52, 0.06, 0.32)
    sleeve = float(rng.uniform(*sleeves[int(rng.choice(4, p=odds))]))
    shade = SKINS[int(rng.integers(len(SKINS)))]
    tone = float(rng.uniform(0.96, 1.02))
    styles = (
        ("long", "bob", "ponytail", "bun", "short", "afro") if woman else ("short", "crop", "afro")
    )
    style_odds = (0.36, 0.2, 0.17, 0.13, 0.08, 0.06) if woman else (0.6, 0.28, 0.12)
    wears_jacket = kind != "dress" and bool(rng.random() < 0.16)
    person = Person(
        woman=woman,
        body=_body(rng, woman),
        skin=(min(1.0, shade[0] * tone), min(1.0, shade[1] * tone), min(1.0, shade[2] * tone)),
        hair=HAIRS[int(rng.choice(len(HAIRS), p=(0.26, 0.24, 0.16, 0.1, 0.14, 0.06, 0.04)))],
        hair_style=str(rng.choice(styles, p=style_odds)),
        top=top,
        sleeve=sleeve,
        neckline=str(rng.choice(("round", "vee", "boat"), p=(0.5, 0.28, 0.22))),
        neck_depth=float(rng.uniform(0.018, 0.05 if woman else 0.03)),
        tucked=bool(rng.random() < 0.5),
        bottom=bottom,
        bottom_kind=kind,
        bottom_length=length,
        flare=float(rng.uniform(0.0, 1.0)),
        jacket=_cloth(rng, other + 0.33, printed=False) if wears_jacket else None,
        shoes=_colour(rng, float(rng.random())),
        boot=float(rng.uniform(0.3, 0.6)) if rng.random() < 0.2 else 0.0,
    )
    if not plain:
        return person
    top, bottom = (replace(cloth, pattern="plain") for cloth in (person.top, person.bottom))
    return replace(person, top=top, bottom=bottom, jacket=None)
