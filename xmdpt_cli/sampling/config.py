"""How samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingConfig:
    """What ``diffusion.sample`` is told, and the seed; the defaults travel with the model."""

    steps: int
    guidance: float
    power: float
    seed: int = 0
    solver: str = "ddim"
    spacing: str = "linspace"
    interval: tuple[float, float] = (0.0, 1.0)


#: the paper's sampling (sec. 4.1; power 0.01 for the best SSIM and LPIPS, 1.0 for the best FID)
PAPER = SamplingConfig(50, 2.0, 0.01)
