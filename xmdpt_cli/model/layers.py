"""The layers of X-MDPT: embeddings, attention, adaLN-Zero block.

Parameters are named as in the published checkpoints.

Legend: N batch, T tokens of the s x s latent grid, K tokens of a sequence (T, or those kept by a
mask), S context tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model.qk_norm import QKNorm
from xmdpt_cli.model.rotary import Positions, rotary_positions

R = TypeVar("R")

# embeddings


class PatchEmbed(nn.Module):
    """(N, C, h, w) -> (N, T, D): a convolution whose stride is its kernel."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """(N,) timesteps -> (N, D): sinusoidal features through an MLP."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        features = timestep_features(timesteps, self.features)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


def timestep_features(timesteps: Tensor, features: int = 256) -> Tensor:
    """(N,) -> (N, features): cosines, then sines, of t exp(-ln(10000) i / (features / 2))."""
    half = features // 2
    i = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angle = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * i / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def sincos_position_embedding(width: int, side: int) -> Tensor:
    """2-D sin-cos table (1, side * side, width): half of the features encode the column, half the
    row (MAE's layout). Both learned position embeddings start from it."""
    assert width % 4 == 0, "2-D sin-cos needs a width divisible by 4"
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    positions = torch.arange(side, dtype=torch.float64)
    row, column = torch.meshgrid(positions, positions, indexing="ij")

    def features(position: Tensor) -> Tensor:  # (s, s) -> (T, D/2)
        angle = position.reshape(-1, 1) * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return torch.cat([features(column), features(row)], dim=1).float().unsqueeze(0)


# attention


class RelativePositionBias(nn.Module):
    """A learned bias for every attention logit, by the offset of query and key (BEiT).

    The last three rows of the table are BEiT's for a class token. The published model does not
    read them; source tokens that are further keys (``extensions.py``) take the first of them,
    since distance to another view of the person means nothing.
    """

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * side - 1) ** 2 + 3, heads)
        )

    def forward(self, ids_keep: Tensor | None = None, extra_keys: int = 0) -> Tensor:
        """(H, T, T); with ``ids_keep`` (N, K) rows and columns of the kept tokens, (N, H, K, K).
        ``extra_keys``: columns to append for as many source tokens."""
        table = self.relative_position_bias_table
        bias = table[relative_position_index(self.side, table.device)].permute(2, 0, 1)
        if ids_keep is not None:
            bias = bias[:, ids_keep[:, :, None], ids_keep[:, None, :]].transpose(0, 1)
        return self.append_keys(bias, extra_keys)

    def append_keys(self, bias: Tensor, extra_keys: int) -> Tensor:
        """(..., H, K, K) -> (..., H, K, K + extra_keys)."""
        if not extra_keys:
            return bias
        tokens = self.side**2
        # each of V = extra_keys / tokens views weighs 1 / V: giving one twice changes nothing
        column = self.relative_position_bias_table[-3] - math.log(extra_keys / tokens)  # (H,)
        return torch.cat([bias, column[:, None, None].expand(*bias.shape[:-1], extra_keys)], dim=-1)


