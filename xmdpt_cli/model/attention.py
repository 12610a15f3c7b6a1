"""Attention with a bias on its scores, and the adaLN-Zero block around it.

Legend: N batch, T tokens of the grid, K tokens that are there (T, or the kept ones), S keys,
D width, H heads, d = D / H, P conditions side by side, s grid side (T = s * s).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model import products
from xmdpt_cli.model.layers import Mlp, linear, modulate

#: Keys up to which scores are held for the gradient: 256 px have 256 tokens, 512 px 1024, and 16
#: times the scores. On an H100 a training step of six blocks of L then takes 31 ms, not 52.
MOST_SCORED_KEYS = 512


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    q (N, H, K, d), k and v (N, H, S, d), bias (H, K, S) or (N, H, K, S).
    """
    learning = bias.requires_grad and torch.is_grad_enabled()
    if learning and (q.device.type == "cpu" or k.shape[2] <= MOST_SCORED_KEYS):
        return _attend_by_products(q, k, v, bias)
    # four dimensions: with three no fused kernel takes it
    mask = bias.to(q.dtype).expand(len(q), *bias.shape[-3:])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """``attend`` as it is written, where the bias learns.

    Of the fused kernels only the slow one of a GPU gives the bias a gradient, and it writes that
    of every row of the batch; those of a CPU none, and SDPA's fallback also guards against rows
    that are masked out altogether, which costs as much as the softmax itself.
    """
    missing = -k.shape[2] % 8 if q.is_cuda else 0
    if missing:  # a GPU's tensor cores read rows of scores that begin at 16 bytes
        k, v = F.pad(k, (0, 0, 0, missing)), F.pad(v, (0, 0, 0, missing))
        bias = F.pad(bias, (0, missing), value=-torch.inf)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores.to(bias.dtype) + bias).softmax(dim=-1).to(v.dtype) @ v


def split_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(N, T, parts*D) -> ``parts`` tensors (N, H, T, d); the layout is (part, head, d)."""
    n, t, _ = x.shape
    return x.reshape(n, t, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(nn.Module):
    """Tokens attend to each other and, where ``others`` are given, to these as well."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, bias: Tensor, others: Tensor | None = None, asking: Tensor | None = None
    ) -> Tensor:
        """x (N, K, D); others (N, S, 2D): further keys and values; asking (N, M): the rows of x
        whose output is wanted, None: all. Returns (N, K or M, D)."""
        if asking is None:
            q, k, v = split_heads(linear(self.qkv, x), self.heads, 3)
        else:  # queries of some rows, keys and values of all
            width = x.shape[2]
            weight, bias_ = self.qkv.weight, self.qkv.bias
            (q,) = split_heads(
                products.linear(rows_of(x, asking), weight[:width], bias_[:width]), self.heads, 1
            )
            k, v = split_heads(products.linear(x, weight[width:], bias_[width:]), self.heads, 2)
        if others is not None:
            other_k, other_v = split_heads(others, self.heads, 2)
            k, v = torch.cat([k, other_k], dim=2), torch.cat([v, other_v], dim=2)
        out = attend(q, k, v, bias)
        return linear(self.proj, out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries from x (N, K, D); keys and values from ``others`` (N, S, D), taken as they are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, bias: Tensor, others: Tensor | None = None, asking: Tensor | None = None
    ) -> Tensor:
        """As ``SelfAttention``, but rows that do not ask need not come: nobody looks at them."""
        assert others is not None
        assert asking is None
        (q,) = split_heads(linear(self.to_q, x), self.heads, 1)
        k, v = split_heads(linear(self.to_kv, others), self.heads, 2)
        out = attend(q, k, v, bias)
        return linear(self.proj, out.transpose(1, 2).flatten(2))


class SourceAttention(nn.Module):
    """x (N, K, D) asks keys and values (N, S, 2D) made beforehand; starts as nothing added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_q = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, others: Tensor) -> Tensor:
        (q,) = split_heads(linear(self.to_q, self.norm(x)), self.heads, 1)
        k, v = split_heads(others, self.heads, 2)
        out = F.scaled_dot_product_attention(q, k, v)
        return linear(self.proj, out.transpose(1, 2).flatten(2))


def rows_of(x: Tensor, rows: Tensor | None) -> Tensor:
    """x (N, T, D) at rows (N, M) -> (N, M, D); None: x itself."""
    return x if rows is None else x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[2]))


class Stream(NamedTuple):
    """One of the token sequences that go through a block together."""

    x: Tensor  # (N, K, D)
    bias: Tensor  # (H, K, S) or (N, H, K, S)
    others: Tensor | None = None  # (N, S', 2D) further keys and values
    condition: int = 0  # which of the P conditions
    asking: Tensor | None = None  # (N, M): only these rows go on
    skip: Tensor | None = None  # (N, K, D) an earlier x, for a block that takes one (MDTv2)
    learning: bool = True  # False: no gradient


class Block(nn.Module):
    """A DiT block with adaLN-Zero: attention, then an MLP, both shifted, scaled and gated by c.

    Training sends the unmasked pass, the masked pass and the source view through a block in one
    call: they share its modulation, and whoever shards the weights gathers them once.
    """

    def __init__(
        self,
        width: int,
        attention: SelfAttention | CrossAttention,
        skip: bool = False,
        cross: bool = False,
    ) -> None:
        """``skip``: begins with a Linear over [x, an earlier x]; ``cross``: reads ``others`` by a
        cross-attention of its own, behind the self-attention, instead of beside the own keys."""
        super().__init__()
        self.crosses = cross
        if skip:
            self.skip = nn.Linear(2 * width, width)
        if cross:
            self.cross = SourceAttention(width, attention.heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, c: Tensor | None, *streams: Stream, modulations: Tensor | None = None
    ) -> list[Tensor]:
        """c (P, N, D), or what was made of it before: ``modulations`` (P, N, 6D). Returns each
        stream's x after the block."""
        if modulations is None:
            modulations = self.modulation(c)
        out = []
        for stream in streams:
            modulation = modulations[stream.condition]
            if stream.learning:
                out.append(self._run(stream, modulation))
            else:
                with torch.no_grad():
                    out.append(self._run(stream, modulation))
        return out

    def _run(self, stream: Stream, modulation: Tensor) -> Tensor:
        x, asking = stream.x, stream.asking
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=1)
        if stream.skip is not None:
            x = linear(self.skip, torch.cat([x, stream.skip], dim=2))
        h = modulate(self.norm1(x), shift1, scale1)
        h = self.attention(h, stream.bias, None if self.crosses else stream.others, asking)
        x = rows_of(x, asking) + gate1.unsqueeze(1) * h
        if self.crosses and stream.others is not None:
            x = x + self.cross(x, stream.others)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))
