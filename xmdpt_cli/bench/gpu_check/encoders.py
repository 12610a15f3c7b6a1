"""The frozen networks in the types that ``xmdpt prepare`` uses: speed, and what rounding costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmdpt_cli.bench.gpu_check.rows import Row, Setting, at_most, speed
from xmdpt_cli.bench.gpu_check.sampling import median, real_vae
from xmdpt_cli.bench.random_networks import random_dino
from xmdpt_cli.encoders.bundle import moments_of
from xmdpt_cli.encoders.vae import to_signed

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
    torch.manual_seed(0)
    dino = random_dino("tiny" if setting.small else size, setting.where)
    signed = to_signed(images)
    exact = dino.tokens(signed)
    dino.autocast = torch.bfloat16
    found = dino.tokens(signed)
    check = f"DINOv2-{size[0].upper()}: tokens in bf16 (autocast) - fp32"
    yield at_most(check, rms(found, exact), TOKENS, note="rms of the difference / rms")
    rate = len(images) / median(setting, lambda: dino.tokens(signed))
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


def rms(found: Tensor, expected: Tensor) -> float:
    """Of the difference, over that of what is expected."""
    off = (found.float() - expected.float()).square().mean().sqrt()
    return float(off / expected.float().square().mean().sqrt())
