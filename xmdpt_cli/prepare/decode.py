"""Decodes, resizes and compresses the images of an item, in decoder processes.

This file imports no torch, so that a decoder process starts in under a second and stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, fast_png_bytes, resize_square
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions

if TYPE_CHECKING:  # decoder processes do without it
    import torch

DETECT_HEIGHT = 512  # rows of the image that OpenPose gets: it scales to 184 itself


@dataclass
class SizedView:
    """One view at one prepared size."""

    image: ImageArray  # (size, size, 3)
    png: bytes = b""
    pose: ImageArray | None = None  # (size, size, 3), black without joints; None: not rendered
    features: dict[str, torch.Tensor] | None = None  # None: not encoded yet


@dataclass
class DecodedView:
    """One view that is prepared."""

    file: str  # below the dataset root
    sized: dict[int, SizedView]  # by side in pixels
    fractions: Keypoints | None  # of width and height, NaN missing; None: not detected yet
    image: ImageArray | None = None  # (H, W, 3), H at most DETECT_HEIGHT, for OpenPose


@dataclass
class DecodedItem:
    """The views that could be decoded, and what could not."""

    item: Item
    views: dict[str, DecodedView] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    pairs: list[tuple[str, str, int]] = field(default_factory=list)  # of two usable views
    # called when the images are not needed any more, so that their memory is reused
    release: Callable[[], object] = field(default=lambda: None, compare=False)

    @property
    def encoded(self) -> bool:
        """Whether all views have their features."""
        return all(s.features is not None for v in self.views.values() for s in v.sized.values())

    def drop(self, view: str, reason: str) -> None:
        """Leave one view out."""
        self.skipped.append((self.item.views[view].name, reason))
        self.views.pop(view, None)

    def find_pairs(self) -> None:
        """Set ``pairs`` to those whose views are both left, and drop the views of no such pair."""
        self.pairs = [
            (pair.source, pair.target, pair.position)
            for pair in self.item.pairs
            if pair.source in self.views and pair.target in self.views
        ]
        used = {view for source, target, _ in self.pairs for view in (source, target)}
        for name in [name for name in self.views if name not in used]:
            self.drop(name, "no usable pair is left for this image")


def decode_item(item: Item, sizes: Sequence[int]) -> DecodedItem:
    """Decode every view once and squash it to every size. Failures are listed, not raised.

    Each kind of work is done for all views before the next kind: doing all of it view by view
    takes 1.5 times as long for everything but decoding, because caches are cold.
    """
    decoded = DecodedItem(item)
    for name, ref in item.views.items():
        try:
            image = ref.load()
            squashed = {size: resize_square(image, size) for size in sizes}
        except XmdptError as err:
            # without the folder, so that the manifest does not depend on where the data lies
            decoded.drop(name, err.message.replace(ref.where, ref.name.rsplit("/", 1)[-1]))
            continue
        except MemoryError:
            decoded.drop(name, "not enough memory to decode it")
            continue
        sized = {size: SizedView(image) for size, image in squashed.items()}
        view = decoded.views[name] = DecodedView(ref.name, sized, item.keypoints.get(name))
        if view.fractions is None:
            if image.height > DETECT_HEIGHT:
                width = max(1, round(image.width * DETECT_HEIGHT / image.height))
                image = image.resize((width, DETECT_HEIGHT), Image.Resampling.BOX)
            view.image = np.ascontiguousarray(np.asarray(image, dtype=np.uint8))
    for view in decoded.views.values():
        for resized in view.sized.values():
            resized.png = fast_png_bytes(resized.image)
    for view in decoded.views.values():
        if view.fractions is not None:
            render_poses(view)
    return decoded


def render_poses(view: DecodedView) -> None:
    """Render a view's pose image at each of its sizes; its keypoints must be known."""
    assert view.fractions is not None
    for size, sized in view.sized.items():
        sized.pose = draw_pose(from_fractions(view.fractions, size), size)
