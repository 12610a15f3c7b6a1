"""The relative position bias as training and sampling compute it: the numbers of
``layers.RelativePositionBias``, with a gradient that suits the device.

The gradient of a gather is a scatter. On a CPU it is the fastest way. On a GPU it is hundreds of
millions of atomic additions into a table of a few thousand entries: slow, and in another order
every time. There the gradient is sums and gathers instead: a table entry is the sum of a diagonal,
and a grid token reads the one row where it was kept.

Legend: N batch, T = s * s tokens of the grid, K of them present, S keys, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.model.layers import RelativePositionBias, relative_position_index


def by_sums(tensor: Tensor) -> bool:
    """Whether gradients on the tensor's device are sums and gathers, not scatters."""
    return tensor.is_cuda


def dense_bias(module: RelativePositionBias, extra_keys: int = 0) -> Tensor:
    """``module(extra_keys=extra_keys)``: (H, T, T + extra_keys)."""
    return module.append_keys(_dense(module.relative_position_bias_table, module.side), extra_keys)


def stacked_bias(modules: Sequence[RelativePositionBias], extra_keys: int = 0) -> Tensor:
    """``dense_bias`` of L modules: (L, H, T, T + extra_keys)."""
    table = torch.cat([module.relative_position_bias_table for module in modules], dim=1)
    bias = _dense(table, modules[0].side).unflatten(0, (len(modules), -1))
    if not extra_keys:
        return bias
    return torch.stack(
        [module.append_keys(b, extra_keys) for module, b in zip(modules, bias, strict=True)]
    )


def bias_of_pairs(bias: Tensor, ids: Tensor) -> Tensor:
    """bias (H, T, T) among the tokens ids (N, K) of each row: (N, H, K, K)."""
    if by_sums(bias):
        return _GatherBias.apply(bias, ids, False)
    return _at(bias, ids, ids)


def bias_of_queries(bias: Tensor, ids: Tensor) -> Tensor:
    """bias (H, T, T) from the tokens ids (N, K) of each row to all: (N, H, K, T)."""
    if by_sums(bias):
        return _GatherBias.apply(bias, ids, True)
    return _at(bias, ids, torch.arange(bias.shape[2], device=ids.device)[None])


def _at(bias: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """bias (H, T, T) at queries (N, K) and keys (N or 1, S): (N, H, K, S)."""
    places = queries[:, :, None] * bias.shape[2] + keys[:, None, :]  # (N, K, S)
    found = bias.flatten(1).gather(1, places.reshape(1, -1).expand(len(bias), -1))
    return found.reshape(len(bias), *places.shape).transpose(0, 1)


def _dense(table: Tensor, side: int) -> Tensor:
    """table ((2s - 1)^2 + 3, H) -> (H, T, T)."""
    if not by_sums(table):
        # along the last axis of the transposed table: faster, forwards and backwards, than rows
        index = relative_position_index(side, table.device)  # (T, T)
        found = table.t().gather(1, index.reshape(1, -1).expand(table.shape[1], -1))
        return found.reshape(-1, *index.shape)
    # Along each axis entry (q, k) is the table's at q - k + s - 1: for every query the same row,
    # shifted by one. A row that is padded by one period and reshaped shifts itself.
    offsets = table[: (2 * side - 1) ** 2].t().reshape(-1, 2 * side - 1, 2 * side - 1)
    x = _windows(offsets, side)  # (H, dy, x query, x key)
    x = _windows(x.permute(0, 2, 3, 1), side)  # (H, x query, x key, y query, y key)
    return x.permute(0, 3, 1, 4, 2).reshape(-1, side * side, side * side)


def _windows(x: Tensor, side: int) -> Tensor:
    """(..., 2s - 1) -> (..., s, s): entry (i, j) is x[..., i - j + s - 1]."""
    rows = x.unsqueeze(-2).expand(*x.shape[:-1], side, 2 * side - 1)
    rows = F.pad(rows.flatten(-2), (0, side))  # s rows of 2s - 1 values, cut into s rows of 2s
    return rows.unflatten(-1, (side, 2 * side))[..., :side].flip(-1)  # (i, a): x[i + a]


class _GatherBias(torch.autograd.Function):
    """(bias (H, T, T), ids (N, K)) -> (N, H, K, K), or (N, H, K, T) with ``all_keys``."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, ids: Tensor, all_keys: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.tokens, ctx.all_keys = bias.shape[1], all_keys
        return bias[:, ids].transpose(0, 1) if all_keys else _at(bias, ids, ids)

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
