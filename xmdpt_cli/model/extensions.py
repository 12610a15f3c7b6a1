"""What X-MDPT as published does not have: source tokens in attention, and the guidance scale
as an input. (REPA: ``repa.py``.)

MDTv2's long skips need no module of their own: see ``skip`` in ``layers.Block`` and ``TDNet``.

Legend: N batch, T tokens of the latent grid, S source tokens of all views (V T), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model.layers import PatchEmbed, timestep_features


class TokenConditions(NamedTuple):
    """What ``conditioning="tokens"`` adds to the condition vector. It does not depend on the
    timestep: it is computed once per image."""

    pose: Tensor  # (N, T, D) the target's pose map, added to the noisy tokens
    kv: Tensor  # (N, S, depth * 2D) keys and values of the source, block by block

    def keep(self, rows: Tensor | None) -> TokenConditions:
        """With the rows zeroed that lose their conditions; rows (N,) bool, None: all are kept."""
        if rows is None:
            return self
        kept = rows.to(self.pose.dtype)[:, None, None]
        return TokenConditions(self.pose * kept, self.kv * kept)

    @classmethod
    def join(cls, views: Sequence[TokenConditions]) -> TokenConditions:
        """Several views of the same person for the same pose: their source tokens side by side."""
        return cls(views[0].pose, torch.cat([view.kv for view in views], dim=1))


class TokenConditioner(nn.Module):
    """Source latents and pose maps -> ``TokenConditions``: our extension of the paper.

    A single vector cannot tell where a sleeve's colour is. Here self-attention reads the source's
    latents as further keys and values, and the pose map is added to the noisy tokens. Of the forms
    that were compared (docs/experiments.md) this one won.
    """

    def __init__(self, width: int, depth: int, channels: int, patch: int, pose_patch: int) -> None:
        super().__init__()
        self.source_embed = PatchEmbed(channels, width, patch)
        self.pose_embed = PoseEmbed(width, pose_patch)
        self.source_norm = nn.LayerNorm(width, eps=1e-6)
        self.source_kv = nn.Linear(width, depth * 2 * width)

    def forward(
        self, source_latents: Tensor, pose_map: Tensor, source_pose_map: Tensor, pos_embed: Tensor
    ) -> TokenConditions:
        """(N, C, h, w), (N, 3, H, W), (N, 3, H, W), (1, T, D)."""
        # one embedding for both poses: tokens of one body part find each other in both views
        pose, source_pose = self.pose_embed(torch.cat([pose_map, source_pose_map])).chunk(2)
        source = self.source_embed(source_latents) + pos_embed + source_pose  # (N, T, D)
        return TokenConditions(pose, self.source_kv(self.source_norm(source)))


class PoseEmbed(nn.Module):
    """A pose map (N, 3, H, W) -> (N, T, D).

    A patch inside a body holds no limb, so a token must know its neighbours' patches: two residual
    3 x 3 convolutions reach two patches far.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patches = PatchEmbed(3, width, patch)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, pose_map: Tensor) -> Tensor:
        x = self.patches.proj(pose_map)  # (N, D, s, s)
        for conv in self.convs:
            x = x + conv(F.silu(x))
        return x.flatten(2).transpose(1, 2)


class GuidanceEmbedder(nn.Module):
    """The guidance scale as an input: (N,) -> (N, D), added to the timestep's embedding.

    A distilled model predicts with guidance in one evaluation (Meng et al. 2023, arXiv 2210.03142,
    sec. 3.1). Its output is 0 before training, so a student starts as its teacher without guidance.
    """

    FEATURES = 64  # sinusoidal
    RESOLUTION = 10.0  # radians per unit of the scale, of the highest frequency

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(self.FEATURES, width)

    def forward(self, cfg_scales: Tensor) -> Tensor:
        features = timestep_features(self.RESOLUTION * cfg_scales, self.FEATURES)
        return self.linear(features.to(self.linear.weight.dtype))
