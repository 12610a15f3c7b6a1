"""In which frame the keypoints of a file are: decided from the values and the images' sizes.

Annotation files do not say whether they hold pixels of the 256x176 frame, of the padded 256x256
one, of the images themselves or fractions. Each frame makes fractions of an image's sides of the
same values, and only in the right one are there people in the images: joints inside, the body
where photographers put it, as large as usual. That is measured over all rows (medians, so that a
few odd rows do not count); one row for each frame below, another dataset's frame is one more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.pose.pose_image import FRAME_HEIGHT, FRAME_WIDTH, PADDING, Keypoints

Points = NDArray[np.float64]  # (N, 18, 2), x and y, NaN missing
Values = Any  # a number, or an array of them, one a row
Sizes = NDArray[np.float64]  # (N, 2), width and height of each row's image, NaN unknown


@dataclass(frozen=True)
class AnnotationFrame:
    """Pixels of a ``width`` x ``height`` image that begins at column ``left`` of the frame."""

    name: str  # as --frame calls it
    width: float = 0.0  # 0: the sides are those of each image
    height: float = 0.0
    left: float = 0.0
    label: str = ""  # as people are told; empty: the name

    @property
    def of_images(self) -> bool:
        """Whether an image's size must be known."""
        return not self.width

    def fractions(self, raw: Points, sizes: Sizes | None = None) -> Points:
        """Raw points (..., 18, 2) -> fractions of width and height; ``sizes`` (..., 2)."""
        if not self.of_images:
            return (raw - (self.left, 0.0)) / (self.width, self.height)
        assert sizes is not None, "the frame of the images needs their sizes"
        return raw / sizes[..., None, :]

    def __str__(self) -> str:
        return self.label or self.name


PUBLISHED = AnnotationFrame("256x176", FRAME_WIDTH, FRAME_HEIGHT)
PADDED = AnnotationFrame(
    "256x256-padded", FRAME_WIDTH, FRAME_HEIGHT, PADDING, label="256x256 padded"
)
PIXELS = AnnotationFrame("pixels", label="pixels of the images")
FRACTIONS = AnnotationFrame("fractions", 1.0, 1.0, label="fractions of the sides")
#: whoever divides the padded frame by 256
FRACTIONS_PADDED = AnnotationFrame(
    "fractions-padded", FRAME_WIDTH / 256, 1.0, PADDING / 256,
    label="fractions of the padded 256x256 image",
)  # fmt: skip
#: sizes that images are often brought to; where their own is known, it is likelier
GUESSED = (
    AnnotationFrame("256x256", 256.0, 256.0, label="256x256 squashed"),
    AnnotationFrame("512x352", 352.0, 512.0),
    AnnotationFrame("750x1101", 750.0, 1101.0, label="750x1101 original"),
)
#: DeepFashion's: the published two, then what people make of them
DEEPFASHION = (PUBLISHED, PADDED, PIXELS, *GUESSED, FRACTIONS, FRACTIONS_PADDED)
#: of one's own images, which may be of any shape with people anywhere in them
OWN = (PUBLISHED, PIXELS, FRACTIONS)
AUTO = "auto"
CHOICES = (AUTO, *(frame.name for frame in (PUBLISHED, PADDED, PIXELS, FRACTIONS)))
FRAME_HINT = "--frame " + "|".join((*CHOICES[1:], "WIDTHxHEIGHT"))


def parse_frame(text: str) -> AnnotationFrame | None:
    """``--frame``: a frame's name or WIDTHxHEIGHT; None for ``auto``. ConfigError for others."""
    text = text.strip().lower()
    if text == AUTO:
        return None
    named = next((frame for frame in DEEPFASHION if frame.name == text), None)
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if named is None and match is None:
        raise ConfigError(
            f"--frame is {', '.join(CHOICES)} or WIDTHxHEIGHT, not {text!r}",
            "for instance --frame 256x256-padded, or 352x512 for pixels of images of that size",
        )
    if named is None and match is not None:
        return AnnotationFrame(text, float(match[1]), float(match[2]))
    return named


