"""Toy measures for synthetic people: is the right garment worn, and in the right pose?

Made for synthetic people of flat colours on a plain light background, where the answer is known.
They mean nothing on photographs and appear in no paper.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.metrics.pictures import Pixels

# right shoulder, left shoulder, left hip, right hip of the 18 joints: around the torso
_TORSO = (2, 5, 11, 8)
_SHRINK = 0.8  # about the centre: keeps outlines, arms and background out of the mean
_FOREGROUND = 32  # grey levels off the background: above the noise of a small decoder
METRICS = ("torso_colour_error", "silhouette_iou")


def measure(
    pred: Pixels, truth: Pixels, keypoints: NDArray[np.float64] | None
) -> dict[str, float | None]:
    """Both measures by name; None where one is undefined."""
    torso = None if keypoints is None else torso_colour_error(pred, truth, keypoints)
    return {"torso_colour_error": torso, "silhouette_iou": silhouette_iou(pred, truth)}


def torso_colour_error(pred: Pixels, truth: Pixels, keypoints: NDArray[np.float64]) -> float | None:
    """Mean over R, G, B of |mean torso colour of pred - of truth|, in grey levels (0 to 255).

    ``keypoints`` (18, 2), x and y in pixels of ``truth``, NaN where missing. Both pictures are
    read inside the truth's torso, so a person in the wrong place counts as the wrong colour.
    None where a shoulder or hip is missing or the torso covers no pixel.
    """
    corners = np.asarray(keypoints, dtype=np.float64)[list(_TORSO)]
    if not np.isfinite(corners).all():
        return None
    centre = corners.mean(axis=0)
    polygon = np.rint(centre + _SHRINK * (corners - centre)).astype(np.int32)
    mask = np.zeros(truth.shape[:2], dtype=np.uint8)
    cv2.fillPoly(mask, [polygon], 1)
    inside = mask.astype(bool)
    if not inside.any():
        return None
    difference = pred[inside].mean(axis=0) - truth[inside].mean(axis=0)
    return float(np.abs(difference).mean())


def silhouette_iou(pred: Pixels, truth: Pixels) -> float | None:
    """Intersection over union of the two foregrounds, in [0, 1]; None if both are empty.

    Foreground: pixels that differ, in some channel, by more than a threshold from the picture's
    own background, which is the median colour of its outermost pixels. Clothes as light as the
    background count as background, in both pictures alike.
    """
    a, b = _foreground(pred), _foreground(truth)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def _foreground(picture: Pixels) -> NDArray[np.bool_]:
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    background = np.median(np.concatenate(edges), axis=0)  # (3,)
    return np.abs(picture - background).max(axis=2) > _FOREGROUND
