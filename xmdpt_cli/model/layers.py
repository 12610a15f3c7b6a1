"""Building blocks of TDNet and MIPNet: positions, timesteps, attention with a relative bias, adaLN.

Legend: N batch, T tokens, S context tokens, D width, H heads, s grid side (T = s * s).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def relative_index(side: int) -> Tensor:
    """(T, T) rows of the bias table for query minus key, BEiT's numbering."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + side - 1
    dx = x[:, None] - x[None, :] + side - 1
    return dy * (2 * side - 1) + dx


class RelativeBias(nn.Module):
    """Learned bias of every attention: a table of (2s-1)^2 + 3 rows by H heads.

    The last three rows are BEiT's, for a class token; the published model never reads them. With
    ``joined=True`` (our "tokens" conditioning) the source view's keys follow the T own ones and
    the first of those rows is the bias onto any of them: bodies move, so distance says nothing.
    """

    index: Tensor

    def __init__(self, side: int, heads: int, joined: bool = False) -> None:
        super().__init__()
        rows = (2 * side - 1) ** 2
        self.table = nn.Parameter(torch.zeros(rows + 3, heads))
        index = relative_index(side)
        if joined:
            index = torch.cat([index, torch.full_like(index, rows)], dim=1)
        self.register_buffer("index", index, persistent=False)
        self._cache: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self) -> Tensor:
        """The bias (H, T, S), S = T or 2T; in eval mode built anew only when the table changes."""
        if self.training or (torch.is_grad_enabled() and self.table.requires_grad):
            # never cached in training: fused optimizers change weights without raising _version
            self._cache = None
            return self._gather()
        stamp = (self.table.data_ptr(), self.table._version, self.table.dtype, self.table.device)
        if self._cache is None or self._cache[0] != stamp:
            self._cache = (stamp, self._gather())
        return self._cache[1]

    def _gather(self) -> Tensor:
        # index_select, not table[index]: its backward is an index_add, several times faster
        rows = self.table.index_select(0, self.index.flatten())  # (T*S, H)
        return rows.reshape(*self.index.shape, -1).permute(2, 0, 1).contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    q (N, H, T, d), k and v (N, H, S, d), bias (H, T, S) or (N, H, T, S).
    """
    if bias.requires_grad and q.device.type == "cpu":
        # No fused CPU kernel gives the bias a gradient, and SDPA's fallback also guards against
        # rows that are masked out altogether, which costs as much as the softmax itself.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.to(q.dtype)
        return scores.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


def split_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(N, T, parts*D) -> ``parts`` tensors (N, H, T, d); the layout is (part, head, d)."""
    n, t, _ = x.shape
    return x.reshape(n, t, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(nn.Module):
    """Tokens attend to each other and, if ``joined``, to the source view's keys as well."""

    def __init__(self, width: int, heads: int, side: int, joined: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias = RelativeBias(side, heads, joined)

    def forward(self, x: Tensor, context: Tensor | None, kept: Tensor | None) -> Tensor:
        q, k, v = split_heads(self.qkv(x), self.heads, 3)
        if context is not None:  # (N, T, 2D): the source view's keys and values
            source_k, source_v = split_heads(context, self.heads, 2)
            k, v = torch.cat([k, source_k], dim=2), torch.cat([v, source_v], dim=2)
        out = attend(q, k, v, pick_bias(self.bias(), kept))
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries from x (N, T, D); keys and values from the context (N, S, D), taken as it is."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.bias = RelativeBias(side, heads)

    def forward(self, x: Tensor, context: Tensor | None, kept: Tensor | None) -> Tensor:
        assert context is not None
        assert kept is None
        (q,) = split_heads(self.to_q(x), self.heads, 1)
        k, v = split_heads(self.to_kv(context), self.heads, 2)
        out = attend(q, k, v, self.bias())
        return self.proj(out.transpose(1, 2).flatten(2))


def pick_bias(bias: Tensor, kept: Tensor | None) -> Tensor:
    """The part of a bias (H, T, S) for the tokens that are there.

    kept (N, K): each row's token positions, None for all. Source keys (S > T) are always there.
    """
    if kept is None:
        return bias
    heads, tokens = bias.shape[:2]
    rows = bias[:, kept]  # (H, N, K, S)
    columns = kept[None, :, None, :].expand(heads, -1, kept.shape[1], -1)
    own = rows[..., :tokens].gather(3, columns)  # (H, N, K, K)
    return torch.cat([own, rows[..., tokens:]], dim=3).transpose(0, 1)  # (N, H, K, K + S - T)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """A DiT block with adaLN-Zero: attention, then an MLP, both shifted, scaled and gated by c."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, c: Tensor, context: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """x (N, T, D), c (N, D) -> (N, T, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=1)
        h = self.attention(modulate(self.norm1(x), shift1, scale1), context, kept)
        x = x + gate1.unsqueeze(1) * h
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """(N, T, D) -> (N, T, patch*patch*channels)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))