@dataclass(frozen=True)
class Placement:
    """Where people stand in a kind of images: DeepFashion's photographs, or one's own."""

    frames: tuple[AnnotationFrame, ...]
    x: tuple[float, float]  # the middle of people, and how far off it costs as much as ...
    y: tuple[float, float]
    usual: float  # the extent from which on a person is as large as usual
    smallest: float  # plausible is no smaller person, nor one whose middle is ...
    off: tuple[float, float]  # ... farther from the middle in x and y
    published: tuple[AnnotationFrame, ...] = ()  # of frames that fit equally well the one to take
    narrow: float = 0.0  # how far off the middle in x may be of many rows; 0: not known


# The middle of people in 128 annotated DeepFashion images: x 0.51 (0.46 to 0.58 in eight tenths),
# y 0.48 (0.44 to 0.53); their extent is 0.78 (0.66 to 0.85). The two published frames are 0.23
# of the width apart.
PHOTOGRAPHS = Placement(
    DEEPFASHION, (0.51, 0.10), (0.50, 0.15), 0.40, 0.25, (0.16, 0.25), (PUBLISHED, PADDED), 0.04
)
_OWN = ((0.50, 0.25), (0.50, 0.25), 0.30, 0.10, (0.48, 0.48))
ANYWHERE = Placement(OWN, *_OWN)
#: of one's own images of nearly the published shape: whoever pads these has people in the middle
PORTRAITS = Placement((PUBLISHED, PADDED, PIXELS, FRACTIONS), (0.50, 0.20), *_OWN[1:])
#: pose files of one's own images: as published (padded), or one of these
OWN_POSES = Placement((PADDED, PUBLISHED, PIXELS, FRACTIONS), *_OWN, (PADDED,))
#: poses that are given without images
POSES = Placement(
    (PUBLISHED, PADDED, FRACTIONS), (0.50, 0.10), (0.50, 0.25), 0.30, 0.0, (0.48, 0.48)
)
_MARGIN = 0.05  # of a side: estimators put joints so far outside of an image
INSIDE = 0.9  # share of the joints that must be
_COST_OUTSIDE = 8.0  # of all joints
_APART = 1.25  # how much more than the best a frame of one row must cost to be out of question
_ENOUGH = 16  # rows from which on a quarter of that is enough
_FEW = 0.1  # how much farther from the middle one person may be than most people are
_ROUNDING = 0.015  # of a side: 2.6 pixels of 176
_SAME = 0.04  # of a side: frames whose joints all differ by less are one
_MIXED, _FEW_ROWS = 0.1, 3  # share of rows, and how many, that make a file one of two frames
_SHAPE = 0.1  # how far the sides of nearly the published shape are off it
_SPREAD = 0.3  # five times that of single people around the middle, 0.06
_FEW_JOINTS = 4  # rows of fewer say nothing about a person


def of_own_images(sizes: Sizes | None) -> Placement:
    """Where people stand in one's own images of these sizes."""
    if sizes is None:
        return ANYWHERE
    shape = float(np.nanmedian(sizes[:, 0] / sizes[:, 1])) / (FRAME_WIDTH / FRAME_HEIGHT)
    return PORTRAITS if abs(shape - 1) <= _SHAPE else ANYWHERE


@dataclass(frozen=True)
class Fit:
    """How people lie in the images if the values are of ``frame``: medians over the rows."""

    frame: AnnotationFrame
    fractions: Points
    inside: float  # share of the joints
    x: float  # middle of a person
    y: float
    extent: float  # the larger side of a person's box
    cost: float
    plausible: bool
    costs: NDArray[np.float64]  # (N,) of each row, NaN where it has too few joints

    def __str__(self) -> str:
        return (
            f"{self.frame}: {self.inside:.0%} of the joints inside the image, people's centre at "
            f"({self.x:.2f}, {self.y:.2f}), their size {self.extent:.2f}"
        )


