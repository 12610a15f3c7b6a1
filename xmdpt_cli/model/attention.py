"""Attention with a learned relative-position bias, and the adaLN-Zero block around it.

Legend: N batch, T tokens of the grid, K tokens that are there (T, or the kept ones), S keys,
D width, H heads, d = D / H, P conditions side by side, s grid side (T = s * s).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model import products
from xmdpt_cli.model.layers import Mlp, linear, modulate


def relative_index(side: int) -> Tensor:
    """(T, T) rows of the bias table for query minus key, BEiT's numbering."""
    # no weight: it is there also in a model that is built on the meta device
    places = torch.arange(side, device="cpu")
    y, x = torch.meshgrid(places, places, indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + side - 1
    dx = x[:, None] - x[None, :] + side - 1
    return dy * (2 * side - 1) + dx


class RelativeBias(nn.Module):
    """Learned biases of ``blocks`` attentions in one table: (blocks * H, (2s-1)^2 + 3).

    The published model has a table a block, transposed. In one they are gathered, and their
    gradients added up, at once. The last three entries are BEiT's, for a class token; the
    published model never reads them. Keys that are no tokens of this grid (``others`` of them: the
    source view's, in our "tokens" conditioning) take the first of those as their bias: bodies
    move, so distance says nothing.
    """

    index: Tensor

    def __init__(self, side: int, heads: int, blocks: int, others: int = 0) -> None:
        super().__init__()
        self.heads, self.blocks, self.others = heads, blocks, others
        self.far = (2 * side - 1) ** 2
        self.table = nn.Parameter(torch.zeros(blocks * heads, self.far + 3))
        self.register_buffer("index", relative_index(side), persistent=False)
        self._cache: tuple[tuple[object, ...], Tensor] | None = None

    def joined(self, views: int) -> Tensor:
        """``forward`` for the others of several views of a person, (blocks, H, T, T + views *
        others): each weighs 1 / views, so that a view given twice is that view given once."""
        whole = self()
        if views == 1 or not self.others:
            return whole
        own, others = whole.split((whole.shape[-1] - self.others, self.others), dim=-1)
        return torch.cat([own, (others - math.log(views)).repeat(1, 1, 1, views)], dim=-1)

    def forward(self) -> Tensor:
        """All biases (blocks, H, T, T + others); in eval mode made anew only when the table
        changes."""
        if self.training or (torch.is_grad_enabled() and self.table.requires_grad):
            # never cached in training: fused optimizers change weights without raising _version
            self._cache = None
            return self._gather(self.table, self.index)
        stamp = (self.table.data_ptr(), self.table._version, self.table.dtype, self.table.device)
        if self._cache is None or self._cache[0] != stamp:
            self._cache = (stamp, self._gather(self.table, self.index))
        return self._cache[1]

    def between(self, queries: Tensor, keys: Tensor | None = None) -> Tensor:
        """Places in the table for each row's own tokens: queries (N, K), keys (N, S), positions
        on the grid -> (N, K, S). Without keys: all tokens."""
        rows = self.index[queries]  # (N, K, T)
        if keys is None:
            return rows
        return rows.gather(2, keys[:, None, :].expand(-1, queries.shape[1], -1))

    def pick(self, block: int, places: Tensor) -> Tensor:
        """One block's bias at ``places`` (see ``between``): (N, H, K, S + others), or (H, ...)
        where the places (K, S) are the same for all rows."""
        table = self.table[block * self.heads : (block + 1) * self.heads]
        bias = self._gather(table, places)[0]
        return bias if places.dim() == 2 else bias.transpose(0, 1)

    def _gather(self, table: Tensor, places: Tensor) -> Tensor:
        """(B * H, rows) at places (...) -> (B, H, ..., with the others behind)."""
        # along the table's last axis, the same places for every head: several times faster,
        # forwards and backwards, than rows of heads picked and transposed
        flat = places.reshape(1, -1).expand(len(table), -1)
        bias = table.gather(1, flat).reshape(-1, self.heads, *places.shape)
        if not self.others:
            return bias
        far = table[:, self.far].reshape(-1, self.heads, *[1] * places.dim())
        return torch.cat([bias, far.expand(*bias.shape[:-1], self.others)], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    q (N, H, K, d), k and v (N, H, S, d), bias (H, K, S) or (N, H, K, S).
    """
    if bias.requires_grad and torch.is_grad_enabled() and q.device.type == "cpu":
        # No fused CPU kernel gives the bias a gradient, and SDPA's fallback also guards against
        # rows that are masked out altogether, which costs as much as the softmax itself.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.to(q.dtype)
        return scores.softmax(dim=-1) @ v
    # four dimensions: with three no fused kernel takes it
    mask = bias.to(q.dtype).expand(len(q), *bias.shape[-3:])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


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
