"""Rotary positions (RoFormer, arXiv 2104.09864): queries and keys are rotated by angles that follow
from their place, so that their product depends on the offset of the two alone.

In two dimensions as "axial" in arXiv 2403.13298: half of a head's pairs of features turn
with the row, half with the column; pair t of the d / 4 of an axis turns by 100^(-t / (d / 4)) a
token. A token of the source stands where it stands in its own image, in every view.

Legend: N batch, T = s * s tokens of the grid, K of them present, S source tokens of V views (V T),
H heads, d features of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BASE = 100.0  # arXiv 2403.13298; texts have longer sequences, and 10000


class Positions(NamedTuple):
    """The places of the tokens, in the form in which attention reads them: a bias or rotations."""

    bias: Tensor | None = None  # (..., H, K, K + S), added to the scores
    queries: Tensor | None = None  # (..., K, d) rotations of the queries
    keys: Tensor | None = None  # (..., K + S, d) of the keys

    def of_block(self, block: int) -> Positions:
        """One block's, of a bias with all blocks in front and of rotations that they share."""
        return self if self.bias is None else self._replace(bias=self.bias[block])

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q (N, H, K, d) and k (N, H, K + S, d), rotated if there are rotations."""
        if self.queries is None or self.keys is None:
            return q, k
        return rotate(q, self.queries), rotate(k, self.keys)


def rotary_positions(
    side: int,
    features: int,
    ids_keep: Tensor | None = None,
    extra_keys: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Positions:
    """The rotations of heads with ``features`` on a grid, as ``RelativePositionBias`` gives biases:
    of all tokens, or of those kept, ids (N, K); with ``extra_keys`` = S source tokens."""
    table = rotary_table(side, features, dtype=dtype, device=device)  # (T, d)
    views, own = extra_keys // len(table), table
    if ids_keep is not None:
        own = table[ids_keep].unsqueeze(1)  # (N, 1, K, d): for all heads
    if not views:
        return Positions(None, own, own)
    keys = torch.cat([own, table.repeat(views, 1).expand(*own.shape[:-2], -1, -1)], dim=-2)
    bias = None
    if views > 1:  # each weighs 1 / V, as in RelativePositionBias; one view needs no mask
        bias = keys.new_zeros(keys.shape[-2])
        bias[-extra_keys:] = -math.log(views)
        bias = bias[None, None]  # (1, 1, K + S)
    return Positions(bias, own, keys)


def rotary_table(
    side: int,
    features: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(T, d) in ``dtype``, float32 at least: the cosines of the d / 2 angles, then their sines."""
    assert features % 4 == 0, "two axes with pairs of features need a multiple of 4"
    places = torch.arange(side, dtype=torch.float64, device=device)
    t = torch.arange(features // 4, dtype=torch.float64, device=device)
    angles = places[:, None] * BASE ** (-t / (features // 4))  # (s, d / 4)
    rows = angles[:, None].expand(side, side, -1)
    columns = angles[None].expand(side, side, -1)
    angle = torch.cat([rows, columns], dim=2).flatten(0, 1)  # (T, d / 2)
    table = torch.cat([angle.cos(), angle.sin()], dim=1)
    return table.to(torch.promote_types(dtype, torch.float32))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """x (N, H, K, d) by table (..., K, d): features i and i + d / 2 turn together."""
    cos, sin = table.chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
