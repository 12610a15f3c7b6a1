"""Random inputs in place of a dataset's, for the estimates of a training's time and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.step import Inputs


def made_up_inputs(
    config: TrainConfig, dataset: PairDataset, model: XMDPT, count: int, device: torch.device
) -> Inputs:
    """Random inputs of the dataset's shapes, for ``count`` pairs."""
    features, tokens = made_up_features(dataset, model, count, device), model.tdnet.grid**2
    mask = None
    if config.predictor != "none":
        mask = Mask.random(torch.rand(count, tokens, device=device), config.mask_ratio)
    kept = torch.ones(count, dtype=torch.bool, device=device)
    return Inputs(
        **features,
        masked_noise=features["noise"].clone() if mask is not None else None,
        timesteps=torch.zeros(count, dtype=torch.long, device=device),
        keep=kept,
        keep_masked=kept,
        mask=mask,
        target_tokens=features["source_tokens"].clone() if config.repa_weight else None,
        repa_weight=torch.tensor(config.repa_weight, device=device),
        joints=torch.rand(count, 2, 18, 2, device=device) if config.needs_joints else None,
    )


def made_up_features(
    dataset: PairDataset, model: XMDPT, count: int, device: torch.device
) -> dict[str, Any]:
    """Random latents, noise, DINOv2 tokens and, for a model that takes them, pose maps."""

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(count, *shape, device=device).to(dtype)

    maps, side = None, model.pose_pixels
    if model.conditioning == "tokens":
        maps = (normal(3, side, side), normal(3, side, side))
    latents = {name: normal(*model.latent_shape) for name in ("target", "source", "noise")}
    tokens = {
        name: normal(*dataset.column(name).shape, dtype=torch.bfloat16)
        for name in ("pose_tokens", "source_tokens")
    }
    return {**latents, **tokens, "pose_maps": maps}
