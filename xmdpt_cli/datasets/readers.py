"""The interface of raw dataset readers, one class for each layout.

A new dataset is one file with such a class; ``find.register`` adds it to the layouts that
``find_dataset`` and ``xmdpt prepare --layout`` support.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.pose.frames import CoordinateFrame

# The confidence that ``detect`` returns.
SURE = 1.0  # files that only this dataset has
POSSIBLE = 0.1  # any folder of images may be this


@dataclass(frozen=True)
class ReadOptions:
    """How a dataset is to be read."""

    sizes: tuple[int, ...] = (256,)  # the sides in pixels that will be prepared
    seed: int = 0  # of pairs and test sets that a reader makes itself
    openpose: bool = False  # read no keypoints: OpenPose finds them in every image
    frame: CoordinateFrame | None = None  # of keypoint files; None: decided from their values


class DatasetReader(Protocol):
    """Reads one layout. Nothing is decoded: images are references that workers open later."""

    @property
    def name(self) -> str:
        """Its value of ``--layout``."""
        ...

    @property
    def wanted(self) -> str:
        """The files that it needs, as a hint where a folder is not recognised."""
        ...

    def detect(self, root: Path) -> float | None:
        """Confidence that ``root`` is such a dataset, 0 to 1; None: it is not. Must be fast."""
        ...

    def read(self, root: Path, options: ReadOptions) -> Listing:
        """The items of ``root``. What cannot be used is a ``Problem`` of the listing; XmdptError if
        there is nothing to read at all."""
        ...
