"""The frozen networks in the types that ``xmdpt prepare`` uses: speed, and what rounding costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.bench.gpu_check.rows import Row, Setting, at_most, speed
from xmdpt_cli.bench.gpu_check.sampling import median, real_vae
from xmdpt_cli.encoders.bundle import moments_of
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.vae import to_signed
from xmdpt_cli.encoders.weights import Origin

#: rms of the difference over the rms: 40 layers of DINOv2 under bf16 autocast lose 6e-3
TOKENS, MOMENTS = 1e-2, 5e-3


def encoders(setting: Setting) -> Iterator[Row]:
    """DINOv2-B, DINOv2-G and the VAE's encoder; random weights of the real shapes."""
    rng = np.random.default_rng(0)
    side = setting.pick(256, 64)
    images = rng.integers(0, 256, (setting.pick(64, 2), side, side, 3), np.uint8)
    for size in ("base", "giant"):
        yield from _dino(setting, size, images)
    yield from _vae(setting, images)


def _dino(setting: Setting, size: str, images: NDArray[np.uint8]) -> Iterator[Row]:
    dino = random_dino(setting, size)
    signed = to_signed(images)

    def in_bf16() -> Tensor:
        with torch.autocast(setting.where.type, torch.bfloat16):
            return dino.tokens(signed)

    exact, found = dino.tokens(signed), in_bf16()
    check = f"DINOv2-{size[0].upper()}: tokens in bf16 (autocast) - fp32"
    yield at_most(check, rms(found, exact), TOKENS, note="rms of the difference / rms")
    rate = len(images) / median(setting, in_bf16)
    yield speed(setting, f"DINOv2-{size[0].upper()} in bf16", rate, "images/s")


def _vae(setting: Setting, images: NDArray[np.uint8]) -> Iterator[Row]:
    vae, cudnn = real_vae(setting), torch.backends.cudnn
    found = moments_of(vae, images).float()
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        exact = moments_of(vae, images).float()
    finally:
        cudnn.allow_tf32 = before
    check = "VAE: moments with TF32 convolutions (torch's default) - without"
    yield at_most(check, rms(found, exact), MOMENTS, note="rms of the difference / rms")
    rate = len(images) / median(setting, lambda: moments_of(vae, images))
    yield speed(setting, "VAE encoder in fp32", rate, "images/s")
    latents = exact.chunk(2, dim=1)[0] * vae.scale
    rate = len(images) / median(setting, lambda: vae.decode(latents))
    yield speed(setting, "VAE decoder in fp32", rate, "images/s")


def random_dino(setting: Setting, size: str) -> Dino:
    """DINOv2 of a published shape (tiny in a dry run)."""
    from transformers import Dinov2Config, Dinov2Model

    shape = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
    if size == "base":
        shape = {}
    if setting.small:
        shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Dinov2Config(image_size=518, patch_size=14, use_swiglu_ffn=size == "giant", **shape)
    torch.manual_seed(0)
    net = Dinov2Model(config).eval().to(setting.where)
    return Dino(net, Origin("local", f"random dinov2-{size}"))


def rms(found: Tensor, expected: Tensor) -> float:
    """Of the difference, over that of what is expected."""
    off = (found.float() - expected.float()).square().mean().sqrt()
    return float(off / expected.float().square().mean().sqrt())
