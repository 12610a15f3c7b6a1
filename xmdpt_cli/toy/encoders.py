"""Toy encoders: the real interfaces and formats, small enough for minutes on two CPU cores.

They serve to try every command on synthetic people. They are not trained on photographs, and
everything that is saved with them is marked as a toy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.encoders.weights import Origin

ROLES = ("source", "pose")
PATCH = 14
RGB = 3
# A constant in two spare channels before the last norm. It dominates the variance, so that the norm
# hardly changes the brightness and contrast of the image.
ANCHOR = 10.0


def toy_encoders(image_size: int, seed: int = 0) -> Encoders:
    """An untrained VAE and two untrained DINOv2 for images of ``image_size``, all toys."""
    return Encoders(
        vae=toy_vae(image_size, seed),
        source=toy_dino("source", image_size, seed),
        pose=toy_dino("pose", image_size, seed),
    )


def toy_dino(role: str, image_size: int, seed: int = 0) -> Dino:
    """A random DINOv2 of width 64: (image_size / 8)^2 + 1 tokens, at most the real 257.

    Random patch projections keep colour and position, which is sufficient for synthetic people.
    """
    if role not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {role!r}")
    side = max(1, min(image_size // 8, 16))
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=PATCH * side,
        patch_size=PATCH,
    )
    # the constructors use random numbers; keep the state of the caller
    with torch.random.fork_rng(devices=[]):
        net = Dinov2Model(config)
    generator = torch.Generator().manual_seed(2 * seed + ROLES.index(role))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
        # without a bias the first norm makes all brightnesses of one hue the same token
        net.embeddings.patch_embeddings.projection.bias.normal_(0.0, 0.3, generator=generator)
        # CANet sums over the tokens: each must carry its position, as those of a trained DINOv2 do
        net.embeddings.position_embeddings.normal_(0.0, 0.5, generator=generator)
    return Dino(net, Origin("toy", f"toy-dino-{role}-{image_size}-seed{seed}"))


def toy_vae(image_size: int, seed: int = 0, latent_channels: int = 4) -> VAE:
    """A small AutoencoderKL (0.23 M parameters at f = 4) that passes the image through.

    f = 4 up to 128 px, above that 8. The first three latent channels start as the image's
    block means, and decoding starts as their smooth enlargement; the rest is small noise
    to train from. The default initialisation does not learn hues in a few minutes.
    """
    widths = (16, 32, 32) if image_size <= 128 else (16, 32, 32, 32)
    with torch.random.fork_rng(devices=[]):
        net = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=1,
            norm_num_groups=1,
            mid_block_add_attention=False,
            latent_channels=latent_channels,
            sample_size=image_size,
            scaling_factor=1.0,  # 1 / standard deviation of the latents, set by training
        )
    _pass_through(net, torch.Generator().manual_seed(seed))
    return VAE(net, Origin("toy", f"toy-vae-{image_size}-seed{seed}"))


@torch.no_grad()
def _pass_through(net: AutoencoderKL, generator: torch.Generator) -> None:
    """Initialise with small random convolutions, and taps that pass the image from end to end.

    The image travels as x in channels 0-2 and -x in 3-5, so that the SiLU before the last
    convolution can be undone: silu(x) - silu(-x) = x.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            gain = 1.0 if name.endswith("conv1") else 0.3
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
            if name.endswith("conv2"):  # residual branches do not change the image channels
                module.weight[: 2 * RGB].zero_()
    for part in (net.encoder, net.decoder):
        for block in (*getattr(part, "down_blocks", ()), *getattr(part, "up_blocks", ())):
            for resnet in block.resnets:
                if resnet.conv_shortcut is not None:
                    _tap(resnet.conv_shortcut)
            for down in getattr(block, "downsamplers", None) or ():
                _tap(down.conv, kernel=torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]))
            for up in getattr(block, "upsamplers", None) or ():
                # with the nearest enlargement before it: a linear one
                _tap(up.conv, kernel=torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]))
    _ends(net.encoder, last=net.encoder.mid_block.resnets[-1], generator=generator)
    _ends(net.decoder, last=net.decoder.up_blocks[-1].resnets[-1], generator=generator)
    for conv in (net.quant_conv, net.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[..., None, None])
    net.quant_conv.bias[net.config.latent_channels :] = -8.0  # log-variance: noise of 0.02


def _tap(conv: nn.Conv2d, kernel: torch.Tensor | None = None) -> None:
    """Set output channel c < 6 to input channel c, convolved with ``kernel``, normalised to 1."""
    conv.weight[: 2 * RGB].zero_()
    for channel in range(2 * RGB):
        if kernel is None:
            side = conv.kernel_size[0] // 2
            conv.weight[channel, channel, side, side] = 1.0
        else:
            conv.weight[channel, channel] = kernel / kernel.sum()


def _ends(part: Any, *, last: Any, generator: torch.Generator) -> None:
    """Set the first convolution to x -> (x, -x), the last norm and convolution to its inverse."""
    conv_in, norm, conv_out = part.conv_in, part.conv_norm_out, part.conv_out
    fan_in = conv_in.weight[0].numel()
    conv_in.weight.normal_(0.0, 1.0 / math.sqrt(fan_in), generator=generator)
    conv_in.weight[: 2 * RGB].zero_()
    conv_out.weight[:RGB].zero_()
    for channel in range(RGB):
        conv_in.weight[channel, channel, 1, 1] = 1.0
        conv_in.weight[RGB + channel, channel, 1, 1] = -1.0
        conv_out.weight[channel, channel, 1, 1] = 1.0
        conv_out.weight[channel, RGB + channel, 1, 1] = -1.0
    last.conv2.bias[-2:] = torch.tensor([ANCHOR, -ANCHOR])
    norm.weight.fill_(ANCHOR * math.sqrt(2.0 / norm.num_channels))  # the standard deviation
    norm.weight[-2:] = 0.0
