"""What the frozen networks add to decoded items: missing keypoints, and features."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.data.fp8 import SCALE, quantise_tokens
from xmdpt_cli.data.index import FLIP
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.keypoints import Keypoints
from xmdpt_cli.prepare.decode import DecodedItem, DecodedView, render_poses

TOKEN_TYPES = ("bf16", "fp8")
NO_PERSON = "OpenPose finds no person"


class FeatureEncoder(Protocol):
    """The frozen networks, behind one call."""

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        """Images and rendered poses, each uint8 (N, size, size, 3) -> tensors (N, ...).

        ``moments`` (N, 2C, h, w) fp16/fp32: the VAE's posterior mean and log variance;
        ``source_tokens`` and ``pose_tokens`` (N, L, W) bf16. All finite, whatever the input.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the weights, fit for JSON, with ``"toy": bool``."""
        ...


class PoseDetector(Protocol):
    """OpenPose, behind one call."""

    def keypoints_batch(self, images: Sequence[ImageArray]) -> list[Keypoints | None]:
        """uint8 (H, W, 3) each -> (18, 2) x, y in its pixels, NaN missing; None for no person."""
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the weights, fit for JSON."""
        ...


def add_keypoints(
    items: Iterable[DecodedItem], detector: PoseDetector, batch_size: int
) -> Iterator[DecodedItem]:
    """The items in order; views without keypoints get OpenPose's, or are left out.

    The detector gets about ``batch_size`` images at a time.
    """
    group: list[DecodedItem] = []
    images = 0
    for item in items:
        group.append(item)
        images += sum(view.fractions is None for view in item.views.values())
        if images >= batch_size:
            _detect(group, detector)
            yield from group
            group, images = [], 0
    _detect(group, detector)
    yield from group


def _detect(group: Sequence[DecodedItem], detector: PoseDetector) -> None:
    """Find the keypoints of all views that have none."""
    missing = [
        (item, name, view)
        for item in group
        for name, view in item.views.items()
        if view.fractions is None
    ]
    images = [view.image for _, _, view in missing if view.image is not None]
    assert len(images) == len(missing)
    found = detector.keypoints_batch(images) if images else []
    for (item, name, view), image, points in zip(missing, images, found, strict=True):
        view.image = None
        if points is None:
            item.drop(name, NO_PERSON)
        else:
            view.fractions = points / np.array((image.shape[1], image.shape[0]))
            render_poses(view)


def add_features(
    items: Iterable[DecodedItem],
    encoders: Mapping[int, FeatureEncoder],
    tokens: str,
    batch_size: int,
) -> Iterator[DecodedItem]:
    """The items in order, each as soon as all its views are encoded.

    Batches hold ``batch_size`` views; the last one may be smaller.
    """
    waiting: deque[DecodedItem] = deque()
    batch: list[DecodedView] = []
    for item in items:
        waiting.append(item)
        for view in item.views.values():
            batch.append(view)
            if len(batch) == batch_size:
                encode_views(batch, encoders, tokens)
                batch = []
        while waiting and waiting[0].encoded:
            yield waiting.popleft()
    if batch:
        encode_views(batch, encoders, tokens)
    yield from waiting


def encode_views(
    batch: Sequence[DecodedView], encoders: Mapping[int, FeatureEncoder], tokens: str
) -> None:
    """Give every view of the batch its features, at every size and in both orientations."""
    for size, encoder in encoders.items():
        views = [view.sized[size] for view in batch]
        images = [view.image for view in views]
        poses = [view.pose for view in views if view.pose is not None]
        features: list[dict[str, torch.Tensor]] = [{} for _ in batch]
        for suffix in ("", FLIP):
            if suffix:  # images are mirrored, joints are not relabelled (published)
                images, poses = ([cv2.flip(a, 1) for a in arrays] for arrays in (images, poses))
            with torch.no_grad():
                encoded = encoder.encode(np.stack(images), np.stack(poses))
            for name, tensor in encoded.items():
                assert tensor.shape[0] == len(batch), (name, tensor.shape)
                for view, stored, row in zip(batch, features, tensor.detach().cpu(), strict=True):
                    if not bool(torch.isfinite(row).all()):
                        raise XmdptError(
                            f"the encoder gave {name} that are not finite for {view.file}",
                            "run the encoders in float32 or bfloat16",
                        )
                    key = name + suffix
                    if tokens == "fp8" and "_tokens" in name:
                        stored[key], stored[key + SCALE] = quantise_tokens(row)
                    else:
                        stored[key] = row.clone()
        for sized, stored in zip(views, features, strict=True):
            sized.features = stored
