"""The baselines that X-MDPT's speed is compared with: networks with the work of PIDM and PoCoLD.

The networks (``baseline_networks``, random weights) have the originals' number of parameters and,
where known, of FLOPs; ``fit`` counts both. They are sampled as in both papers, by disentangled
classifier-free guidance (D-CFG): three forwards a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from xmdpt_cli.bench.baseline_networks import PIDM, POSE_CHANNELS, Conditions, Network, PoCoLD
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.diffusion import Guided, sample
from xmdpt_cli.errors import ConfigError

BRANCHES = 3  # forwards a step: unconditional, pose alone, pose and source


@dataclass(frozen=True)
class Work:
    """Size and work of a baseline's network, encoder included. None: not known."""

    parameters: float
    gflop: float | None  # of a forward of one image
    encoder_gflop: float | None  # once per image


# of the released code; the paper states 688 M parameters
PIDM_ORIGINAL = Work(180.4e6, gflop=559.4, encoder_gflop=140.3)
POCOLD_ORIGINAL = Work(395.89e6, gflop=None, encoder_gflop=None)

#: the X-MDPT paper's table: seconds on an A100 for 8 images of 256x176, 50 steps
PAPER_SECONDS = {
    "PIDM-style": 16.975,
    "PoCoLD-style": 3.215,
    "X-MDPT-L": 3.124,
    "X-MDPT-B": 1.299,
    "X-MDPT-S": 1.191,
}


class Inputs(NamedTuple):
    """Random start noise and raw conditions."""

    noise: Tensor
    pose: Tensor
    source: Tensor


@dataclass(frozen=True)
class Baseline:
    """A baseline: how its network and its inputs are made."""

    name: str
    original: Work | None  # None for a tiny network, which is not comparable
    pixels: int  # side of the square image
    latent: bool  # noise and source are latents (4, pixels / 8, pixels / 8), else pixels
    build: Callable[[], Network]  # in fp32 on the default device

    def inputs(self, count: int, seed: int = 0) -> Inputs:
        """Inputs of ``count`` images, on the CPU, in fp32."""
        rng = torch.Generator().manual_seed(seed)
        side = self.pixels
        shape = (count, 4, side // 8, side // 8) if self.latent else (count, 3, side, side)
        noise = torch.randn(shape, generator=rng)
        source = torch.randn(shape, generator=rng)
        return Inputs(noise, torch.rand(count, POSE_CHANNELS, side, side, generator=rng), source)


def pidm(size: str = "full") -> Baseline:
    """Person Image Synthesis via Denoising Diffusion Model (PIDM, CVPR 2023).

    A 256x176 image is computed as 256x256. The widths are DDPM's for that size, with ADM's
    residual blocks and attention at 16x16 and 8x8; with attention at 32x32 it would be 576 GFLOP.
    """
    name, cut, pixels = _scaled("PIDM", size)
    widths = tuple(128 // cut * m for m in (1, 1, 2, 2, 4, 4))
    original = PIDM_ORIGINAL if cut == 1 else None
    return Baseline(name, original, pixels, False, lambda: PIDM(widths))


def pocold(size: str = "full") -> Baseline:
    """Controllable Person Image Synthesis with Pose-Constrained Latent Diffusion (ICCV 2023).

    Only its number of parameters is fitted. Assumed: latents of 4x32x32 from a VAE of f = 8, widths
    as in latent diffusion, attention at every level, and the FLOPs that follow from these.
    """
    name, cut, pixels = _scaled("PoCoLD", size)
    widths = tuple(256 // cut * m for m in (1, 2, 4))
    original = POCOLD_ORIGINAL if cut == 1 else None

    def build() -> Network:
        return PoCoLD(widths, token_width=512 // cut, latent_side=pixels // 8)

    return Baseline(name, original, pixels, True, build)


BASELINES = {"pidm": pidm, "pocold": pocold}


def _scaled(name: str, size: str) -> tuple[str, int, int]:
    """The name of a baseline of ``size``, the divisor of its widths, the side of its images."""
    if size == "full":
        return name, 1, 256
    if size == "tiny":
        return f"{name} tiny (1/4 of the widths, 64 px)", 4, 64
    raise ConfigError(f"a baseline's size is one of full, tiny, not {size!r}")


def fit(baseline: Baseline) -> Work:
    """The work of a baseline's network, counted on the meta device in a second without memory."""
    inputs = Inputs(*(tensor.to("meta") for tensor in baseline.inputs(1)))
    with torch.device("meta"), torch.no_grad():
        network = baseline.build().eval()
        conditions = network.encode(inputs.pose, inputs.source)
        t = torch.zeros(1, dtype=torch.long)
    return Work(
        sum(parameter.numel() for parameter in network.parameters()),
        flops(lambda: network(inputs.noise, t, *conditions)) / 1e9,
        flops(lambda: network.encode(inputs.pose, inputs.source)) / 1e9,
    )


@torch.no_grad()
def sample_dcfg(
    network: Network,
    noise: Tensor,
    conditions: Conditions,
    steps: int = 50,
    *,
    pose_scale: float = 2.0,
    source_scale: float = 2.0,
) -> Tensor:
    """Sample images or latents (N, C, h, w) by DDIM (eta 0, linear schedule) and PIDM's guidance.

    ``noise`` (N, C, h, w): its dtype is that of the result; the network computes in its own.
    ``conditions``: the result of ``network.encode``. The three branches of a step are one batch of
    3N. The default scales are arbitrary: speed does not depend on them.
    """
    dtype = next(network.parameters()).dtype
    n, channels = noise.shape[:2]
    pose, source = branch_batch(conditions)

    def predict(x: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        latents = torch.cat([x.to(dtype)] * BRANCHES)
        out = network(latents, t.repeat(BRANCHES), pose, source)[:, :channels].to(x.dtype)
        return disentangled(out, pose_scale, source_scale)

    # guidance 1: ``predict``, which guides, is called once a step
    return sample(Guided(predict), noise, noise.new_empty(n, 0), steps, guidance=1.0)


def disentangled(out: Tensor, pose_scale: float, source_scale: float) -> Tensor:
    """The guided prediction (N, ...) of the branches (3N, ...) unconditional, pose, both:

    unconditional + pose_scale (pose - unconditional) + source_scale (both - pose)
    """
    unconditional, pose, both = out.chunk(BRANCHES)
    return unconditional + pose_scale * (pose - unconditional) + source_scale * (both - pose)


def branch_batch(given: Conditions) -> Conditions:
    """The three branches as one batch of 3N; dropped conditions are zeros (PIDM)."""
    pose, source = given
    no_source = [torch.zeros_like(tokens) for tokens in source]
    return Conditions(
        torch.cat([torch.zeros_like(pose), pose, pose]),
        tuple(torch.cat([no, no, tokens]) for no, tokens in zip(no_source, source, strict=True)),
    )
