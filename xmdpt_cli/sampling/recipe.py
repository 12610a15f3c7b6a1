"""How samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass

#: the published list of timesteps for the published solver; without the nearly clean t = 0 a
#: second-order solver is far closer to the exact solution (``bench/solvers.py``)
SPACING_OF = {"ddim": "linspace", "dpmpp-2m": "trailing", "unipc": "trailing"}


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
