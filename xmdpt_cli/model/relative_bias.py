"""The learned relative-position bias of attention, and its gradients without atomic additions.

A gather's own gradient is a scatter: on a GPU hundreds of millions of atomic additions into a
table of a thousand entries, slow and in another order every time. Here gradients are gathers and
sums, too: that of a table entry sums a diagonal, that of a token reads the one row it was kept in.

Legend: N batch, T tokens of the grid, K tokens that are there (T, or the kept ones), D width,
H heads, S further keys that are no tokens of the grid, s grid side (T = s * s).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        self.side, self.heads, self.blocks, self.others = side, heads, blocks, others
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
            return self._gather()
        stamp = (self.table.data_ptr(), self.table._version, self.table.dtype, self.table.device)
        if self._cache is None or self._cache[0] != stamp:
            self._cache = (stamp, self._gather())
        return self._cache[1]

    def _gather(self) -> Tensor:
        own: Tensor = _FromTable.apply(self.table, self.index, self.side)
        own = own.unflatten(0, (self.blocks, self.heads))
        if not self.others:
            return own
        far = self.table[:, self.far].reshape(self.blocks, self.heads, 1, 1)
        return torch.cat([own, far.expand(*own.shape[:-1], self.others)], dim=-1)


def bias_among(bias: Tensor, tokens: Tensor, all_keys: bool = False) -> Tensor:
    """One block's bias (H, T, T + S) among each row's own tokens, (N, H, K, K + S).

    tokens (N, K): positions on the grid, each at most once a row. ``all_keys``: their queries meet
    the keys of all tokens, (N, H, K, T + S).
    """
    count = bias.shape[1]
    own: Tensor = _AmongTokens.apply(bias[..., :count], tokens, all_keys)
    if bias.shape[2] == count:
        return own
    others = bias[:, :1, count:]  # (H, 1, S): the same for every query
    return torch.cat([own, others.expand(*own.shape[:-1], -1)], dim=-1)


class _FromTable(torch.autograd.Function):
    """(table (B, R), index (T, T), s) -> table[:, index], (B, T, T)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, side: int) -> Tensor:
        ctx.side, ctx.entries = side, table.shape[1]
        # along the last axis, the same places for every row: faster than rows picked
        flat = index.reshape(1, -1).expand(len(table), -1)
        return table.gather(1, flat).reshape(-1, *index.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        side = ctx.side
        grid = grads[0].reshape(-1, side, side, side, side)  # query y, x, key y, x
        by_y = diagonal_sums(grid.permute(0, 2, 4, 1, 3))  # (B, query x, key x, 2s-1)
        table = diagonal_sums(by_y.permute(0, 3, 1, 2)).flatten(1)  # (B, (2s-1)^2)
        return F.pad(table, (0, ctx.entries - table.shape[1])), None, None


def diagonal_sums(x: Tensor) -> Tensor:
    """(..., s, s) -> (..., 2s-1): entry i - j + s - 1 is the sum of all x[..., i, j] with that
    difference."""
    side = x.shape[-1]
    # rows of s values and s zeros, read in rows of 2s - 1: row i begins i places further right
    padded = F.pad(x.flip(-1), (0, side)).flatten(-2)
    return padded[..., : side * (2 * side - 1)].unflatten(-1, (side, 2 * side - 1)).sum(-2)


class _AmongTokens(torch.autograd.Function):
    """(bias (H, T, T), tokens (N, K)) -> (N, H, K, K), or (N, H, K, T) with ``all_keys``."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, tokens: Tensor, all_keys: bool) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.count, ctx.all_keys = bias.shape[1], all_keys
        if all_keys:
            return bias[:, tokens].transpose(0, 1)
        places = tokens[:, :, None] * bias.shape[1] + tokens[:, None, :]  # (N, K, K)
        flat = bias.flatten(1).gather(1, places.reshape(1, -1).expand(len(bias), -1))
        return flat.reshape(len(bias), *places.shape).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (tokens,) = grads, ctx.saved_tensors
        grad = _to_grid(grad, tokens, ctx.count, 2)
        if not ctx.all_keys:
            grad = _to_grid(grad, tokens, ctx.count, 3)
        return grad.sum(0), None, None


def _to_grid(x: Tensor, tokens: Tensor, count: int, dim: int) -> Tensor:
    """x (N, H, ., .), whose entry i along ``dim`` is of token ``tokens`` (N, K)[i], by token:
    ``count`` entries, zeros where a token is none of them."""
    present = tokens.shape[1]
    ranks = torch.arange(present, device=tokens.device).expand_as(tokens)
    rank = tokens.new_full((len(tokens), count), -1).scatter(1, tokens, ranks)  # -1: absent
    rank = rank[:, None, :, None] if dim == 2 else rank[:, None, None, :]
    shape = [*x.shape]
    shape[dim] = count
    found = x.gather(dim, rank.clamp(min=0).expand(shape))
    return torch.where(rank >= 0, found, found.new_zeros(()))