def relative_position_index(side: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, T) rows of the bias table: (dy + s - 1)(2s - 1) + dx + s - 1, d = query minus key."""
    positions = torch.arange(side, device=device)
    offset = positions[:, None] - positions[None, :] + side - 1  # (s, s), along one axis
    rows, columns = offset * (2 * side - 1), offset
    # (y query, x query, y key, x key): one operation on T * T entries
    return (rows[:, None, :, None] + columns[None, :, None, :]).reshape(side**2, side**2)


class ScaledDotProductAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v: a separate module, which ``kernels.py`` can replace."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q (N, H, K, d); k, v (N, H, S, d); bias (H, K, S) or (N, H, K, S), None: no bias."""
        if bias is not None:
            # expanded to four dimensions: no fused kernel takes a mask with three
            bias = bias.to(q.dtype).expand(*q.shape[:3], k.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Attention(nn.Module):
    """Multi-head self-attention with a relative position bias, or with ``rotary`` positions.
    ``qk_norm``: queries and keys are normalised."""

    def __init__(
        self, width: int, heads: int, side: int, rotary: bool = False, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = QKNorm(width // heads) if qk_norm else None
        self.sdpa = ScaledDotProductAttention()
        self.rel_pos_bias = None if rotary else RelativePositionBias(side, heads)
        self.proj = nn.Linear(width, width)

    def positions(self, ids_keep: Tensor | None = None, extra_keys: int = 0) -> Positions:
        """Of all tokens of the grid, or of those kept, with ``extra_keys`` source tokens."""
        if self.rel_pos_bias is not None:
            return Positions(self.rel_pos_bias(ids_keep, extra_keys))
        weight = self.qkv.weight
        return rotary_positions(
            self.side,
            weight.shape[1] // self.heads,
            ids_keep,
            extra_keys,
            dtype=weight.dtype,
            device=weight.device,
        )

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        kv: Tensor | None = None,
        products: list[Tensor] | None = None,
    ) -> Tensor:
        """x (N, K, D), kv (N, S, 2D) further keys and values -> (N, K, D). ``products``: a list
        that receives q (N, H, K, d) and k (N, H, K + S, d), as they are multiplied."""
        q, k, v = split_heads(self.qkv(x), self.heads, 3)  # (N, H, K, d) each
        if kv is not None:
            k_source, v_source = split_heads(kv, self.heads, 2)
            k, v = torch.cat([k, k_source], dim=2), torch.cat([v, v_source], dim=2)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        q, k = positions.rotate(q, k)
        if products is not None:
            products += [q, k]
        return self.proj(merge_heads(self.sdpa(q, k, v, positions.bias)))


class CrossAttention(nn.Module):
    """Multi-head attention from x to a context, with a relative position bias."""

    def __init__(self, width: int, heads: int, side: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.qk_norm = QKNorm(width // heads) if qk_norm else None
        self.sdpa = ScaledDotProductAttention()
        self.rel_pos_bias = RelativePositionBias(side, heads)
        self.proj = nn.Linear(width, width)

    def positions(self, ids_keep: Tensor | None = None) -> Positions:
        """See ``Attention.positions``."""
        return Positions(self.rel_pos_bias(ids_keep))

    def forward(self, x: Tensor, positions: Positions, context: Tensor) -> Tensor:
        """x (N, K, D), bias (..., H, K, T), context (N, T, D) without normalisation."""
        (q,) = split_heads(self.to_q(x), self.heads, 1)
        k, v = split_heads(self.to_kv(context), self.heads, 2)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        return self.proj(merge_heads(self.sdpa(q, k, v, positions.bias)))


def split_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(N, T, parts * D) -> ``parts`` tensors (N, H, T, d); features lie as (part, head, d)."""
    n, t, _ = x.shape
    return x.reshape(n, t, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """(N, H, T, d) -> (N, T, D)."""
    return x.transpose(1, 2).flatten(2)


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """x (N, T, D) at ids (N, K) -> (N, K, D)."""
    return x.gather(1, ids.unsqueeze(2).expand(-1, -1, x.shape[2]))


# blocks


def drop(condition: Tensor, keep: Tensor | None) -> Tensor:
    """(N, D), zero in the rows that lose their condition (classifier-free guidance); keep (N,)
    bool, None: all keep it."""
    return condition if keep is None else condition * keep.to(condition.dtype).unsqueeze(1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (N, T, D); shift, scale (N, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A DiT block with adaLN-Zero: attention and MLP, shifted, scaled and gated by c.

    ``cross``: cross-attention to a context instead of self-attention (MIPNet). ``skip``: starts
    with a Linear over [x, an earlier x] (MDTv2's long skips). ``rotary``, ``qk_norm``: see
    ``Attention``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        side: int,
        cross: bool = False,
        skip: bool = False,
        rotary: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn: Attention | CrossAttention = (
            CrossAttention(width, heads, side, qk_norm)
            if cross
            else Attention(width, heads, side, rotary, qk_norm)
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,  # (N, K, D)
        c: Tensor,  # (N, D)
        ids_keep: Tensor | None = None,  # (N, K) grid positions of x; None: all
        context: Tensor | None = None,  # (N, S, 2D) keys and values; cross: (N, T, D) tokens
        skip: Tensor | None = None,  # (N, K, D)
    ) -> Tensor:
        if isinstance(self.attn, CrossAttention):
            positions = self.attn.positions(ids_keep)
        else:
            positions = self.attn.positions(ids_keep, 0 if context is None else context.shape[1])
        return self.modulated(x, self.adaLN_modulation(c), positions, context, skip)

    def modulated(
        self,
        x: Tensor,
        modulation: Tensor,  # (N, 6D) of c
        positions: Positions,
        context: Tensor | None = None,
        skip: Tensor | None = None,
        products: list[Tensor] | None = None,
    ) -> Tensor:
        """``forward`` with the modulation and the positions given, which do not depend on x.
        ``products``: see ``Attention.forward``."""
        (shift_msa, scale_msa, gate_msa,
         shift_mlp, scale_mlp, gate_mlp) = modulation.chunk(6, dim=1)  # (N, D) each  # fmt: skip
        if self.skip_linear is not None:
            assert skip is not None
            x = self.skip_linear(torch.cat([x, skip], dim=2))
        h = modulate(self.norm1(x), shift_msa, scale_msa)
        # MIPNet's cross-attention takes no list
        h = self.attn(h, positions, context, *([] if products is None else [products]))
        x = x + gate_msa.unsqueeze(1) * h
        h = self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))
        return x + gate_mlp.unsqueeze(1) * h

    def call(self, function: Callable[..., R], *args: object) -> R:
        """``function(self, *args)`` as one forward pass of this module: FSDP2 gathers the weights
        once, for all sequences that the function passes through them."""
        return function(self, *args)


class FinalLayer(nn.Module):
    """(N, T, D) -> (N, T, out), modulated by c."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.modulated(x, self.adaLN_modulation(c))

    def modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        """``forward`` from the modulation (N, 2D) of c."""
        shift, scale = modulation.chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))
