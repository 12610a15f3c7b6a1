"""``conditioning="tokens"``, our extension: what reaches the blocks besides the vector.

The paper's single vector is a bottleneck: it cannot tell where a sleeve's colour is. Here the
source's tokens are read by attention and the pose is laid on the noisy tokens. The forms below
are those that were compared (``python -m xmdpt_cli.bench.conditioning``); the defaults won.

Legend: N batch, T tokens of the latent grid, L DINOv2 tokens, S tokens of the source in all,
D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.layers import PatchEmbed, PoseEmbed, linear


@dataclass(frozen=True)
class Forms:
    """Which tokens there are and how they are read."""

    source: str = "latents"  # "latents", "dino" (the source's DINOv2 tokens), "both", "none"
    source_by: str = "keys"  # "keys" beside the own ones, "cross"-attention, in the "sequence"
    pose: str = "add"  # to the noisy tokens: "add", "concat"; "keys": by attention; "none"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("source", ("latents", "dino", "both", "none")),
            ("source_by", ("keys", "cross", "sequence")),
            ("pose", ("add", "concat", "keys", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"token {name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        if self.source == "none" and self.pose == "none":
            raise ConfigError("conditioning 'tokens' without source and pose has no tokens")

    @property
    def attends(self) -> bool:
        """Whether there are tokens to attend to."""
        return self.source != "none" or self.pose == "keys"


class Context(NamedTuple):
    """What ``conditioning="tokens"`` adds to the vector.

    Keys and values stay as they are from step to step: they are made once a picture.
    """

    pose: Tensor | None = None  # (N, T, D) the pose map on the latent grid
    keys: Tensor | None = None  # (N, S, depth * 2D) keys and values, block by block
    tokens: Tensor | None = None  # (N, S, D) tokens that join the sequence

    def where(self, known: Tensor) -> Context:
        """known (N, 1, 1): 0 where a row has lost its conditions."""
        return Context(*(None if part is None else known * part for part in self))

    @classmethod
    def join(cls, views: Sequence[Context]) -> Context:
        """Of several views of the same person in the same pose: their tokens side by side."""
        first = views[0]
        if len(views) == 1:
            return first
        keys = tokens = None
        if first.keys is not None:
            keys = torch.cat([view.keys for view in views if view.keys is not None], dim=1)
        if first.tokens is not None:
            tokens = torch.cat([view.tokens for view in views if view.tokens is not None], dim=1)
        return cls(first.pose, keys, tokens)

    def views(self, others: int) -> int:
        """How many views were joined; ``others``: the source tokens of one."""
        held = self.tokens if self.keys is None else self.keys
        return 1 if held is None or not others else held.shape[1] // others

    def detach(self) -> Context:
        return Context(*(None if part is None else part.detach() for part in self))


class TokenConditions(nn.Module):
    """Source latents, DINOv2 tokens and pose maps -> ``Context``."""

    def __init__(
        self,
        forms: Forms,
        *,
        width: int,
        depth: int,
        tokens: int,
        channels: int,
        patch: int,
        pose_patch: int,
        source: tuple[int, int],
    ) -> None:
        """``source`` is (length L, feature width) of the source's DINOv2 tokens."""
        super().__init__()
        self.forms = forms
        self.others = 0  # S
        if forms.source in ("latents", "both"):
            self.source_embed = PatchEmbed(channels, width, patch)
            self.others += tokens
        if forms.source in ("dino", "both"):
            self.dino_embed = nn.Linear(source[1], width)
            self.others += source[0]
        if forms.pose == "keys":
            self.others += tokens
        # the source's own pose tells the tokens of one body part in both views that they belong
        # together: one embedding for both poses, like finds like
        if forms.pose != "none":
            self.pose_embed = PoseEmbed(width, pose_patch)
        if forms.pose == "concat":
            self.pose_join = nn.Linear(2 * width, width)
        if forms.attends:
            self.source_norm = nn.LayerNorm(width, eps=1e-6)
            if forms.source_by != "sequence":
                self.source_kv = nn.Linear(width, depth * 2 * width)

    def forward(
        self,
        source_latents: Tensor,
        source_tokens: Tensor | None,
        pose_map: Tensor,
        source_pose_map: Tensor,
        position: Tensor,
    ) -> Context:
        """Shapes as in ``XMDPT.context``; position (1, T, D)."""
        forms, pose, source_pose = self.forms, None, None
        if forms.pose != "none":
            both = self.pose_embed(torch.cat([pose_map, source_pose_map]))
            pose, source_pose = both.chunk(2)
        sets = []  # (N, S_i, D) each
        if forms.source in ("latents", "both"):
            tokens = self.source_embed(source_latents) + position
            sets.append(tokens if source_pose is None else tokens + source_pose)
        if forms.source in ("dino", "both"):
            assert source_tokens is not None
            sets.append(self.dino_embed(source_tokens.to(position.dtype)))
        if forms.pose == "keys":
            assert pose is not None
            sets.append(pose + position)
        on_tokens = pose if forms.pose in ("add", "concat") else None
        if not sets:
            return Context(on_tokens)
        normed = self.source_norm(torch.cat(sets, dim=1))  # (N, S, D)
        if forms.source_by == "sequence":
            return Context(on_tokens, tokens=normed)
        return Context(on_tokens, keys=linear(self.source_kv, normed))

    def lay(self, x: Tensor, pose: Tensor | None) -> Tensor:
        """The pose (N, T, D) on the noisy tokens x (N, T, D)."""
        if pose is None:
            return x
        if self.forms.pose == "concat":
            return x + self.pose_join(torch.cat([x, pose], dim=2))
        return x + pose
