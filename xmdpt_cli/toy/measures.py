"""Toy metrics for synthetic people: colour of the clothes, and silhouette.

Made for synthetic people of flat colours on a plain light background, where the answer is known.
They are not meaningful on photographs and not comparable with papers.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from xmdpt_cli.metrics.base import PairMetric
from xmdpt_cli.metrics.pixels import Pixels, in_threads
from xmdpt_cli.metrics.registry import describe

# right shoulder, left shoulder, left hip, right hip of the 18 joints: around the torso
_TORSO = (2, 5, 11, 8)
_SHRINK = 0.8  # of the torso, about its centre: excludes outlines, arms and background
_GROW = 1.25  # of the torso, about its centre: includes outlines
_FOREGROUND = 32  # grey levels from the background: above the noise of a small decoder
_GAP = 8  # the same, median over a hole: below it the background is seen through a gap


def torso_colour_error(
    generated: Pixels, ground_truth: Pixels, keypoints: NDArray[np.float64]
) -> float:
    """Absolute difference of the mean torso colours, averaged over R, G, B, in grey levels (0 to
    255).

    ``keypoints`` (18, 2), x and y in pixels of ``ground_truth``, NaN where missing. Both means are
    over the torso of the ground truth, so a person in the wrong place counts as a wrong colour.
    NaN where a shoulder or hip is missing or the torso covers no pixel.
    """
    inside = _torso(ground_truth.shape[:2], keypoints, _SHRINK)
    if inside is None:
        return math.nan
    difference = generated[inside].mean(axis=0) - ground_truth[inside].mean(axis=0)
    return float(np.abs(difference).mean())


def torso_contrast(image: Pixels, keypoints: NDArray[np.float64]) -> float:
    """Mean difference of the torso and its outline from the background, in grey levels (0 to 255).

    ``keypoints`` (18, 2) as for ``torso_colour_error``. Of R, G, B the one that differs most
    counts. White clothes have a small contrast: that of a generated image tells, beside that of the
    ground truth, whether they can be seen. NaN as for ``torso_colour_error``.
    """
    inside = _torso(image.shape[:2], keypoints, _GROW)
    if inside is None:
        return math.nan
    return float(np.abs(image[inside] - _background(image)).max(axis=1).mean())


def silhouette_iou(generated: Pixels, ground_truth: Pixels) -> float:
    """Intersection over union of the two silhouettes, in [0, 1]; NaN if both are empty.

    Silhouette: the pixels that differ, in some channel, by more than a threshold from the
    background of the image, which is the median colour of its outermost pixels, and what they
    enclose: light stripes and white clothes inside a darker contour belong to the person. Enclosed
    background does not, as between an arm and the body.
    """
    a, b = _silhouette(generated), _silhouette(ground_truth)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan


@describe
class TorsoColourError(PairMetric):
    """``torso_colour_error``; ``update(generated, ground_truth, keypoints)`` with keypoints
    (N, 18, 2) in pixels of the ground truth before any resize, NaN where missing."""

    name = "torso_colour_error"
    higher_is_better = False
    decimals = 1
    toy = True

    def update(
        self, generated: Tensor, ground_truth: Tensor, keypoints: Tensor | None = None
    ) -> None:
        a, b = self.pairs(generated, ground_truth)
        if keypoints is None:
            keypoints = torch.full((len(b), 18, 2), math.nan)
        height, width = b[0].shape[:2]
        scale = (width / ground_truth.shape[3], height / ground_truth.shape[2])
        points = keypoints.double().cpu().numpy() * scale
        self._keep_values(in_threads(torso_colour_error, a, b, points))


@describe
class SilhouetteIoU(PairMetric):
    """``silhouette_iou``."""

    name = "silhouette_iou"
    higher_is_better = True
    decimals = 3
    toy = True

    def measure(self, generated: Pixels, ground_truth: Pixels) -> float:
        return silhouette_iou(generated, ground_truth)


#: for ``evaluate(..., extra=TOY_METRICS)``
TOY_METRICS = (TorsoColourError, SilhouetteIoU)


def _torso(
    shape: tuple[int, int], keypoints: NDArray[np.float64], grow: float
) -> NDArray[np.bool_] | None:
    """The pixels of the torso, scaled about its centre; None without one."""
    corners = np.asarray(keypoints, dtype=np.float64)[list(_TORSO)]
    if not np.isfinite(corners).all():
        return None
    centre = corners.mean(axis=0)
    polygon = np.rint(centre + grow * (corners - centre)).astype(np.int32)
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(mask, [polygon], 1)
    return mask.astype(bool) if mask.any() else None


def _background(image: Pixels) -> NDArray[np.float64]:
    """The median colour (3,) of the outermost pixels."""
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    return np.asarray(np.median(np.concatenate(edges), axis=0))


def _silhouette(image: Pixels) -> NDArray[np.bool_]:
    distance = np.abs(image - _background(image)).max(axis=2)
    silhouette: NDArray[np.bool_] = distance > _FOREGROUND
    holes, count = ndimage.label(ndimage.binary_fill_holes(silhouette) & ~silhouette)
    if count:
        numbers = np.arange(1, count + 1)
        of_the_person = numbers[ndimage.median(distance, holes, numbers) > _GAP]
        silhouette |= np.isin(holes, of_the_person)
    return silhouette
