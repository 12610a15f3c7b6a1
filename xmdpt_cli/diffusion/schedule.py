"""The noise schedule and what follows from it in closed form (DDPM; improved DDPM).

All tables are float64, on the CPU until ``to`` moves them; ``at`` picks them for a batch of
timesteps in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """The noise schedule, with its tables.

    Args:
        kind: "linear" (the paper: betas 1e-4 .. 2e-2) or "cosine".
        prediction: What the first half of the network's output channels is, "epsilon" (the paper)
            or "v".
        steps: Number of timesteps T.
    """

    kind: str = "linear"
    prediction: str = "epsilon"
    steps: int = 1000
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)
    alpha_bar_previous: Tensor = field(init=False, repr=False, compare=False)
    beta: Tensor = field(init=False, repr=False, compare=False)
    sigma: Tensor = field(init=False, repr=False, compare=False)  # sqrt(1 - alpha_bar)
    # of q(x_{t-1} | x_t, x_0), DDPM eq. 7; zero at t = 0
    posterior_variance: Tensor = field(init=False, repr=False, compare=False)
    # the posterior variance at t = 0 is replaced by that at t = 1, since log 0 is undefined
    posterior_log_variance: Tensor = field(init=False, repr=False, compare=False)
    # weights of x_0 and x_t in the posterior mean, DDPM eq. 7
    weight_of_clean: Tensor = field(init=False, repr=False, compare=False)
    weight_of_noisy: Tensor = field(init=False, repr=False, compare=False)
    # x_0 minus the x_0 of a prediction, per unit of (prediction - target)
    clean_per_error: Tensor = field(init=False, repr=False, compare=False)

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
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        # 1 - alpha_bar, without its rounding where alpha_bar is close to 1
        rest = -torch.expm1(torch.log1p(-beta).cumsum(dim=0))
        rest_before = torch.cat([torch.zeros(1, dtype=torch.float64), rest[:-1]])
        variance = beta * rest_before / rest
        signal = alpha_bar.sqrt() if self.prediction == "epsilon" else torch.ones_like(rest)
        self._set(
            beta=beta,
            alpha_bar=alpha_bar,
            alpha_bar_previous=previous,
            posterior_variance=variance,
            posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
            sigma=rest.sqrt(),
            weight_of_clean=beta * previous.sqrt() / rest,
            weight_of_noisy=rest_before * (1 - beta).sqrt() / rest,
            clean_per_error=rest.sqrt() / signal,
        )

    def _set(self, **tables: Tensor) -> None:
        for name, table in tables.items():
            object.__setattr__(self, name, table)

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule with its tables on ``device``: a lookup there waits for no copy."""
        moved = replace(self)
        tables = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        moved._set(**tables)
        return moved

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps; (N, C, h, w), timesteps (N,)."""
        signal = at(self.alpha_bar.sqrt(), timesteps, clean)
        return signal * clean + at(self.sigma, timesteps, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network predicts: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) x_0."""
        if self.prediction == "epsilon":
            return noise
        signal = at(self.alpha_bar.sqrt(), timesteps, clean)
        return signal * noise - at(self.sigma, timesteps, clean) * clean

    def clean(self, x: Tensor, out: Tensor, alpha: float, sigma: float) -> Tensor:
        """The clean latents x_0 that a prediction ``out`` implies, x = alpha x_0 + sigma eps."""
        if self.prediction == "epsilon":
            return (x - sigma * out) / alpha
        return alpha * x - sigma * out

    def as_v(self, x: Tensor, out: Tensor, timesteps: Tensor) -> Tensor:
        """A prediction ``out`` at x (N, C, h, w) as v; timesteps (N,)."""
        if self.prediction == "v":
            return out
        # v = sqrt(abar) eps - sqrt(1 - abar) x_0
        sigma = at(self.sigma, timesteps, x)
        return (out - sigma * x) / at(self.alpha_bar.sqrt(), timesteps, x)

    def weight(self, kind: str, timesteps: Tensor, limit: float = 5.0) -> Tensor:
        """Weights (N,) of the squared error at these timesteps.

        "none": 1. "min-snr" (Hang et al. 2023, arXiv 2303.09556, eq. 8; MDTv2 takes limit 5): the
        loss on x_0 weighted by min(SNR, limit), in terms of what the network predicts:
        min(SNR, limit) / SNR for the noise, / (SNR + 1) for v; SNR = abar / (1 - abar).
        """
        if kind == "none":
            return torch.ones(timesteps.shape, device=timesteps.device)
        if kind != "min-snr":
            raise ConfigError(f"loss weighting is 'none' or 'min-snr', not {kind!r}")
        snr = self.alpha_bar / self.sigma.square()
        weight = snr.clamp(max=limit) / (snr if self.prediction == "epsilon" else snr + 1)
        return weight.to(timesteps.device)[timesteps].float()


def at(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """table[timesteps] as float32 (N, 1, 1, 1) beside ``like`` (N, C, h, w)."""
    values = table.to(device=timesteps.device)[timesteps].to(torch.float32)
    return values.reshape(-1, *([1] * (like.dim() - 1)))
