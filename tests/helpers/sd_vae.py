"""A VAE of diffusers with the architecture of sd-vae-ft-mse, thin and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL


def sd_vae(**settings: Any) -> AutoencoderKL:
    """Factor 8, 4 latent channels, 8 channels in all layers; ``settings`` of AutoencoderKL."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            **settings,
        )
