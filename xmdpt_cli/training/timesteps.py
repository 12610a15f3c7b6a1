"""The timesteps of a training step, from a uniform number of each pair: resuming, gradient
accumulation and several processes change no pair's timestep."""

from __future__ import annotations

import torch
from torch import Tensor

from xmdpt_cli.training.loss_config import LossConfig


def sample_timesteps(uniform: Tensor, config: LossConfig, total: int = 1000) -> Tensor:
    """Uniform numbers u (N,) in [0, 1) -> timesteps (N,), integers in [0, ``total``).

    "power": t / T = u^p; the paper's p is 1. "logit-normal" (SD3, Esser et al. 2024, arXiv
    2403.03206, eq. 19): logit(t / T) is normal with mean m and standard deviation s, so that
    t / T = sigmoid(m + s Phi^-1(u)), Phi the CDF of the standard normal distribution.
    """
    u = uniform.double()
    if config.timestep_sampling == "logit-normal":
        share = torch.sigmoid(config.logit_mean + config.logit_std * torch.special.ndtri(u))
    else:
        share = u**config.timestep_power
    return (total * share).long().clamp(max=total - 1)
