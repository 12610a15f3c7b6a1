"""REPA: hidden tokens are aligned with an encoder's tokens of the target in training (Yu et al.
2024, arXiv 2410.06940), and iREPA's two changes of it (Singh et al. 2025, arXiv 2512.10794).

The loss is in ``diffusion.loss``. Legend: N batch, T = s * s tokens of the latent grid, D width, W
width of the encoder's tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 2048  # of the MLP (REPA)
#: Share of the mean over tokens that spatial normalisation subtracts: iREPA's gamma, with the
#: default of its released training code for latent diffusion
GAMMA = 0.6
#: How hidden tokens are projected
PROJECTIONS = ("mlp", "conv")


def repa_projector(kind: str, width: int, out: int) -> nn.Module:
    """Hidden tokens (N, T, D) -> the space of the encoder's tokens (N, T, W).

    ``kind``: "mlp" (REPA) or "conv" (iREPA).
    """
    if kind == "conv":
        return ConvProjector(width, out)
    return nn.Sequential(
        nn.Linear(width, HIDDEN),
        nn.SiLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.SiLU(),
        nn.Linear(HIDDEN, out),
    )


class ConvProjector(nn.Module):
    """One 3 x 3 convolution on the token grid: it keeps the spatial structure of the tokens."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        square = x.transpose(1, 2).unflatten(2, (side, side))  # (N, D, s, s)
        return self.conv(square).flatten(2).transpose(1, 2)


def repa_target(tokens: Tensor, grid: int, norm: str = "none") -> Tensor:
    """DINOv2 tokens (N, 1 + s*s, W), CLS first -> (N, grid * grid, W), on the latent tokens' grid.

    Different grids (512 px: 32 and 16) are resized bilinearly. ``norm``: "none" (REPA) or
    "spatial" (iREPA), see ``spatial_norm``.
    """
    patches = tokens[:, 1:].float()
    if norm == "spatial":
        patches = spatial_norm(patches)
    side = int(patches.shape[1] ** 0.5)
    if side == grid:
        return patches
    square = patches.transpose(1, 2).unflatten(2, (side, side))
    resized = nn.functional.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


def spatial_norm(x: Tensor) -> Tensor:
    """(x - gamma E[x]) / (std[x] + 1e-6) over the tokens of each image and channel: (N, T, W).

    It removes most of what all tokens of an image have in common, so that their cosine similarity
    is more that of the differences between them.
    """
    deviation, mean = torch.std_mean(x, dim=1, keepdim=True)
    return (x - GAMMA * mean) / (deviation + 1e-6)
