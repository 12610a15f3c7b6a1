"""The training loss: mean squared error plus the variational bound that trains the variance
(improved DDPM), for the unmasked and for the masked pass (X-MDPT eq. 5).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.diffusion.contrastive import distance_to_other
from xmdpt_cli.diffusion.model_guidance import target_shift
from xmdpt_cli.diffusion.schedule import Schedule, at

LINEAR = Schedule()


class Losses(NamedTuple):
    """The total, which is minimised, and its terms (N,), detached and unweighted.

    Attributes:
        total: (), mean(mse + vb) + mean(masked_mse + masked_vb), paper eq. 5, with the weights and
            the further terms of the options.
        mse: Squared error of the prediction; with model guidance, from the shifted target.
        vb: Variational bound in bits per dimension; None: the variance is not trained.
        masked_mse: The same of the masked pass; None: there was no such pass.
        masked_vb: The same of the masked pass.
        repa: Cosine similarity of hidden tokens and REPA's target; None: REPA is off.
        flow: Squared difference of the target and the source warped by attention; None: off.
        flow_joints: Squared distance of attention at the keypoints, in image sides; None: off.
    """

    total: Tensor
    mse: Tensor
    vb: Tensor | None = None
    masked_mse: Tensor | None = None
    masked_vb: Tensor | None = None
    repa: Tensor | None = None
    flow: Tensor | None = None
    flow_joints: Tensor | None = None


def training_loss(
    out: Tensor,
    latents: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    *,
    masked_out: Tensor | None = None,
    masked_noise: Tensor | None = None,
    repa: Tensor | None = None,
    repa_target: Tensor | None = None,
    repa_weight: Tensor | float | None = None,
    weighting: str = "none",
    schedule: Schedule = LINEAR,
    keep: Tensor | None = None,
    keep_masked: Tensor | None = None,
    unconditional: Tensor | None = None,
    masked_unconditional: Tensor | None = None,
    model_guidance: float = 0.0,
    contrastive_weight: float = 0.0,
) -> Losses:
    """The loss of one training step from the outputs of its passes.

    Args:
        out: (N, 2C, h, w), the unmasked pass on ``schedule.add_noise(latents, noise, timesteps)``.
        latents: (N, C, h, w), clean and scaled.
        timesteps: (N,) integers in [0, 1000).
        noise: (N, C, h, w), the noise of the unmasked pass.
        masked_out: The same as ``out`` for the masked pass; None: there is no such pass.
        masked_noise: The noise of the masked pass.
        repa: (N, T, W), projected hidden tokens.
        repa_target: (N, T, W), the tokens that REPA aligns them with.
        repa_weight: Weight of 1 - cosine similarity of the two, a number or a tensor ().
        weighting: Weighting of the squared error, as in ``Schedule.weight``.
        schedule: The noise schedule.
        keep: (N,) bool, rows that keep their conditions; None: all.
        keep_masked: The same in the masked pass.
        unconditional: (N, 2C, h, w), the unmasked pass without conditions, for ``model_guidance``.
        masked_unconditional: The same of the masked pass.
        model_guidance: Scale w of model guidance (``diffusion.model_guidance``); 0: off.
        contrastive_weight: Weight of the distance to another sample's target
            (``diffusion.contrastive``); 0: off.
    """
    weight = schedule.weight(weighting, timesteps)

    def of_pass(
        out: Tensor, noise: Tensor, keep: Tensor | None, unconditional: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        shift = None
        if model_guidance:
            assert unconditional is not None
            shift = target_shift(out, unconditional, keep, model_guidance)
        mse, vb = loss_terms(out, latents, noise, timesteps, schedule, shift)
        error = mse
        if contrastive_weight:
            prediction = out.float().chunk(2, dim=1)[0]
            away = distance_to_other(prediction, latents, noise, timesteps, keep, schedule)
            error = mse - contrastive_weight * away
        weighted = weight * error
        return (weighted if vb is None else weighted + vb).mean(), mse, vb

    total, mse, vb = of_pass(out, noise, keep, unconditional)
    masked_mse = masked_vb = cosine = None
    if masked_out is not None:
        assert masked_noise is not None
        masked, masked_mse, masked_vb = of_pass(
            masked_out, masked_noise, keep_masked, masked_unconditional
        )
        total = total + masked  # paper eq. 5
    if repa is not None and repa_target is not None and repa_weight is not None:
        # REPA (Yu et al. 2024, eq. 8): mean over tokens of the cosine similarity
        cosine = F.cosine_similarity(repa.float(), repa_target.float(), dim=-1).mean(dim=1)
        total = total + repa_weight * (1 - cosine).mean()
    rows = (mse, vb, masked_mse, masked_vb, cosine)
    return Losses(total, *(None if row is None else row.detach() for row in rows))  # type: ignore[arg-type]


def loss_terms(
    out: Tensor,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule = LINEAR,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(mse (N,), vb (N,) in bits per dimension) of a prediction ``out`` (N, 2C, h, w); float32.

    ``shift`` (N, C, h, w) is added to the target of mse, not of vb: the bound is that of the data.
    vb is None where the schedule has no variational bound: the second half of ``out`` is not
    trained then.
    """
    prediction, variance = out.float().chunk(2, dim=1)
    error = prediction - schedule.target(clean, noise, timesteps)
    mse = (error if shift is None else error - shift).square().flatten(1).mean(dim=1)
    if not schedule.trains_variance:
        return mse, None
    # the mean is detached: the bound trains the variance alone (improved DDPM sec. 3.1)
    vb = variational_bound(error.detach(), variance, clean, timesteps, schedule)
    return mse, vb


