"""A person: body proportions, skin, hair and clothes, all sampled from one seed.

Lengths are in body heights (the top of the head to the soles is about 1); colours are RGB
in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xmdpt_cli.toy.people.outfit import Cloth, Colour, cloth_colour, make_cloth, toned

SKINS: tuple[Colour, ...] = (
    (0.98, 0.86, 0.77),
    (0.95, 0.79, 0.67),
    (0.90, 0.71, 0.57),
    (0.82, 0.61, 0.45),
    (0.70, 0.49, 0.35),
    (0.56, 0.37, 0.26),
    (0.42, 0.27, 0.19),
)
HAIRS: tuple[tuple[Colour, float], ...] = (  # colour, share of the people
    ((0.12, 0.11, 0.12), 0.20),  # black
    ((0.21, 0.14, 0.10), 0.17),  # dark brown
    ((0.33, 0.20, 0.12), 0.15),  # brown
    ((0.46, 0.31, 0.19), 0.12),  # light brown
    ((0.53, 0.24, 0.11), 0.08),  # auburn
    ((0.70, 0.36, 0.16), 0.05),  # red
    ((0.66, 0.51, 0.31), 0.09),  # dark blond
    ((0.86, 0.72, 0.45), 0.07),  # blond
    ((0.66, 0.65, 0.64), 0.05),  # grey
    ((0.72, 0.30, 0.44), 0.02),  # dyed
)
FRINGES = ("swept", "full", "curtain", "back")


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
class Person:
    """The properties of a person that are the same in all views."""

    woman: bool
    body: Body
    skin: Colour
    hair: Colour
    hair_style: str  # short, crop, bob, long, ponytail, bun, afro
    fringe: str  # one of FRINGES
    parting: float  # -1 to 1: the side to which the hair is swept, and how far
    curl: float  # 0 straight, 1 curly
    strands: float  # radians: the places of the strands
    beard: float  # share of its colour that covers the skin, 0 without
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


def _hair(rng: np.random.Generator) -> Colour:
    return HAIRS[int(rng.choice(len(HAIRS), p=[share for _, share in HAIRS]))][0]


def _fringe(rng: np.random.Generator, woman: bool, style: str) -> str:
    """The front edge of the hair; hair that is tied back has no curtain."""
    if style in ("bun", "ponytail"):
        odds = (0.3, 0.25, 0.0, 0.45)
    else:
        odds = (0.36, 0.26, 0.32, 0.06) if woman else (0.5, 0.16, 0.08, 0.26)
    return str(rng.choice(FRINGES, p=odds))


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
    top = make_cloth(rng, hue)
    jeans = kind in ("trousers", "shorts") and bool(rng.random() < 0.3)
    bottom = top if kind == "dress" else make_cloth(rng, other, printed=False, jeans=jeans)
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
    style = str(rng.choice(styles, p=style_odds))
    wears_jacket = kind != "dress" and bool(rng.random() < 0.16)
    person = Person(
        woman=woman,
        body=_body(rng, woman),
        skin=(min(1.0, shade[0] * tone), min(1.0, shade[1] * tone), min(1.0, shade[2] * tone)),
        hair=toned(_hair(rng), float(rng.uniform(0.85, 1.15))),
        hair_style=style,
        fringe=_fringe(rng, woman, style),
        parting=float(rng.uniform(0.3, 1.0)) * (1.0 if rng.random() < 0.5 else -1.0),
        curl=float(rng.uniform(0.0, 1.0)),
        strands=float(rng.uniform(0.0, 2 * np.pi)),
        beard=float(rng.uniform(0.3, 0.9)) if not woman and rng.random() < 0.38 else 0.0,
        top=top,
        sleeve=sleeve,
        neckline=str(rng.choice(("round", "vee", "boat"), p=(0.5, 0.28, 0.22))),
        neck_depth=float(rng.uniform(0.018, 0.05 if woman else 0.03)),
        tucked=bool(rng.random() < 0.5),
        bottom=bottom,
        bottom_kind=kind,
        bottom_length=length,
        flare=float(rng.uniform(0.0, 1.0)),
        jacket=make_cloth(rng, other + 0.33, printed=False) if wears_jacket else None,
        shoes=cloth_colour(rng, float(rng.random())),
        boot=float(rng.uniform(0.3, 0.6)) if rng.random() < 0.2 else 0.0,
    )
    if not plain:
        return person
    top, bottom = (replace(cloth, pattern="plain") for cloth in (person.top, person.bottom))
    return replace(person, top=top, bottom=bottom, jacket=None)
