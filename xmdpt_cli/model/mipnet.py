"""The masked pass's helper: masked tokens are predicted from kept ones and from the source view.

Legend: N batch, T grid tokens, K kept and M masked ones (K + M = T), D width, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.attention import (
    Block,
    CrossAttention,
    SelfAttention,
    Stream,
    rows_of,
)
from xmdpt_cli.model.relative_bias import RelativeBias, bias_among

#: blocks in order (paper Table 2d); "self" alone is MDT's side interpolater
PREDICTORS: dict[str, tuple[str, ...]] = {
    "none": (),
    "self": ("self",),
    "cross": ("cross",),
    "cross-self": ("cross", "self"),
    "self-cross": ("self", "cross"),  # MIPNet as published
}


class Mask(NamedTuple):
    """Which tokens a masked pass sees, positions on the grid in ascending order of their noise."""

    kept: Tensor  # (N, K)
    hidden: Tensor  # (N, M)

    @classmethod
    def draw(cls, token_noise: Tensor, ratio: float) -> Mask:
        """token_noise (N, T), uniform in [0, 1): the int(T (1 - ratio)) smallest are kept."""
        order = token_noise.argsort(dim=1, stable=True)
        count = int(token_noise.shape[1] * (1 - ratio))
        return cls(order[:, :count], order[:, count:])


class MIPNet(nn.Module):
    """Mask-based inter-prediction (paper sec. 3): by default a self- and a cross-attention block.

    Training only; half of what it learns is thrown away with it, the rest stays in TDNet.
    ``order`` is a key of ``PREDICTORS``.
    """

    def __init__(self, width: int, heads: int, grid: int, order: str = "self-cross") -> None:
        super().__init__()
        if not PREDICTORS.get(order):
            raise ConfigError(f"no such mask predictor: {order!r}")
        self.order = PREDICTORS[order]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        if "self" in self.order:
            self.self_block = Block(width, SelfAttention(width, heads))
        if "cross" in self.order:
            self.cross_block = Block(width, CrossAttention(width, heads))
        self.bias = RelativeBias(grid, heads, len(self.order))

    @property
    def reads_source(self) -> bool:
        return "cross" in self.order

    def forward(
        self,
        kept_tokens: Tensor,
        mask: Mask,
        position: Tensor,
        source: Tensor | None,
        c: Tensor,
        condition: int = 0,
    ) -> Tensor:
        """kept_tokens (N, K, D), position (1, T, D), source (N, T, D) if ``reads_source``,
        c (P, N, D) of which ``condition`` counts.

        Returns (N, T, D): kept positions as they came (with ``position`` added), the others new.
        """
        n, _, width = kept_tokens.shape
        x = self.mask_token.to(kept_tokens.dtype).expand(n, position.shape[1], width)
        whole = x.scatter(1, _wide(mask.kept, width), kept_tokens) + position
        if not mask.hidden.shape[1]:
            return whole
        whole_bias = self.bias().unbind(0)  # (H, T, T) a block
        x, everywhere = whole, True  # a block's kept rows matter if a self block reads them later
        for number, kind in enumerate(self.order):
            needed = "self" in self.order[number + 1 :]
            asking = None if needed or not everywhere else mask.hidden
            bias = whole_bias[number]
            if not needed:
                bias = bias_among(bias, mask.hidden, all_keys=True)
            if kind == "self":
                stream = Stream(x, bias, condition=condition, asking=asking)
                (x,) = self.self_block(c, stream)
            else:
                stream = Stream(rows_of(x, asking), bias, source, condition)
                (x,) = self.cross_block(c, stream)
            everywhere = needed
        return whole.scatter(1, _wide(mask.hidden, width), x.to(whole.dtype))


def _wide(rows: Tensor, width: int) -> Tensor:
    return rows.unsqueeze(-1).expand(-1, -1, width)
