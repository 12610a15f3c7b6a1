"""The noise schedule and what follows from it in closed form (DDPM; improved DDPM).

All tables are float64 on the CPU; ``at`` picks them for a batch of timesteps in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """``kind`` "linear" (the paper: betas 1e-4 .. 2e-2) or "cosine"; ``prediction`` what the
    network's first half of channels means: "epsilon" (the paper) or "v"."""

    kind: str = "linear"
    prediction: str = "epsilon"
    steps: int = 1000
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)
    beta: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v"):
            raise ConfigError(f"prediction is 'epsilon' or 'v', not {self.prediction!r}")
        if self.kind == "linear":
            # the two ends are for 1000 steps; other lengths scale them (improved DDPM)
            scale = 1000 / self.steps
            beta = torch.linspace(1e-4 * scale, 2e-2 * scale, self.steps, dtype=torch.float64)
        elif self.kind == "cosine":
            # improved DDPM eq. 17, s = 0.008, betas capped at 0.999
            t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        else:
            raise ConfigError(f"schedule is 'linear' or 'cosine', not {self.kind!r}")
        object.__setattr__(self, "beta", beta)
        object.__setattr__(self, "alpha_bar", torch.cumprod(1 - beta, dim=0))

    @property
    def alpha_bar_previous(self) -> Tensor:
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    @property
    def posterior_variance(self) -> Tensor:
        """Of q(x_{t-1} | x_t, x_0), DDPM eq. 7; zero at t = 0."""
        return self.beta * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)

    @property
    def posterior_log_variance(self) -> Tensor:
        """The posterior variance at t = 0 replaced by that at t = 1: log 0 is no number."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log()

    def posterior_mean_weights(self) -> tuple[Tensor, Tensor]:
        """Weights of x_0 and x_t in the posterior mean, DDPM eq. 7."""
        previous = self.alpha_bar_previous
        of_x0 = self.beta * previous.sqrt() / (1 - self.alpha_bar)
        of_xt = (1 - previous) * (1 - self.beta).sqrt() / (1 - self.alpha_bar)
        return of_x0, of_xt

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps; (N, C, h, w), timesteps (N,)."""
        signal = at(self.alpha_bar.sqrt(), timesteps, clean)
        return signal * clean + at((1 - self.alpha_bar).sqrt(), timesteps, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is asked for: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) x_0."""
        if self.prediction == "epsilon":
            return noise
        signal = at(self.alpha_bar.sqrt(), timesteps, clean)
        return signal * noise - at((1 - self.alpha_bar).sqrt(), timesteps, clean) * clean

    def clean_and_noise(self, x: Tensor, out: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) that the prediction ``out`` stands for at x; alpha_bar broadcasts to x."""
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        if self.prediction == "epsilon":
            return (x - sigma * out) / signal, out
        return signal * x - sigma * out, sigma * x + signal * out


def at(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """table[timesteps] as float32 (N, 1, 1, 1) beside ``like`` (N, C, h, w)."""
    values = table.to(device=timesteps.device)[timesteps].to(torch.float32)
    return values.reshape(-1, *([1] * (like.dim() - 1)))
