"""The exact network of Gaussian data: sampling has a solution in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule

MEAN, SPREAD = 0.5, 0.3


class Gaussian:
    """The exact network if the data are N(m, s^2), m = 0.5 where conditioned and else 0."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.calls = schedule, 0

    def __call__(self, x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        self.calls += 1
        alpha_bar = self.schedule.alpha_bar[t].to(x.dtype).reshape(-1, 1, 1, 1)
        mean = MEAN * keep.to(x.dtype).reshape(-1, 1, 1, 1)
        variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
        eps = (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance
        if self.schedule.prediction == "v":
            clean = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
            eps = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * clean
        return torch.cat([eps, torch.zeros_like(eps)], dim=1)
