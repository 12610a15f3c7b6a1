"""The model's conditions: a pose and one or more views of a person, encoded.

Shapes: N images, K views of a person, C latent channels, L DINOv2 tokens, H = W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.data.loader import Batch
from xmdpt_cli.encoders.bundle import moments_of, pose_tokens_of, source_tokens_of
from xmdpt_cli.encoders.vae import posterior_mean
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.pose.drawing import draw_pose, draw_pose_map
from xmdpt_cli.sampling.inputs import Pose, View

if TYPE_CHECKING:
    from xmdpt_cli.sampling.encoders import LazyEncoders
    from xmdpt_cli.sampling.sampler import Sampler


@dataclass(frozen=True)
class Conditions:
    """The conditions of N images, on any device."""

    pose_tokens: Tensor  # (N, L, 768) DINOv2-B tokens of the pose image
    source_tokens: Tensor  # (K, N, L, 1536) DINOv2-G tokens of the person's views
    source_latents: Tensor  # (K, N, C, h, w), scaled
    pose_map: Tensor | None = None  # (N, 3, H, W) in [0, 1]; for ``conditioning="tokens"``
    source_pose_map: Tensor | None = None  # (K, N, 3, H, W)

    @classmethod
    def of_batch(cls, batch: Batch, scale: float) -> Conditions:
        """The conditions of a dataset's batch, one view each. ``scale``: of the latents."""
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
        """Concatenate the images of all parts, which have the same number of views."""
        joined: dict[str, Any] = {
            name: None
            if value is None
            else torch.cat([getattr(part, name) for part in parts], _axis(name))
            for name, value in vars(parts[0]).items()
        }
        return cls(**joined)

    def to(self, device: torch.device | str) -> Conditions:
        return self._each(lambda part, _: part.to(device))

    def rows(self, which: slice | list[int]) -> Conditions:
        """The conditions of some of the N images."""
        return self._each(lambda part, axis: part[which] if axis == 0 else part[:, which])

    def views(self, which: list[list[int]]) -> Conditions:
        """Select views: ``which`` has K lists with the index of a view for each image."""
        taken, every = torch.tensor(which), torch.arange(len(self.pose_tokens))
        return self._each(lambda part, axis: part[taken, every] if axis else part)

    def _each(self, change: Callable[[Tensor, int], Tensor]) -> Conditions:
        """``change(tensor, axis of its N images)`` of every tensor."""
        changed: dict[str, Any] = {
            name: None if part is None else change(part, _axis(name))
            for name, part in vars(self).items()
        }
        return Conditions(**changed)


def _axis(name: str) -> int:
    """The axis of the N images: the first axis of source tensors is that of the K views."""
    return int(name.startswith("source_"))


def encode_conditions(
    sampler: Sampler, encoders: LazyEncoders, views: Sequence[View], poses: Sequence[Pose]
) -> Conditions:
    """Views of one person and N poses -> the conditions of N images, on the CPU.

    Raises XmdptError if the model needs keypoints of the views and they are not known.
    """
    size = int(sampler.metadata["resolution"])
    scale = float(sampler.metadata["encoders"]["vae"]["scale"])
    images = np.stack([view.image for view in views])
    pose_images = np.stack([draw_pose(pose.keypoints, size) for pose in poses])

    def for_each_pose(part: Tensor) -> Tensor:  # (K, ...) -> (K, N, ...)
        return part[:, None].expand(-1, len(poses), *part.shape[1:])

    pose_maps = source_maps = None
    if sampler.model.conditioning == "tokens":
        known = [view.keypoints for view in views if view.keypoints is not None]
        if len(known) < len(views):
            raise XmdptError(
                "this model reads the keypoints of the source, and these are not known",
                "give --source-keypoints, or OpenPose's weights (--openpose DIR)",
            )
        pose_maps = _unit([draw_pose_map(pose.keypoints, size) for pose in poses])
        source_maps = for_each_pose(_unit([draw_pose_map(points, size) for points in known]))
    return Conditions(
        pose_tokens_of(encoders.pose, pose_images),
        for_each_pose(source_tokens_of(encoders.source, images)),
        for_each_pose(posterior_mean(moments_of(encoders.vae, images), scale)),
        pose_maps,
        source_maps,
    )


def _unit(images: Sequence[ImageArray]) -> Tensor:
    """uint8 (H, W, 3) each -> float32 (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