def variational_bound(
    error: Tensor,
    variance: Tensor,
    clean: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p), the likelihood of x_0 at t = 0; (N,) bits per dimension.

    ``error``: prediction minus target. x_0 is never clipped. The network's ``variance`` v in
    [-1, 1] interpolates in the log between the posterior variance and beta: f = (v + 1) / 2.

    The difference of the two means is a multiple of ``error``, and that of the log variances of f.
    Both are taken as that, with factors from float64 tables: as differences of float32 numbers
    they would lose 3 to 4 digits at the smallest timesteps, and all of them at the largest.
    """
    difference = at(schedule.weight_of_clean * schedule.clean_per_error, timesteps, clean) * error
    true_log = schedule.posterior_log_variance
    f = (variance + 1) / 2
    wider = f * at(schedule.beta.log() - true_log, timesteps, clean)
    log = at(true_log, timesteps, clean) + wider

    kl = 0.5 * (wider + torch.expm1(-wider) + difference.square() * (-log).exp())
    kl = kl.flatten(1).mean(dim=1) / math.log(2.0)
    nll = -discretised_log_likelihood(clean, difference, 0.5 * log)
    nll = nll.flatten(1).mean(dim=1) / math.log(2.0)
    return torch.where(timesteps == 0, nll, kl)


def discretised_log_likelihood(x: Tensor, error: Tensor, log_scale: Tensor) -> Tensor:
    """log of the Gaussian's mass on the bin x +- 1/255, open beyond +-0.999 (DDPM eq. 13).

    ``error``: x minus the Gaussian's mean.
    """

    def cdf(z: Tensor) -> Tensor:
        # tanh approximation of the normal CDF, as published: (1 + tanh u) / 2 = sigmoid(2 u),
        # which keeps its digits where it is small
        return torch.sigmoid(2 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z.pow(3)))

    inverse, half, tiny = (-log_scale).exp(), 1.0 / 255.0, 1e-12
    # the bin's mirror image has the same mass, and one of the two lies where the CDF is small
    low = -error.abs()
    mass = cdf(inverse * (low + half)) - cdf(inverse * (low - half))
    below = cdf(inverse * (error + half)).clamp(min=tiny).log()
    above = cdf(inverse * (half - error)).clamp(min=tiny).log()
    middle = mass.clamp(min=tiny).log()
    return torch.where(x < -0.999, below, torch.where(x > 0.999, above, middle))
