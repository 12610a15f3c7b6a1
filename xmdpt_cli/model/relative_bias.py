"""The relative position bias without atomic additions in its gradient.

The gradient of a gather is a scatter: on a GPU hundreds of millions of atomic additions into a
table of a few thousand entries, slow and in another order every time. Here it is sums and gathers:
a table entry sums a diagonal, a token reads the one row where it was kept.

Legend: N batch, T = s * s tokens of the grid, K of them present, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.model.layers import RelativePositionBias


def dense_bias(module: RelativePositionBias, extra_keys: int = 0) -> Tensor:
    """``module(extra_keys=extra_keys)``, (H, T, T + extra_keys), without an index.

    Along each axis entry (q, k) is the table's at q - k + s - 1: for every query the same row,
    shifted by one. A row that is padded by one period and reshaped shifts itself.
    """
    s = module.side
    table = module.relative_position_bias_table[: (2 * s - 1) ** 2]
    offsets = table.t().reshape(-1, 2 * s - 1, 2 * s - 1)  # (H, dy, dx)
    x = _windows(offsets, s)  # (H, dy, x query, x key)
    x = _windows(x.permute(0, 2, 3, 1), s)  # (H, x query, x key, y query, y key)
    bias = x.permute(0, 3, 1, 4, 2).reshape(-1, s * s, s * s)
    return module.append_keys(bias, extra_keys)


def _windows(x: Tensor, side: int) -> Tensor:
    """(..., 2s - 1) -> (..., s, s): entry (i, j) is x[..., i - j + s - 1]."""
    rows = x.unsqueeze(-2).expand(*x.shape[:-1], side, 2 * side - 1)
    rows = F.pad(rows.flatten(-2), (0, side))  # s rows of 2s - 1 values, cut into s rows of 2s
    return rows.unflatten(-1, (side, 2 * side))[..., :side].flip(-1)  # (i, a): x[i + a]


def bias_of_pairs(bias: Tensor, ids: Tensor) -> Tensor:
    """bias (H, T, T) among the tokens ids (N, K) of each row: (N, H, K, K)."""
    return _GatherBias.apply(bias, ids, False)


def bias_of_queries(bias: Tensor, ids: Tensor) -> Tensor:
    """bias (H, T, T) from the tokens ids (N, K) of each row to all: (N, H, K, T)."""
    return _GatherBias.apply(bias, ids, True)


class _GatherBias(torch.autograd.Function):
    """(bias (H, T, T), ids (N, K)) -> (N, H, K, K), or (N, H, K, T) with ``all_keys``."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, ids: Tensor, all_keys: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.tokens, ctx.all_keys = bias.shape[1], all_keys
        if all_keys:
            return bias[:, ids].transpose(0, 1)
        pairs = ids[:, :, None] * bias.shape[1] + ids[:, None, :]  # (N, K, K)
        flat = bias.flatten(1).gather(1, pairs.reshape(1, -1).expand(len(bias), -1))
        return flat.reshape(len(bias), *pairs.shape).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,), (ids,) = grads, ctx.saved_tensors
        grad = _to_grid(grad, ids, ctx.tokens, 2)
        if not ctx.all_keys:
            grad = _to_grid(grad, ids, ctx.tokens, 3)
        return grad.sum(0), None, None


def _to_grid(x: Tensor, ids: Tensor, tokens: int, dim: int) -> Tensor:
    """x (N, H, ., .), whose entry i along ``dim`` belongs to token ids[n, i], with an entry a
    token: zero where a token is absent."""
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    place = ids.new_full((len(ids), tokens), -1).scatter(1, ids, places)  # -1: absent
    place = place[:, None, :, None] if dim == 2 else place[:, None, None, :]
    shape = [*x.shape]
    shape[dim] = tokens
    found = x.gather(dim, place.clamp(min=0).expand(shape))
    return torch.where(place >= 0, found, found.new_zeros(()))
