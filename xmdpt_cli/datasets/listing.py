"""The items, views and pairs of a raw dataset, before any image is decoded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import load_image
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.pose.padding import PADDED_BOX, PADDED_SIZE
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS


class ImageRef(Protocol):
    """One image of a dataset, not yet decoded; it can be pickled."""

    @property
    def name(self) -> str:
        """Its path below the dataset root, with forward slashes, as messages show it."""
        ...

    @property
    def identity(self) -> str:
        """``name`` and how it is read: hashed into the dataset's digest."""
        ...

    @property
    def where(self) -> str:
        """Its place on this machine, for error messages."""
        ...

    def load(self) -> Image.Image:
        """The upright RGB photograph, padding cut off; XmdptError if it cannot be used."""
        ...

    def stored_size(self) -> int:
        """How many bytes are stored; XmdptError if that is not known."""
        ...

    def stored_bytes(self) -> bytes:
        """The encoded image as it is stored; XmdptError if it cannot be read."""
        ...


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image file. ``padded``: the grey columns on both sides are cut off."""

    name: str
    path: Path
    padded: bool = False

    @property
    def identity(self) -> str:
        return f"{self.name} (padded)" if self.padded else self.name

    @property
    def where(self) -> str:
        return str(self.path)

    def load(self) -> Image.Image:
        image = load_image(self.path)
        return cut_padding(image, self.where) if self.padded else image

    def stored_size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError as err:
            raise XmdptError(f"cannot read {self.path}: {err}") from None

    def stored_bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as err:
            raise XmdptError(f"cannot read {self.path}: {err}") from None


def cut_padding(image: Image.Image, where: str) -> Image.Image:
    """A padded 256x256 image -> its photograph; XmdptError, naming ``where``, for others."""
    if image.size != PADDED_SIZE:
        raise XmdptError(
            f"not a padded 256x256 image like the others: {where} is "
            f"{image.size[0]}x{image.size[1]}"
        )
    return image.crop(PADDED_BOX)


@dataclass(frozen=True)
class Pair:
    """Source view -> target view of one item."""

    source: str
    target: str
    position: int  # 0-based, in the published list of its split


@dataclass
class Item:
    """One item in one colour, worn by one person: all its views that some pair uses."""

    key: str  # WOMEN-Dresses-id_00000002-02
    split: str  # train or test
    views: dict[str, ImageRef] = field(default_factory=dict)  # 1_front -> its image
    # fractions of the image's width and height, float64 (18, 2), NaN missing; a view that is
    # missing here gets its keypoints from OpenPose
    keypoints: dict[str, Keypoints] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)


@dataclass
class Listing:
    """A raw dataset: its usable items (train first, by key) and what cannot be used."""

    root: Path
    items: list[Item]
    problems: list[Problem] = field(default_factory=list)
    # messages on what was found: one sentence on all of it, then the details
    notes: list[str] = field(default_factory=list)
    layout: str = "deepfashion"  # or "people": one's own images, a folder for each person
    # arguments of find_dataset that find the same again: layout, pose, seed, frame
    options: dict[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> list[Item]:
        """The items of one split, by key."""
        return [item for item in self.items if item.split == name]

    def pairs(self, split: str) -> list[tuple[Item, Pair]]:
        """The pairs of one split in published order."""
        found = [(item, pair) for item in self.split(split) for pair in item.pairs]
        return sorted(found, key=lambda item: item[1].position)

    def images(self) -> int:
        """How many images the items hold together."""
        return sum(len(item.views) for item in self.items)

    def without_keypoints(self) -> int:
        """Number of images without keypoints, left to OpenPose."""
        return sum(len(g.views.keys() - g.keypoints.keys()) for g in self.items)

    def first_without_keypoints(self) -> str:
        """The name of the first image without keypoints, "" if all have them."""
        names = (
            item.views[view].name
            for item in self.items
            for view in item.views.keys() - item.keypoints.keys()
        )
        return min(names, default="")

    def digest(self) -> str:
        """sha256 over keys, views, image paths below the root, keypoints and pairs."""
        content = [
            [
                item.key,
                item.split,
                {view: image.identity for view, image in item.views.items()},
                {view: kp.astype("<f8").tobytes().hex() for view, kp in item.keypoints.items()},
                [[pair.source, pair.target, pair.position] for pair in item.pairs],
            ]
            for item in self.items
        ]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> list[str]:
        """A summary of the dataset in lines of text."""
        lines = [*self.notes]
        for split in SPLITS:
            items = self.split(split)
            if items:
                views = sum(len(item.views) for item in items)
                pairs = sum(len(item.pairs) for item in items)
                counts = (
                    counted(pairs, "pair"),
                    counted(len(items), "item"),
                    counted(views, "image"),
                )
                lines.append(f"{split}: {', '.join(counts)}")
        for kept, label in ((False, "not usable"), (True, "odd, but used")):
            of_kind = [problem for problem in self.problems if problem.kept is kept]
            reasons = Counter(problem.reason.split(":")[0] for problem in of_kind)
            for reason, count in reasons.most_common():
                example = next(p.file for p in of_kind if p.reason.split(":")[0] == reason)
                lines.append(f"{label}: {count} x {reason} (first: {example})")
        return lines
