"""How samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass

#: the published list of timesteps for the published solver; second-order solvers want even steps
#: of the signal-to-noise ratio (measured by ``bench/solvers.py``; README)
SPACING_OF = {"ddim": "linspace", "dpmpp-2m": "logsnr", "unipc": "logsnr"}


@dataclass(frozen=True)
class Recipe:
    """What ``diffusion.sample`` is told, and the seed; the defaults travel with the model."""

    steps: int
    guidance: float
    power: float
    seed: int = 0
    solver: str = "ddim"
    spacing: str = "linspace"
    interval: tuple[float, float] = (0.0, 1.0)
