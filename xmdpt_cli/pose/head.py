"""The place of the head in an image, from its keypoints: a soft disc as a weight of the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmdpt_cli.pose.keypoints import FACE, Keypoints, joint_indices, seen

_FACE = joint_indices(*FACE)
(_NECK,) = joint_indices("neck")


def head_disc(keypoints: Keypoints) -> tuple[float, float, float] | None:
    """(x, y, radius) of the head in pixels; None if the joints do not determine it.

    ``keypoints``: (18, 2) in pixels, NaN missing. The centre is the mean of the found joints of the
    face. The radius is the larger of 1.5 times the distance from the centre to the farthest joint
    of the face (ear to ear is the width of a head, which is higher than wide), and 0.7 times the
    distance to the neck, which OpenPose places between the shoulders: in a profile the joints of
    the face are close together. A back view without ears has no face; a single joint has no radius.
    """
    face = keypoints[_FACE]
    face = face[seen(face)]
    if not len(face):
        return None
    centre = face.mean(axis=0)
    radius = 1.5 * float(np.linalg.norm(face - centre, axis=1).max())
    neck = keypoints[_NECK]
    if np.isfinite(neck).all():
        radius = max(radius, 0.7 * float(np.linalg.norm(neck - centre)))
    return (float(centre[0]), float(centre[1]), radius) if radius >= 1.0 else None


def head_map(keypoints: Keypoints, height: int, width: int) -> NDArray[np.float32]:
    """(H, W): 1 inside the head's disc, linear to 0 at 1.5 radii; all 0 without a head."""
    disc = head_disc(keypoints)
    if disc is None:
        return np.zeros((height, width), np.float32)
    x, y, radius = disc
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    return np.clip(3.0 - 2.0 * distance / radius, 0.0, 1.0).astype(np.float32)
