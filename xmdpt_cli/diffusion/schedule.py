"""The noise schedule and what follows from it in closed form (DDPM; improved DDPM; flow matching).

All tables are float64, on the CPU until ``to`` moves them; ``at`` picks them for a batch of
timesteps in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError

Level = Tensor | float  # alpha or sigma, of each image or of all

KINDS = ("linear", "cosine", "flow")
PREDICTIONS = ("epsilon", "v", "flow")


@dataclass(frozen=True)
class Schedule:
    """The noise schedule, x_t = alpha x_0 + sigma eps, with its tables.

    "linear" and "cosine" preserve the variance: alpha = sqrt(abar), sigma = sqrt(1 - abar). "flow"
    is the straight line of flow matching (Lipman et al. 2022, arXiv 2210.02747; rectified flow,
    arXiv 2209.03003): sigma = (t + 1) / T, alpha = 1 - sigma, pure noise at t = T - 1.

    Args:
        kind: "linear" (the paper: betas 1e-4 .. 2e-2), "cosine" or "flow".
        prediction: What the first half of the network's output channels is, "epsilon" (the paper)
            or "v"; of "flow" always "flow", the velocity dx/dsigma = eps - x_0.
        steps: Number of timesteps T.
    """

    kind: str = "linear"
    prediction: str = "epsilon"
    steps: int = 1000
    alpha: Tensor = field(init=False, repr=False, compare=False)
    sigma: Tensor = field(init=False, repr=False, compare=False)
    # x_0 minus the x_0 of a prediction, per unit of (prediction - target)
    clean_per_error: Tensor = field(init=False, repr=False, compare=False)

    # of "linear" and "cosine" only, whose variance can be trained:
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)
    alpha_bar_previous: Tensor = field(init=False, repr=False, compare=False)
    beta: Tensor = field(init=False, repr=False, compare=False)
    # of q(x_{t-1} | x_t, x_0), DDPM eq. 7; zero at t = 0
    posterior_variance: Tensor = field(init=False, repr=False, compare=False)
    # the posterior variance at t = 0 is replaced by that at t = 1, since log 0 is undefined
    posterior_log_variance: Tensor = field(init=False, repr=False, compare=False)
    # weights of x_0 and x_t in the posterior mean, DDPM eq. 7
    weight_of_clean: Tensor = field(init=False, repr=False, compare=False)
    weight_of_noisy: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"prediction is one of {', '.join(PREDICTIONS)}, not {self.prediction!r}"
            )
        if self.kind not in KINDS:
            raise ConfigError(f"schedule is one of {', '.join(KINDS)}, not {self.kind!r}")
        if (self.kind == "flow") != (self.prediction == "flow"):
            raise ConfigError(f"schedule {self.kind} does not fit prediction {self.prediction}")
        if self.kind == "flow":
            t = torch.arange(self.steps, dtype=torch.float64)
            sigma = (t + 1) / self.steps
            self._set(alpha=(self.steps - 1 - t) / self.steps, sigma=sigma, clean_per_error=sigma)
        else:
            self._set_variance_preserving()

    def _set_variance_preserving(self) -> None:
        if self.kind == "linear":
            # the two ends are for 1000 steps; other lengths scale them (improved DDPM)
            scale = 1000 / self.steps
            beta = torch.linspace(1e-4 * scale, 2e-2 * scale, self.steps, dtype=torch.float64)
        else:
            # improved DDPM eq. 17, s = 0.008, betas capped at 0.999
            t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        # 1 - alpha_bar, without its rounding where alpha_bar is close to 1
        rest = -torch.expm1(torch.log1p(-beta).cumsum(dim=0))
        rest_before = torch.cat([torch.zeros(1, dtype=torch.float64), rest[:-1]])
        variance = beta * rest_before / rest
        signal = alpha_bar.sqrt() if self.prediction == "epsilon" else torch.ones_like(rest)
        self._set(
            alpha=alpha_bar.sqrt(),
            sigma=rest.sqrt(),
            clean_per_error=rest.sqrt() / signal,
            alpha_bar=alpha_bar,
            alpha_bar_previous=previous,
            beta=beta,
            posterior_variance=variance,
            posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
            weight_of_clean=beta * previous.sqrt() / rest,
            weight_of_noisy=rest_before * (1 - beta).sqrt() / rest,
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

    @property
    def trains_variance(self) -> bool:
        """Whether the variational bound, which trains the variance, is defined."""
        return self.kind != "flow"

    def of_velocity(self) -> Schedule:
        """The same schedule for a model that predicts the velocity: v, or the flow's."""
        prediction = "flow" if self.kind == "flow" else "v"
        return replace(self, prediction=prediction).to(self.sigma.device)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma eps; (N, C, h, w), timesteps (N,)."""
        alpha, sigma = self.levels(timesteps, clean)
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network predicts: the noise, v = alpha eps - sigma x_0, or eps - x_0."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - clean
        alpha, sigma = self.levels(timesteps, clean)
        return alpha * noise - sigma * clean

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at timesteps (N,), float32 (N, 1, 1, 1) beside ``like``."""
        return at(self.alpha, timesteps, like), at(self.sigma, timesteps, like)

    def clean(self, x: Tensor, out: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """The clean latents x_0 that a prediction ``out`` implies, x = alpha x_0 + sigma eps."""
        if self.prediction == "epsilon":
            return (x - sigma * out) / alpha
        if self.prediction == "flow":
            return x - sigma * out
        return alpha * x - sigma * out

    def out_of_clean(self, x: Tensor, clean: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """The prediction that implies x_0 = ``clean``: the inverse of ``clean``."""
        if self.prediction == "epsilon":
            return (x - alpha * clean) / sigma
        if self.prediction == "flow":
            return (x - clean) / sigma
        return (alpha * x - clean) / sigma

    def velocity(self, x: Tensor, out: Tensor, timesteps: Tensor) -> Tensor:
        """A prediction ``out`` at x (N, C, h, w) as that of ``of_velocity``; timesteps (N,)."""
        if self.prediction != "epsilon":
            return out
        # v = alpha eps - sigma x_0
        alpha, sigma = self.levels(timesteps, x)
        return (out - sigma * x) / alpha

    def weight(self, kind: str, timesteps: Tensor, limit: float = 5.0) -> Tensor:
        """Weights (N,) of the squared error at these timesteps.

        "none": 1. "min-snr" (Hang et al. 2023, arXiv 2303.09556, eq. 8; MDTv2 takes limit 5): the
        loss on x_0 weighted by min(SNR, limit), SNR = (alpha / sigma)^2, in terms of what the
        network predicts: min(SNR, limit) / SNR for the noise, / (SNR + 1) for v, times sigma^2 for
        the flow's velocity. Where the image is pure noise the weight is 0.
        """
        if kind == "none":
            return torch.ones(timesteps.shape, device=timesteps.device)
        if kind != "min-snr":
            raise ConfigError(f"loss weighting is 'none' or 'min-snr', not {kind!r}")
        snr = (self.alpha / self.sigma).square()
        weight = snr.clamp(max=limit) * self.clean_per_error.square()
        return weight.to(timesteps.device)[timesteps].float()


def at(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """table[timesteps] as float32 (N, 1, 1, 1) beside ``like`` (N, C, h, w)."""
    values = table.to(device=timesteps.device)[timesteps].to(torch.float32)
    return values.reshape(-1, *([1] * (like.dim() - 1)))
