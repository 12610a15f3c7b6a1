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
        levels = (self.schedule.alpha[t], self.schedule.sigma[t])
        alpha, sigma = (level.to(x.dtype).reshape(-1, 1, 1, 1) for level in levels)
        mean = MEAN * keep.to(x.dtype).reshape(-1, 1, 1, 1)
        # the mean of eps, and of x_0, given x
        variance = (alpha * SPREAD) ** 2 + sigma**2
        eps = sigma * (x - alpha * mean) / variance
        clean = mean + alpha * SPREAD**2 * (x - alpha * mean) / variance
        out = {"epsilon": eps, "v": alpha * eps - sigma * clean, "flow": eps - clean}
        found = out[self.schedule.prediction]
        return torch.cat([found, torch.zeros_like(found)], dim=1)
