"""Decode the pictures of garments on threads, ahead of the one who encodes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from xmdpt_cli.data.listing import Garment, PictureRef
from xmdpt_cli.data.pose import Keypoints, draw_pose, from_fractions
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture, fast_png_bytes, resize_square


@dataclass
class DecodedView:
    """One view on its way into a shard; ``features`` come last."""

    file: str  # below the dataset root
    picture: Picture  # (size, size, 3)
    pose: Picture  # (size, size, 3), black if no joint is there
    png: bytes
    keypoints: Keypoints  # pixels of the prepared size, NaN missing
    features: dict[str, torch.Tensor] | None = None


@dataclass
class DecodedGarment:
    """The views that could be decoded and the pairs that are left."""

    key: str
    views: dict[str, DecodedView] = field(default_factory=dict)
    pairs: list[tuple[str, str, int]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def decode_ahead(
    pool: ThreadPoolExecutor, garments: list[Garment], size: int, ahead: int
) -> Iterator[DecodedGarment]:
    """Yield ``garments`` decoded, in order, keeping about ``ahead`` pictures on the way."""
    Pending = tuple[Garment, dict[str, "Future[DecodedView | str]"]]
    pending: deque[Pending] = deque()
    coming = iter(garments)
    on_the_way = 0
    while True:
        while on_the_way < ahead or not pending:
            garment = next(coming, None)
            if garment is None:
                break
            futures = {
                view: pool.submit(_decode, picture, garment.keypoints[view], size)
                for view, picture in garment.views.items()
            }
            pending.append((garment, futures))
            on_the_way += len(futures)
        if not pending:
            return
        garment, futures = pending.popleft()
        on_the_way -= len(futures)
        yield _gather(garment, {view: f.result() for view, f in futures.items()})


def _decode(ref: PictureRef, fractions: Keypoints, size: int) -> DecodedView | str:
    """One view, or the reason why it cannot be used."""
    try:
        picture = resize_square(ref.load(), size)
    except XmdptError as err:
        # without the folder, so that the same data give the same manifest anywhere
        return err.message.replace(ref.where, ref.name.rsplit("/", 1)[-1])
    keypoints = from_fractions(fractions, size)
    pose = draw_pose(keypoints, size)
    return DecodedView(ref.name, picture, pose, fast_png_bytes(picture), keypoints)


def _gather(garment: Garment, views: dict[str, DecodedView | str]) -> DecodedGarment:
    """Drop what could not be decoded, the pairs that used it, and a garment without pairs."""
    item = DecodedGarment(garment.key)
    for name, view in views.items():
        if isinstance(view, str):
            item.skipped.append((garment.views[name].name, view))
        else:
            item.views[name] = view
    for pair in garment.pairs:
        if pair.source in item.views and pair.target in item.views:
            item.pairs.append((pair.source, pair.target, pair.position))
    used = {view for source, target, _ in item.pairs for view in (source, target)}
    for name in [name for name in item.views if name not in used]:
        item.skipped.append((item.views[name].file, "no usable pair is left for this picture"))
        del item.views[name]
    return item
