"""The coordinate frames of keypoint files, and the usual place of people in kinds of images.

Annotation files do not state whether their values are pixels of the 256x176 frame, of the padded
256x256 frame, of the images, or fractions. ``frame_decision`` decides it. To support the frame of
another dataset, add a ``CoordinateFrame`` below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.pose.keypoints import FRAME_HEIGHT, FRAME_WIDTH, PADDING

Points = NDArray[np.float64]  # (N, 18, 2), x and y, NaN missing
Sizes = NDArray[np.float64]  # (N, 2), width and height of each row's image, NaN unknown


@dataclass(frozen=True)
class CoordinateFrame:
    """Pixels of a frame in which a ``width`` x ``height`` image starts at column ``left``."""

    name: str  # for --frame
    width: float = 0.0  # 0: the size of each image
    height: float = 0.0
    left: float = 0.0
    label: str = ""  # in messages; empty: the name

    @property
    def of_images(self) -> bool:
        """Whether the sizes of the images must be known."""
        return not self.width

    def fractions(self, raw: Points, sizes: Sizes | None = None) -> Points:
        """Raw points (..., 18, 2) -> fractions of width and height; ``sizes`` (..., 2)."""
        if not self.of_images:
            return (raw - (self.left, 0.0)) / (self.width, self.height)
        assert sizes is not None, "the frame of the images needs their sizes"
        return raw / sizes[..., None, :]

    def __str__(self) -> str:
        return self.label or self.name


PUBLISHED = CoordinateFrame("256x176", FRAME_WIDTH, FRAME_HEIGHT)
PADDED = CoordinateFrame(
    "256x256-padded", FRAME_WIDTH, FRAME_HEIGHT, PADDING, label="256x256 padded"
)
PIXELS = CoordinateFrame("pixels", label="pixels of the images")
FRACTIONS = CoordinateFrame("fractions", 1.0, 1.0, label="fractions of the sides")
#: the padded frame divided by 256
FRACTIONS_PADDED = CoordinateFrame(
    "fractions-padded", FRAME_WIDTH / 256, 1.0, PADDING / 256,
    label="fractions of the padded 256x256 image",
)  # fmt: skip
#: usual sizes of images; less likely than the images' own size, if that is known
GUESSED = (
    CoordinateFrame("256x256", 256.0, 256.0, label="256x256 squashed"),
    CoordinateFrame("512x352", 352.0, 512.0),
    CoordinateFrame("750x1101", 750.0, 1101.0, label="750x1101 original"),
)
#: of DeepFashion: the two published frames, then derived ones
DEEPFASHION = (PUBLISHED, PADDED, PIXELS, *GUESSED, FRACTIONS, FRACTIONS_PADDED)
#: of own images, which have any shape and people anywhere
OWN = (PUBLISHED, PIXELS, FRACTIONS)
AUTO = "auto"
CHOICES = (AUTO, *(frame.name for frame in (PUBLISHED, PADDED, PIXELS, FRACTIONS)))
FRAME_HINT = "--frame " + "|".join((*CHOICES[1:], "WIDTHxHEIGHT"))


def parse_frame(text: str) -> CoordinateFrame | None:
    """``--frame``: a frame's name or WIDTHxHEIGHT; None for ``auto``. ConfigError otherwise."""
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
        return CoordinateFrame(text, float(match[1]), float(match[2]))
    return named


@dataclass(frozen=True)
class Placement:
    """The usual place of people in a kind of images: DeepFashion's photographs, or own images."""

    frames: tuple[CoordinateFrame, ...]  # that are tried
    x: tuple[float, float]  # the usual middle of people, and the distance from it that costs 1
    y: tuple[float, float]
    usual: float  # extent from which on a person has the usual size
    smallest: float  # smallest plausible extent
    off: tuple[float, float]  # largest plausible distance from the middle in x and y
    published: tuple[CoordinateFrame, ...] = ()  # chosen among frames that fit equally well
    narrow: float = 0.0  # largest distance of the middle in x over many rows; 0: unknown


# The middle of people in 128 annotated DeepFashion images: x 0.51 (0.46 to 0.58 in eight tenths),
# y 0.48 (0.44 to 0.53); their extent is 0.78 (0.66 to 0.85). The two published frames are 0.23
# of the width apart.
PHOTOGRAPHS = Placement(
    DEEPFASHION, (0.51, 0.10), (0.50, 0.15), 0.40, 0.25, (0.16, 0.25), (PUBLISHED, PADDED), 0.04
)
_OWN = ((0.50, 0.25), (0.50, 0.25), 0.30, 0.10, (0.48, 0.48))
ANYWHERE = Placement(OWN, *_OWN)
#: own images of nearly the published shape: in padded ones people are in the middle
PORTRAITS = Placement((PUBLISHED, PADDED, PIXELS, FRACTIONS), (0.50, 0.20), *_OWN[1:])
#: pose files of own images: padded, as published, or one of the others
OWN_POSES = Placement((PADDED, PUBLISHED, PIXELS, FRACTIONS), *_OWN, (PADDED,))
#: poses without images
POSES = Placement(
    (PUBLISHED, PADDED, FRACTIONS), (0.50, 0.10), (0.50, 0.25), 0.30, 0.0, (0.48, 0.48)
)
_SHAPE = 0.1  # relative difference of nearly the published shape


def of_own_images(sizes: Sizes | None) -> Placement:
    """The placement for own images of these sizes."""
    if sizes is None:
        return ANYWHERE
    shape = float(np.nanmedian(sizes[:, 0] / sizes[:, 1])) / (FRAME_WIDTH / FRAME_HEIGHT)
    return PORTRAITS if abs(shape - 1) <= _SHAPE else ANYWHERE
