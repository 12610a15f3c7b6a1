"""What pictures are drawn from: a pose and one or more views of a person, as the model sees them.

Legend: N pictures, K views of a person, C latent channels, L DINOv2 tokens, H = W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.data.loader import Batch
from xmdpt_cli.encoders.vae import posterior_mean

# (a tensor, the axis of its N) -> what stands in its place
Change = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Conditions:
    """Of N pictures; on any device."""

    pose_tokens: Tensor  # (N, L, 768) DINOv2-B tokens of the pose picture
    source_tokens: Tensor  # (K, N, L, 1536) DINOv2-G tokens of the person's views
    source_latents: Tensor  # (K, N, C, h, w), scaled
    pose_map: Tensor | None = None  # (N, 3, H, W) in [0, 1]; for ``conditioning="tokens"``
    source_pose_map: Tensor | None = None  # (K, N, 3, H, W)

    @classmethod
    def of_batch(cls, batch: Batch, scale: float) -> Conditions:
        """Of a batch of a prepared dataset: one view each. ``scale``: of the latents."""
        maps = batch.pose_maps(torch.device("cpu"))
        return cls(
            batch.pose_tokens,
            batch.source_tokens[None],
            posterior_mean(batch.source_moments, scale)[None],
            None if maps is None else maps[0],
            None if maps is None else maps[1][None],
        )

    @classmethod
    def join(cls, parts: Sequence[Conditions]) -> Conditions:
        """One after the other, with as many views each."""

        def joined(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors, int(_is_source(name)))

        whole: dict[str, Any] = {name: joined(name) for name in vars(parts[0])}
        return cls(**whole)

    def to(self, device: torch.device | str) -> Conditions:
        return self._each(lambda part, _: part.to(device))

    def rows(self, which: slice | list[int]) -> Conditions:
        """Some of the N pictures."""
        return self._each(lambda part, axis: part[which] if axis == 0 else part[:, which])

    def views(self, which: list[list[int]]) -> Conditions:
        """Some of the K views: each is a view of each of the N pictures."""
        taken, every = torch.tensor(which), torch.arange(len(self.pose_tokens))
        return self._each(lambda part, axis: part[taken, every] if axis else part)

    def _each(self, change: Change) -> Conditions:
        changed: dict[str, Any] = {
            name: None if part is None else change(part, int(_is_source(name)))
            for name, part in vars(self).items()
        }
        return Conditions(**changed)


def _is_source(name: str) -> bool:
    """Whether a part's first axis is that of the K views."""
    return name.startswith("source_")
