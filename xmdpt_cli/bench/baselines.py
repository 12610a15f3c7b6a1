"""What X-MDPT is compared with in speed: PIDM and PoCoLD, refitted, sampled as they sample.

The originals' weights are not needed for that, their work is: the networks here (random weights,
see ``baseline_networks``) have the originals' number of parameters and, where it is known, of
FLOPs; ``fit`` counts both. They are sampled as both papers do, by disentangled classifier-free
guidance (D-CFG): three forwards a step.
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
class Original:
    """What is published of a baseline, in papers and released code. None: not known.

    ``seconds``: the X-MDPT paper's table; A100, 8 images of 256x176, 50 steps.
    """

    parameters: float  # encoder included
    gflop: float | None  # a forward of one image
    encoder_gflop: float | None  # once an image
    seconds: float
    forwards: int = 50 * BRANCHES


# the released code; the paper says 688 M parameters
PIDM_ORIGINAL = Original(180.4e6, gflop=559.4, encoder_gflop=140.3, seconds=16.975)
POCOLD_ORIGINAL = Original(395.89e6, gflop=None, encoder_gflop=None, seconds=3.215)

#: the X-MDPT paper's table by our names: seconds on an A100, 8 images of 256x176, 50 steps
PAPER_SECONDS = {
    "PIDM-style": PIDM_ORIGINAL.seconds,
    "PoCoLD-style": POCOLD_ORIGINAL.seconds,
    "X-MDPT-L": 3.124,
    "X-MDPT-B": 1.299,
    "X-MDPT-S": 1.191,
}


class Inputs(NamedTuple):
    """What ``sample_dcfg`` takes behind the network, random."""

    noise: Tensor
    pose: Tensor
    source: Tensor


@dataclass(frozen=True)
class Baseline:
    """A comparison: its original and how its network and inputs are made.

    ``original`` is None for a tiny one, whose speed says nothing of the original's.
    """

    name: str
    original: Original | None
    pixels: int  # the side of the square image
    latent: bool  # noise and source are latents (4, pixels / 8, pixels / 8), else pixels
    build: Callable[[], Network]  # on the default device, in fp32, weights from torch's seed

    def inputs(self, count: int, seed: int = 0) -> Inputs:
        """Of ``count`` images, on the CPU, in fp32: noise and source alike, pose maps."""
        rng = torch.Generator().manual_seed(seed)
        side = self.pixels
        shape = (count, 4, side // 8, side // 8) if self.latent else (count, 3, side, side)
        noise = torch.randn(shape, generator=rng)
        source = torch.randn(shape, generator=rng)
        return Inputs(noise, torch.rand(count, POSE_CHANNELS, side, side, generator=rng), source)


def pidm(size: str = "full") -> Baseline:
    """Person Image Synthesis via Denoising Diffusion Model (PIDM, CVPR 2023).

    A 256x176 image is computed on 256x256. The widths are DDPM's for that size, with ADM's
    residual blocks, and attention at 16x16 and 8x8: at 32x32 too it would be 576 GFLOP.
    """
    cut, pixels = _cut(size)
    widths = tuple(128 // cut * m for m in (1, 1, 2, 2, 4, 4))
    original = PIDM_ORIGINAL if cut == 1 else None
    return Baseline(_name("PIDM", cut, pixels), original, pixels, False, lambda: PIDM(widths))


def pocold(size: str = "full") -> Baseline:
    """Controllable Person Image Synthesis with Pose-Constrained Latent Diffusion (ICCV 2023).

    Only its number of parameters is fitted. Taken, not known: latents of 4x32x32 from a VAE of
    f = 8, widths as in latent diffusion, attention at every level, and so its FLOPs.
    """
    cut, pixels = _cut(size)
    widths = tuple(256 // cut * m for m in (1, 2, 4))
    original = POCOLD_ORIGINAL if cut == 1 else None

    def build() -> Network:
        return PoCoLD(widths, token_width=512 // cut, latent_side=pixels // 8)

    return Baseline(_name("PoCoLD", cut, pixels), original, pixels, True, build)


BASELINES = {"pidm": pidm, "pocold": pocold}


def _cut(size: str) -> tuple[int, int]:
    """What widths are divided by, and the image's side."""
    sizes = {"full": (1, 256), "tiny": (4, 64)}
    if size not in sizes:
        raise ConfigError(f"a baseline's size is one of {', '.join(sizes)}, not {size!r}")
    return sizes[size]


