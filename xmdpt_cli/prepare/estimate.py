"""Estimate a preparation before it starts: images, pairs, bytes, and measured time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tarfile import BLOCKSIZE

import numpy as np

from xmdpt_cli.datasets.listing import Item
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.prepare.decode import DecodedView, decode_item, render_poses
from xmdpt_cli.prepare.features import FeatureEncoder, PoseDetector, encode_views
from xmdpt_cli.prepare.plan import ShardPlan
from xmdpt_cli.utils.splits import SPLITS

_ITEMS = 8  # decoded to measure
_VIEWS = 8  # encoded to measure
_LONG = 5.0  # seconds: a first call this long is not repeated


@dataclass(frozen=True)
class Estimate:
    """Measured on a few images; seconds are of one process, for all sizes together."""

    items: dict[str, int]  # by split
    images: dict[str, int]
    pairs: dict[str, int]
    bytes: dict[int, int]  # by size
    undetected: int  # images that wait for OpenPose
    decode_seconds: float  # an image, on one core
    encode_seconds: float | None  # an image, both orientations; None: not measured
    detect_seconds: float | None  # an image that OpenPose processes; None: not measured

    def seconds(self, workers: int, world: int, apart: bool) -> float | None:
        """Total seconds; ``apart``: the networks do not run on the CPU. None if not measured."""
        if self.encode_seconds is None or (self.undetected and self.detect_seconds is None):
            return None
        images = sum(self.images.values())
        decode = images * self.decode_seconds / max(1, workers)
        networks = images * self.encode_seconds + self.undetected * (self.detect_seconds or 0.0)
        return (max(decode, networks) if apart else decode + networks) / world


def estimate(
    plans: Sequence[ShardPlan],
    encoders: Mapping[int, FeatureEncoder] | None,
    detector: PoseDetector | None,
    sizes: Sequence[int],
    tokens: str,
) -> Estimate:
    """Decode a few images, encode fewer, and multiply.

    Without ``encoders`` bytes are those of the published networks (257 x 1536 and 257 x 768
    tokens, 8 x size/8 x size/8 moments) and the networks' time stays unknown.
    Raises XmdptError if none of the sampled images can be used.
    """
    items = [item for plan in plans for item in plan.items]
    start = time.perf_counter()
    views = _decode_some(items, sizes)
    decoding = (time.perf_counter() - start) / len(views)
    few = views[:_VIEWS]
    detecting = _time_detector(few, detector) if detector else None
    encoding = _time_encoders(few, encoders, tokens) if encoders else None
    counts = dict.fromkeys(SPLITS, 0)
    images, pairs = dict(counts), dict(counts)
    for plan in plans:
        counts[plan.split] += len(plan.items)
        images[plan.split] += plan.images
        pairs[plan.split] += sum(len(item.pairs) for item in plan.items)
    undetected = sum(len(g.views.keys() - g.keypoints.keys()) for g in items)
    total = sum(images.values())
    # each item has two small JSON members, each shard about half a record of padding
    beside = len(items) * 2 * 1024 + len(plans) * 5 * 1024
    bytes_ = {s: round(total * _view_bytes(views, s, tokens)) + beside for s in sizes}
    return Estimate(counts, images, pairs, bytes_, undetected, decoding, encoding, detecting)


def _view_bytes(views: Sequence[DecodedView], size: int, tokens: str) -> float:
    """Mean bytes of one view in a shard."""
    image = float(np.mean([_padded(len(view.sized[size].png)) for view in views]))
    features = views[0].sized[size].features
    count = (
        sum(tensor.numel() * tensor.element_size() for tensor in features.values())
        if features
        else _published_bytes(size, tokens)
    )
    keypoints = 18 * 2 * 8 + 128  # and numpy's header
    return image + _padded(count) + _padded(keypoints)


def _decode_some(items: Sequence[Item], sizes: Sequence[int]) -> list[DecodedView]:
    """All views of a few items spread over the listing."""
    places = np.unique(np.linspace(0, len(items) - 1, _ITEMS).round().astype(int))
    decoded = [decode_item(items[i], sizes) for i in places]
    views = [view for item in decoded for view in item.views.values()]
    if not views:
        first = "; ".join(f"{file}: {why}" for item in decoded for file, why in item.skipped[:1])
        raise XmdptError(f"none of the sampled images can be used ({first})")
    return views


def _time_detector(views: Sequence[DecodedView], detector: PoseDetector) -> float | None:
    """Seconds an image takes OpenPose; None if all of these have keypoints."""
    images = [view.image for view in views if view.image is not None]
    if not images:
        return None
    start = time.perf_counter()
    detector.keypoints_batch(images)
    return (time.perf_counter() - start) / len(images)


def _time_encoders(
    views: Sequence[DecodedView], encoders: Mapping[int, FeatureEncoder], tokens: str
) -> float:
    """Seconds an image takes the networks."""
    for view in views:
        if view.fractions is None:  # any pose takes as long
            view.fractions = np.full((18, 2), np.nan)
            render_poses(view)
    seconds = _timed(views, encoders, tokens)
    if seconds < _LONG:  # the first call of a shape plans and warms up
        seconds = _timed(views, encoders, tokens)
    return seconds / len(views)


def _timed(
    views: Sequence[DecodedView], encoders: Mapping[int, FeatureEncoder], tokens: str
) -> float:
    start = time.perf_counter()
    encode_views(views, encoders, tokens)  # its result is on the CPU: a GPU has finished
    return time.perf_counter() - start


def _padded(count: int) -> int:
    """A member's bytes in a tar: its header, and its content up to a whole block."""
    return BLOCKSIZE + -(-count // BLOCKSIZE) * BLOCKSIZE


def _published_bytes(size: int, tokens: str) -> int:
    """Bytes of one image's features with the published networks, both orientations."""
    moments = 8 * (size // 8) ** 2 * 2
    wide = 257 * (1536 + 768)
    return 2 * (moments + (wide + 2 * 257 * 4 if tokens == "fp8" else 2 * wide))
