"""The training loss: mean squared error plus the variational bound that trains the variance
(improved DDPM), for the unmasked and for the masked pass (X-MDPT eq. 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule, at

LINEAR = Schedule()


@dataclass(frozen=True)
class Losses:
    """Per-row terms (N,) and what is minimised: mean(loss) + mean(masked loss)."""

    total: Tensor
    mse: Tensor
    vb: Tensor
    masked_mse: Tensor | None = None
    masked_vb: Tensor | None = None


def training_loss(
    model: Callable[..., Tensor],
    latents: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    condition: Tensor,
    *,
    keep: Tensor | None = None,
    masked: bool = True,
    source_latents: Tensor | None = None,
    token_noise: Tensor | None = None,
    keep_masked: Tensor | None = None,
    context: Any = None,
    schedule: Schedule = LINEAR,
) -> Losses:
    """Both passes of one training step, same noise and timesteps, independent guidance drops.

    latents (N, C, h, w) clean and scaled; timesteps (N,) integers in [0, 1000); noise like
    latents; condition (N, D) from ``model.condition``; ``keep`` and ``keep_masked`` (N,) bool say
    which rows keep their condition in each pass (None: all), the others see a zero vector.
    ``masked=False`` leaves the masked pass out; else ``source_latents`` (N, C, h, w) and
    ``token_noise`` (N, T) are needed, and ``model.forward_masked``.
    """
    noisy = schedule.add_noise(latents, noise, timesteps)
    extra = {} if context is None else {"context": context}
    out = model(noisy, timesteps, _dropped(condition, keep), **extra)
    mse, vb = loss_terms(out, latents, noisy, noise, timesteps, schedule)
    total = (mse + vb).mean()
    if not masked:
        return Losses(total, mse.detach(), vb.detach())
    out = model.forward_masked(  # type: ignore[attr-defined]
        noisy, timesteps, _dropped(condition, keep_masked), source_latents, token_noise, **extra
    )
    masked_mse, masked_vb = loss_terms(out, latents, noisy, noise, timesteps, schedule)
    total = total + (masked_mse + masked_vb).mean()  # paper eq. 5
    return Losses(total, mse.detach(), vb.detach(), masked_mse.detach(), masked_vb.detach())


def loss_terms(
    out: Tensor,
    clean: Tensor,
    noisy: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule = LINEAR,
) -> tuple[Tensor, Tensor]:
    """(mse (N,), vb (N,) in bits per dimension) of a prediction ``out`` (N, 2C, h, w); float32."""
    prediction, variance = out.float().chunk(2, dim=1)
    target = schedule.target(clean, noise, timesteps)
    mse = (target - prediction).square().flatten(1).mean(dim=1)
    # the mean is detached: the bound trains the variance alone (improved DDPM sec. 3.1)
    vb = variational_bound(prediction.detach(), variance, clean, noisy, timesteps, schedule)
    return mse, vb


def variational_bound(
    prediction: Tensor,
    variance: Tensor,
    clean: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p), the likelihood of x_0 at t = 0; (N,) bits per dimension.

    x_0 is never clipped. The network's ``variance`` v in [-1, 1] interpolates in the log between
    the posterior variance and beta: f = (v + 1) / 2.
    """
    of_x0, of_xt = (at(w, timesteps, clean) for w in schedule.posterior_mean_weights())
    true_mean = of_x0 * clean + of_xt * noisy
    true_log = at(schedule.posterior_log_variance, timesteps, clean)
    guess, _ = schedule.clean_and_noise(noisy, prediction, at(schedule.alpha_bar, timesteps, clean))
    mean = of_x0 * guess + of_xt * noisy
    f = (variance + 1) / 2
    log = f * at(schedule.beta.log(), timesteps, clean) + (1 - f) * true_log

    kl = 0.5 * (
        log - true_log - 1 + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp()
    )
    kl = kl.flatten(1).mean(dim=1) / math.log(2.0)
    nll = -discretised_log_likelihood(clean, mean, 0.5 * log)
    nll = nll.flatten(1).mean(dim=1) / math.log(2.0)
    return torch.where(timesteps == 0, nll, kl)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the Gaussian's mass on the bin x +- 1/255, open beyond +-0.999 (DDPM eq. 13)."""

    def cdf(z: Tensor) -> Tensor:  # tanh approximation of the normal CDF, as published
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z.pow(3))))

    inverse = (-log_scale).exp()
    upper = cdf(inverse * (x - mean + 1.0 / 255.0))
    lower = cdf(inverse * (x - mean - 1.0 / 255.0))
    tiny = 1e-12
    middle = (upper - lower).clamp(min=tiny).log()
    first, last = upper.clamp(min=tiny).log(), (1.0 - lower).clamp(min=tiny).log()
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, middle))


def _dropped(condition: Tensor, keep: Tensor | None) -> Tensor:
    """Zero rows stand for the unconditional model (classifier-free guidance)."""
    return condition if keep is None else condition * keep.to(condition.dtype).unsqueeze(1)
