"""Random inputs in place of a dataset's, for the estimates of a training's time and memory."""

from __future__ import annotations

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
    tokens, side = model.tdnet.grid**2, model.pose_pixels

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(count, *shape, device=device).to(dtype)

    def dino_tokens(name: str) -> Tensor:
        return normal(*dataset.column(name).shape, dtype=torch.bfloat16)

    maps = None
    if config.conditioning == "tokens":
        maps = (normal(3, side, side), normal(3, side, side))
    mask = None
    if config.predictor != "none":
        mask = Mask.random(torch.rand(count, tokens, device=device), config.mask_ratio)
    kept = torch.ones(count, dtype=torch.bool, device=device)
    return Inputs(
        target=normal(*model.latent_shape),
        source=normal(*model.latent_shape),
        noise=normal(*model.latent_shape),
        masked_noise=normal(*model.latent_shape) if mask is not None else None,
        timesteps=torch.zeros(count, dtype=torch.long, device=device),
        keep=kept,
        keep_masked=kept,
        pose_tokens=dino_tokens("pose_tokens"),
        source_tokens=dino_tokens("source_tokens"),
        mask=mask,
        pose_maps=maps,
        target_tokens=dino_tokens("source_tokens") if config.repa_weight else None,
    )
