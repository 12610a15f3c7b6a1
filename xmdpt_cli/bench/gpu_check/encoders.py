"""The frozen networks in the types that ``xmdpt prepare`` uses: speed, and the cost of rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.bench.gpu_check.goldens import allow_tf32
from xmdpt_cli.bench.gpu_check.rows import Row, Setting, at_most, speed
from xmdpt_cli.bench.gpu_check.sampling import median
from xmdpt_cli.bench.random_networks import random_dino, random_vae
from xmdpt_cli.encoders.bundle import moments_of
from xmdpt_cli.encoders.vae import to_signed
from xmdpt_cli.images import ImageArray

#: limits of the rms of the difference over the rms. With the random weights of this check, bf16
#: autocast loses 7.2e-3 in 12 layers of DINOv2-B and 3.0e-2 in 40 of DINOv2-G, on a CPU as well.
TOKENS = {"base": 1e-2, "giant": 4e-2}
MOMENTS = 5e-3
NOTE = "rms of the difference / rms"


def encoders(setting: Setting) -> Iterator[Row]:
    """DINOv2-B, DINOv2-G, the VAE's encoder and decoder; random weights of the real shapes."""
    side = setting.pick(256, 64)
    shape = (setting.pick(64, 2), side, side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for size in ("base", "giant"):
        yield from _dino(setting, size, images)
    yield from _vae(setting, images)


def _dino(setting: Setting, size: str, images: ImageArray) -> Iterator[Row]:
    torch.manual_seed(0)
    dino = random_dino("tiny" if setting.small else size, setting.where)
    signed, name = to_signed(images), f"DINOv2-{size[0].upper()}"
    exact = dino.tokens(signed)
    dino.autocast = torch.bfloat16
    error = rms(dino.tokens(signed), exact)
    yield at_most(f"{name}: tokens in bf16 (autocast) - fp32", error, TOKENS[size], note=NOTE)
    rate = len(images) / median(setting, lambda: dino.tokens(signed))
    yield speed(setting, f"{name} in bf16", rate, "images/s")


def _vae(setting: Setting, images: ImageArray) -> Iterator[Row]:
    vae = random_vae(setting.where, setting.pick(1, 4))
    found = moments_of(vae, images).float()
    with allow_tf32(False):
        exact = moments_of(vae, images).float()
    check = "VAE: moments with TF32 convolutions (torch's default) - without"
    yield at_most(check, rms(found, exact), MOMENTS, note=NOTE)
    latents = exact.chunk(2, dim=1)[0] * vae.scale
    rate = len(images) / median(setting, lambda: moments_of(vae, images))
    yield speed(setting, "VAE encoder in fp32", rate, "images/s")
    rate = len(images) / median(setting, lambda: vae.decode(latents))
    yield speed(setting, "VAE decoder in fp32", rate, "images/s")


def rms(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, over that of ``expected``."""
    difference = (found.float() - expected.float()).square().mean().sqrt()
    return float(difference / expected.float().square().mean().sqrt())