def measure(frame: AnnotationFrame, fractions: Points, placement: Placement) -> Fit | None:
    """Score (N, 18, 2) fractions; None if no row has a joint (its images' sizes are unknown)."""
    seen = _seen(fractions)  # (N, 18)
    if not seen.any():
        return None
    within = _within(fractions, _MARGIN)
    inside = float(within[seen].mean())
    costs = np.full(len(fractions), np.nan)
    telling = seen.sum(axis=1) >= _FEW_JOINTS
    if not telling.any():  # a joint or two: inside or not is all there is to say
        x, y = (float(v) for v in np.median(fractions[seen], axis=0))
        return Fit(frame, fractions, inside, x, y, 0.0, 1 - inside, inside >= INSIDE, costs)
    people = fractions[telling]
    low, high = np.nanmin(people, axis=1), np.nanmax(people, axis=1)
    x, y = np.nanmean(people[:, :, 0], axis=1), (low + high)[:, 1] / 2
    extent = (high - low).max(axis=1)
    share = (within & seen)[telling].sum(axis=1) / seen[telling].sum(axis=1)
    costs[telling] = _cost(share, x, y, extent, placement)
    x, y, extent = (float(np.median(values)) for values in (x, y, extent))
    plausible = (
        inside >= INSIDE
        and extent >= placement.smallest
        and abs(x - placement.x[0]) <= placement.off[0] + _FEW / np.sqrt(len(people))
        and abs(y - placement.y[0]) <= placement.off[1]
    )
    cost = float(_cost(inside, x, y, extent, placement))
    return Fit(frame, fractions, inside, x, y, extent, cost, plausible, costs)


def _seen(points: Points) -> NDArray[np.bool_]:
    """(..., 18, 2) -> (..., 18), whether each joint is there."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def _within(fractions: Points, margin: float) -> NDArray[np.bool_]:
    """(..., 18, 2) -> (..., 18), whether each joint is in the image; False for missing ones."""
    return np.asarray(((fractions >= -margin) & (fractions <= 1 + margin)).all(axis=-1))


def _cost(inside: Values, x: Values, y: Values, extent: Values, placement: Placement) -> Values:
    """How far people are from where they are usually, of one row or of all rows' medians."""
    return (
        _COST_OUTSIDE * (1 - inside)
        + abs(x - placement.x[0]) / placement.x[1]
        + abs(y - placement.y[0]) / placement.y[1]
        + np.maximum(0.0, placement.usual - extent) / placement.x[1]
    )


def fits(raw: Points, sizes: Sizes | None, placement: Placement) -> list[Fit]:
    """Every frame that can be tried, the best first; none for rows without a joint."""
    found = []
    for frame in placement.frames:
        if frame.of_images and (sizes is None or not np.isfinite(sizes).any()):
            continue
        fit = measure(frame, frame.fractions(raw, sizes), placement)
        if fit is not None:
            found.append(fit)
    return sorted(found, key=lambda fit: (not fit.plausible, fit.cost))


def rivals(found: list[Fit], apart: float = _APART) -> list[Fit]:
    """The plausible fits that are nearly as good as the best and mean other places.

    ``apart``: how much more they may cost at most, in a file of one row."""
    best, rows = found[0], len(found[0].fractions)
    margin = apart / np.sqrt(min(rows, _ENOUGH))
    return [
        fit
        for fit in found[1:]
        if fit.plausible and fit.cost < best.cost + margin and differ(best, fit)
    ]


def of_another(found: list[Fit], placement: Placement) -> tuple[Fit, NDArray[np.bool_]] | None:
    """The frame of which many rows are rather than of the best, and which; None if of none."""
    best = found[0]
    others = [(fit, best.costs > fit.costs + _APART) for fit in found[1:]]
    many = [(f, rows) for f, rows in others if rows.sum() >= _FEW_ROWS and rows.mean() > _MIXED]
    return max(many, key=lambda o: (o[0].frame in placement.published, o[1].sum()), default=None)


def differ(one: Fit, other: Fit) -> bool:
    """Whether two fits mean other places of a joint."""
    return bool(np.nanmax(np.abs(one.fractions - other.fractions)) >= _SAME)


def aside(fit: Fit, placement: Placement) -> bool:
    """Whether people of many rows are farther aside than chance brings them."""
    rows = len(fit.fractions)
    allowed = max(placement.narrow, _SPREAD / np.sqrt(rows))
    return bool(placement.narrow and rows >= _ENOUGH and abs(fit.x - placement.x[0]) > allowed)


def beyond(fit: Fit) -> tuple[int, float]:
    """(number of joints, share of them outside of the image by more than rounding)."""
    within = _within(fit.fractions, _ROUNDING)[_seen(fit.fractions)]
    return len(within), 1 - float(within.mean())


def mostly_outside(fractions: Keypoints) -> bool:
    """Whether more than half of the joints of one person, (18, 2), lie outside of the image."""
    seen, within = _seen(fractions), _within(fractions, _MARGIN)
    return bool(seen.any() and within[seen].mean() < 0.5)
