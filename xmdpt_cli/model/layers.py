"""What is no attention in TDNet and MIPNet: positions, timesteps, patches, MLP, output layer.

Legend: N batch, T tokens, D width, s grid side (T = s * s).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model import products


def sincos_position_embedding(width: int, side: int) -> Tensor:
    """2-D sin-cos table (1, side*side, width): half the features tell the column, half the row.

    The start value of both learned position embeddings (published code; MAE's layout).
    """
    assert width % 4 == 0, "2-D sin-cos needs a width divisible by 4"
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(
        torch.arange(side, dtype=torch.float64),
        torch.arange(side, dtype=torch.float64),
        indexing="ij",
    )

    def features(position: Tensor) -> Tensor:  # (T,) -> (T, D/2)
        angle = position.reshape(-1, 1) * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return torch.cat([features(column), features(row)], dim=1).float().unsqueeze(0)


def timestep_features(timesteps: Tensor, width: int = 256) -> Tensor:
    """(N,) -> (N, width): cos first, then sin, of t * exp(-ln(10000) i / (width/2))."""
    half = width // 2
    i = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angle = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * i / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimestepEmbedder(nn.Module):
    """(N,) timesteps -> (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        first: nn.Linear = self.mlp[0]  # type: ignore[assignment]
        out: Tensor = self.mlp(timestep_features(timesteps).to(first.weight.dtype))
        return out


class PatchEmbed(nn.Module):
    """(N, C, h, w) -> (N, T, D), a convolution whose stride is its kernel."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class PoseEmbed(nn.Module):
    """A pose map (N, 3, H, W) -> (N, T, D), for our "tokens" conditioning.

    A patch inside a body holds no stick, so what a token knows of the pose must come from its
    neighbours: two residual 3 x 3 convolutions on the grid look two patches far.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patches = PatchEmbed(3, width, patch)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, pose_map: Tensor) -> Tensor:
        side = pose_map.shape[-1] // self.patches.proj.kernel_size[0]
        x = self.patches(pose_map).transpose(1, 2).unflatten(2, (side, side))
        for conv in self.convs:
            x = x + conv(F.silu(x))
        return x.flatten(2).transpose(1, 2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def gelu(x: Tensor) -> Tensor:
    """GELU's tanh form, 0.5 x (1 + tanh u) = x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3).

    Fused by the compiler the right side takes half the time: an exponential is cheaper than tanh.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(x)``, by the library that multiplies fastest (see ``products``)."""
    return products.linear(x, layer.weight, layer.bias)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.fc2, gelu(linear(self.fc1, x)))


class FinalLayer(nn.Module):
    """(N, T, D) -> (N, T, patch*patch*channels)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """modulation (N, 2D), made of c by the module of that name."""
        shift, scale = modulation.chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))
