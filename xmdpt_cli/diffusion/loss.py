"""The training loss: mean squared error plus the variational bound that trains the variance
(improved DDPM), for the unmasked and for the masked pass (X-MDPT eq. 5).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule, at

LINEAR = Schedule()


class Losses(NamedTuple):
    """Per-row terms (N,), detached and unweighted, and what is minimised."""

    total: Tensor  # mean(loss) + mean(masked loss), paper eq. 5
    mse: Tensor
    vb: Tensor
    masked_mse: Tensor | None = None
    masked_vb: Tensor | None = None
    align: Tensor | None = None  # cosine similarity to what is aligned with


def training_loss(
    model: Any,
    latents: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    condition: Tensor,
    *,
    keep: Tensor | None = None,
    keep_masked: Tensor | None = None,
    source_latents: Tensor | None = None,
    mask: Any = None,
    context: Any = None,
    align: Tensor | None = None,
    align_weight: float = 0.0,
    weighting: str = "none",
    schedule: Schedule = LINEAR,
) -> Losses:
    """Both passes of one training step, same noise and timesteps, independent guidance drops.

    latents (N, C, h, w) clean and scaled; timesteps (N,) integers in [0, 1000); noise like
    latents; condition (N, D) from ``model.condition``; ``keep`` and ``keep_masked`` (N,) bool say
    which rows keep their condition in each pass (None: all), the others see a zero vector.
    Without ``mask`` (``model.Mask``) the masked pass is left out; it may need ``source_latents``
    (N, C, h, w). ``weighting`` of the squared error: ``Schedule.weight``. ``align`` (N, T, W): the
    tokens REPA aligns the hidden ones with, ``align_weight`` times 1 - cosine is added.
    """
    noisy = schedule.add_noise(latents, noise, timesteps)
    out, masked, hidden = model.passes(
        noisy,
        timesteps,
        _dropped(condition, keep),
        _dropped(condition, keep_masked),
        source_latents,
        mask,
        context,
    )
    weight = schedule.weight(weighting, timesteps)
    mse, vb = loss_terms(out, latents, noisy, noise, timesteps, schedule)
    total = (weight * mse + vb).mean()
    masked_mse = masked_vb = cosine = None
    if masked is not None:
        masked_mse, masked_vb = loss_terms(masked, latents, noisy, noise, timesteps, schedule)
        total = total + (weight * masked_mse + masked_vb).mean()  # paper eq. 5
    if align is not None and hidden is not None:
        # REPA (Yu et al. 2024, eq. 8): mean over tokens of the cosine similarity
        cosine = F.cosine_similarity(hidden.float(), align.float(), dim=-1).mean(dim=1)
        total = total + align_weight * (1 - cosine).mean()
    rows = (mse, vb, masked_mse, masked_vb, cosine)
    return Losses(total, *(None if row is None else row.detach() for row in rows))  # type: ignore[arg-type]


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
    of_x0 = at(schedule.weight_of_clean, timesteps, clean)
    of_xt = at(schedule.weight_of_noisy, timesteps, clean)
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
