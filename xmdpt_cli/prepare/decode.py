"""The images of an item decoded, resized and compressed: what decoder processes do.

What runs there imports no torch: a decoder process starts in under a second and stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, fast_png_bytes, resize_square
from xmdpt_cli.pose.drawing import draw_pose
from xmdpt_cli.pose.keypoints import Keypoints, from_fractions

if TYPE_CHECKING:  # decoder processes do without it
    import torch

T = TypeVar("T")

DETECT_HEIGHT = 512  # rows of the image that OpenPose is shown: it scales to 184 itself


def _nothing() -> None:
    """There is nothing to give back."""


@dataclass
class SizedView:
    """One view at one prepared size."""

    image: ImageArray  # (size, size, 3)
    png: bytes = b""
    pose: ImageArray | None = None  # (size, size, 3), black without joints; None: not rendered
    features: dict[str, torch.Tensor] | None = None  # come last


@dataclass
class DecodedView:
    """One view on its way into the shards."""

    file: str  # below the dataset root
    sized: dict[int, SizedView]
    fractions: Keypoints | None  # of width and height, NaN missing; None: OpenPose has to look
    whole: ImageArray | None = None  # (H, W, 3), H at most DETECT_HEIGHT: what OpenPose looks at


@dataclass
class DecodedItem:
    """The views that could be decoded, and what could not."""

    item: Item
    views: dict[str, DecodedView] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    pairs: list[tuple[str, str, int]] = field(default_factory=list)  # that are left, see ``settle``
    # called when the images are not needed any more: their memory is reused
    release: Callable[[], None] = field(default=_nothing, compare=False)

    @property
    def encoded(self) -> bool:
        """Whether all views have their features."""
        return all(s.features is not None for v in self.views.values() for s in v.sized.values())

    def drop(self, view: str, reason: str) -> None:
        """Leave one view out."""
        self.skipped.append((self.item.views[view].name, reason))
        self.views.pop(view, None)

    def settle(self) -> None:
        """Find the pairs that are left, and drop the views that none of them uses."""
        self.pairs = [
            (pair.source, pair.target, pair.position)
            for pair in self.item.pairs
            if pair.source in self.views and pair.target in self.views
        ]
        used = {view for source, target, _ in self.pairs for view in (source, target)}
        for name in [name for name in self.views if name not in used]:
            self.drop(name, "no usable pair is left for this image")


def decode_item(item: Item, sizes: Sequence[int]) -> DecodedItem:
    """Decode every view once and squash it to every size; what fails is named, not raised.

    One kind of work after the other: a loop that does all of it view by view takes half as long
    again for what is not decoding, its code and data never being in the processor's cache.
    """
    decoded = DecodedItem(item)
    for name, ref in item.views.items():
        try:
            image = ref.load()
            squashed = {size: resize_square(image, size) for size in sizes}
        except XmdptError as err:
            # without the folder, so that the same data give the same manifest anywhere
            decoded.drop(name, err.message.replace(ref.where, ref.name.rsplit("/", 1)[-1]))
            continue
        except MemoryError:
            decoded.drop(name, "not enough memory to decode it")
            continue
        sized = {size: SizedView(image) for size, image in squashed.items()}
        view = decoded.views[name] = DecodedView(ref.name, sized, item.keypoints.get(name))
        if view.fractions is None:
            view.whole = _reduced(image, DETECT_HEIGHT)
    for view in decoded.views.values():
        for one in view.sized.values():
            one.png = fast_png_bytes(one.image)
    for view in decoded.views.values():
        if view.fractions is not None:
            draw_poses(view)
    return decoded


def _reduced(image: Image.Image, height: int) -> ImageArray:
    """The image in its own shape, at most ``height`` rows."""
    if image.height > height:
        width = max(1, round(image.width * height / image.height))
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8))


def draw_poses(view: DecodedView) -> None:
    """Draw a view's pose image at each of its sizes; its keypoints are known."""
    assert view.fractions is not None
    for size, sized in view.sized.items():
        sized.pose = draw_pose(from_fractions(view.fractions, size), size)
