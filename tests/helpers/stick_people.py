"""A network that sees stick people: OpenPose's maps for known joints. For tests only.

The image is one grey; which people stand in it is looked up by that grey. So the maps follow
the images through any batching, and the joints that must come back are known.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders.openpose import OpenPose

STRIDE = 8  # image pixels to a map's cell

# Limbs (0-based joints) and the first of their two channels of the affinity maps: the order that
# the published network was trained with.
LIMBS = (
    (1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0), (8, 9, 2),
    (9, 10, 4), (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30), (14, 16, 34),
    (0, 15, 32), (15, 17, 36), (2, 16, 18), (5, 17, 26),
)  # fmt: skip

# One standing figure: fractions of a box, x and y, in the order nose, neck, right arm, left arm,
# right leg, left leg, eyes, ears.
FIGURE = np.array([
    (0.50, 0.14), (0.50, 0.28), (0.26, 0.28), (0.12, 0.44), (0.08, 0.60), (0.74, 0.28),
    (0.88, 0.44), (0.92, 0.60), (0.36, 0.56), (0.34, 0.76), (0.32, 0.96), (0.64, 0.56),
    (0.66, 0.76), (0.68, 0.96), (0.40, 0.06), (0.60, 0.06), (0.26, 0.12), (0.74, 0.12),
])  # fmt: skip

Person = tuple[float, NDArray[np.float64]]  # confidence, joints (18, 2) as fractions, NaN absent


def standing(left: float, right: float, confidence: float = 0.9, absent: int = -1) -> Person:
    """A person that fills the image's height between two fractions of its width."""
    joints = FIGURE * (right - left, 0.94) + (left, 0.03)
    if absent >= 0:
        joints[absent] = np.nan
    return confidence, joints


def grey(value: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


class StickPeople(torch.nn.Module):
    """Called as the body network is: float32 (N, 3, h, w) -> (N, 38, h/8, w/8), (N, 19, ...)."""

    def __init__(self, people: dict[int, list[Person]]) -> None:
        super().__init__()
        self.somewhere = torch.nn.Parameter(torch.zeros(1))
        self.people = people
        self.batches: list[int] = []

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(len(data))
        height, width = data.shape[2] // STRIDE, data.shape[3] // STRIDE
        affinity = torch.zeros(len(data), 38, height, width)
        heat = torch.zeros(len(data), 19, height, width)
        for i, image in enumerate(data):
            value = round((float(image[0, 0, 0]) + 0.5) * 256)
            for confidence, joints in self.people.get(value, []):
                cells = joints * (width, height) - 0.5
                _draw(affinity[i].numpy(), heat[i].numpy(), cells, confidence)
        return affinity, heat


def with_network(network: torch.nn.Module) -> OpenPose:
    """controlnet-aux's own code around another network."""
    pytest.importorskip("controlnet_aux.open_pose")
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body

    body = Body.__new__(Body)
    body.model = network
    return OpenPose(OpenposeDetector(body))


def _draw(
    affinity: NDArray[np.float32],
    heat: NDArray[np.float32],
    cells: NDArray[np.float64],
    confidence: float,
) -> None:
    rows, columns = np.mgrid[: heat.shape[1], : heat.shape[2]]
    place = np.stack((columns, rows), axis=-1).astype(np.float64)
    for joint, at in enumerate(cells):
        if np.isfinite(at).all():
            blob = confidence * np.exp(-((place - at) ** 2).sum(axis=-1) / 2)
            heat[joint] = np.maximum(heat[joint], blob)
    for a, b, channel in LIMBS:
        if np.isfinite(cells[[a, b]]).all():
            along = cells[b] - cells[a]
            length = float(np.hypot(*along))
            along /= length
            from_a = place - cells[a]
            ahead = from_a @ along
            beside = np.abs(from_a[..., 0] * along[1] - from_a[..., 1] * along[0])
            on = (ahead > -1) & (ahead < length + 1) & (beside < 1)
            affinity[channel][on], affinity[channel + 1][on] = along
