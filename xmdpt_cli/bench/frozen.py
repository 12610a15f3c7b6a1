"""The frozen networks in their published architectures, with random weights: for their time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:  # what needs no DINOv2 does without transformers
    from xmdpt_cli.encoders.dino import Dino


def random_dino(size: str, device: torch.device) -> Dino:
    """facebook/dinov2-giant or -base by its config.json, or a tiny one; in float32."""
    from transformers import Dinov2Config, Dinov2Model

    from xmdpt_cli.encoders.dino import Dino
    from xmdpt_cli.encoders.weights import Origin

    shapes: dict[str, dict[str, Any]] = {
        "giant": {
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "use_swiglu_ffn": True,
        },
        "base": {},
        "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    network = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **shapes[size]))
    return Dino(network.to(device), Origin("local", f"random dinov2-{size}"))


def dinov2(size: str, device: torch.device, dtype: torch.dtype) -> Callable[..., object]:
    """``random_dino``: (N, 3, 224, 224) -> 257 tokens.

    Weights in float32, another ``dtype`` by autocast: as ``xmdpt prepare`` and the published code
    run it.
    """
    net = random_dino(size, device).net

    def tokens(images: torch.Tensor) -> object:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return net(images)

    return tokens


def sd_vae(cut: int = 1) -> Any:
    """stabilityai/sd-vae-ft-mse by its config.json (f = 8, 4 channels), widths over ``cut``."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=tuple(width // cut for width in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return network.eval().requires_grad_(False)


def placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """``network`` there and in that type; by a plain module's ``to``, for diffusers' own warns of
    layers to be kept in fp32, of which there are none."""
    return nn.Module.to(network, device, dtype)