def _name(name: str, cut: int, pixels: int) -> str:
    return name if cut == 1 else f"{name} tiny (1/{cut} of the widths, {pixels} px)"


@dataclass(frozen=True)
class Fit:
    """What a baseline's network has, to be read beside its original."""

    name: str
    parameters: int
    gflop: float  # a forward of one image
    encoder_gflop: float  # once an image
    original: Original | None

    def off(self) -> dict[str, float]:
        """Relative differences to what is published: 0.01 is one per cent more."""
        if self.original is None:
            return {}
        wanted = vars(self.original)
        names = [name for name in ("parameters", "gflop", "encoder_gflop") if wanted[name]]
        return {name: getattr(self, name) / wanted[name] - 1 for name in names}


def fit(baseline: Baseline) -> Fit:
    """Counted on the meta device: in a second, without memory."""
    inputs = Inputs(*(tensor.to("meta") for tensor in baseline.inputs(1)))
    with torch.device("meta"), torch.no_grad():
        network = baseline.build().eval()
        conditions = network.encode(inputs.pose, inputs.source)
        t = torch.zeros(1, dtype=torch.long)
    return Fit(
        baseline.name,
        sum(parameter.numel() for parameter in network.parameters()),
        flops(lambda: network(inputs.noise, t, *conditions)) / 1e9,
        flops(lambda: network.encode(inputs.pose, inputs.source)) / 1e9,
        baseline.original,
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
    batched: bool = True,
) -> Tensor:
    """Images, or latents, (N, C, H, W) from start noise of that shape and dtype.

    ``conditions``: of ``network.encode``, once for all steps. DDIM (eta 0, linear schedule).
    Guidance as PIDM's, with scales that are taken (speed does not depend on them):

        unconditional + pose_scale (pose - unconditional) + source_scale (both - pose)

    ``batched``: the three branches of a step in one batch of 3N, else one after the other; same
    result. The network keeps its dtype and device; noise says those of the result.
    """
    dtype = next(network.parameters()).dtype
    n, channels = noise.shape[:2]
    branches = three_branches(conditions)
    calls = [joined(branches)] if batched else branches

    def predict(x: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        times = BRANCHES // len(calls)
        own, t = torch.cat([x.to(dtype)] * times), t.repeat(times)
        out = torch.cat([network(own, t, *call)[:, :channels].to(x.dtype) for call in calls])
        return disentangled(out, pose_scale, source_scale)

    # guidance 1: ``sample`` asks once a step and adds none of its own
    return sample(Guided(predict), noise, noise.new_empty(n, 0), steps, guidance=1.0)


def disentangled(out: Tensor, pose_scale: float, source_scale: float) -> Tensor:
    """The guided prediction (N, ...) of the three branches (3N, ...): unconditional, pose, both."""
    without, posed, both = out.chunk(BRANCHES)
    return without + pose_scale * (posed - without) + source_scale * (both - posed)


def three_branches(given: Conditions) -> list[Conditions]:
    """Unconditional, pose alone, pose and source; what is dropped is zeros (PIDM)."""
    nothing = tuple(torch.zeros_like(tokens) for tokens in given.source)
    dropped = Conditions(torch.zeros_like(given.pose), nothing)
    return [dropped, Conditions(given.pose, nothing), given]


def joined(branches: list[Conditions]) -> Conditions:
    """Conditions of N each as those of one batch."""
    sources = zip(*(branch.source for branch in branches), strict=True)
    return Conditions(
        torch.cat([branch.pose for branch in branches]),
        tuple(torch.cat(parts) for parts in sources),
    )
