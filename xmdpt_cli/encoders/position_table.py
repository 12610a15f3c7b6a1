"""Resizing of DINOv2's position table to the grid of patches of the input.

A checkpoint has a table for 37 x 37 patches (518 px); 224 px are 16 x 16 patches, so the table is
resized, bicubically and without antialiasing. Two versions are in use: torch.hub's DINOv2, which
the published code calls, samples it at the scale (16 + 0.1) / 37; transformers from 4.48 on at
16 / 37. The tokens differ by 1.3 to 1.8 % (rms).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.encoders.identity import HUB, TRANSFORMERS
from xmdpt_cli.errors import XmdptError

OFFSET = 0.1  # torch.hub's interpolate_offset, in patches


def resize_table(table: Tensor, grid: int, kind: str = HUB) -> Tensor:
    """Table (1, 1 + S * S, D), CLS first -> (1, 1 + grid * grid, D), of the same type.

    ``kind``: HUB or TRANSFORMERS. The CLS position is kept; a table of that grid is returned
    unchanged. XmdptError for a table that is not square, or another ``kind``.
    """
    if kind not in (HUB, TRANSFORMERS):
        raise XmdptError(
            f"DINOv2's position table is recorded as {kind!r}, which this version does not know",
            "pip install --upgrade xmdpt-cli",
        )
    positions, width = table.shape[1] - 1, table.shape[2]
    side = math.isqrt(positions)
    if side * side != positions or positions < 1:
        raise XmdptError(
            f"this DINOv2 has {positions} patch positions, which is not a square grid",
            "use one of facebook/dinov2-small, -base, -large or -giant",
        )
    if side == grid:
        return table
    patches = table[:, 1:].float().reshape(1, side, side, width).permute(0, 3, 1, 2)
    if kind == HUB:
        # output position i is read at (i + 0.5) / scale - 0.5; floor(side * scale) of them: grid
        scale = (grid + OFFSET) / side
        patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    else:
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    assert patches.shape[2:] == (grid, grid)
    patches = patches.permute(0, 2, 3, 1).reshape(1, grid * grid, width).to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)
