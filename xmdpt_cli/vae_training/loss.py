"""The loss of VAE training: L1 and MSE, weighted per pixel, LPIPS, and a small KL term.

The paper does not publish the loss of its fine-tuning. Legend: N images, C latent channels,
h, w latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.vae import VAE, to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.metrics.lpips_metric import SMALLEST, LpipsNetwork
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.vae_training.config import VaeConfig
from xmdpt_cli.vae_training.examples import VaeBatch


def vae_losses(
    vae: VAE,
    batch: VaeBatch,
    config: VaeConfig,
    *,
    decoder: Decoder | None = None,
    perceptual: LpipsNetwork | None = None,
    dist: Distributed = SINGLE_PROCESS,
    autocast: bool = False,
) -> dict[str, Tensor]:
    """The scalar loss terms of one step; only ``loss``, their weighted sum, has a gradient.

    ``l1`` and ``mse`` are the plain means on [-1, 1], as logged; in ``loss`` each pixel counts by
    ``config.foreground_weight`` and ``config.face_weight``. The latents are sampled from the
    posterior as in the published training. ``decoder``: the one that is trained, if it is not the
    VAE's: its images are compared with those that the VAE decodes, too.
    """
    decoder = decoder or vae
    target = to_signed(batch.images)
    latents, mean, log_variance = _latents(vae, batch, target, config, dist, autocast)
    with torch.autocast(vae.device.type, torch.bfloat16, enabled=autocast):
        # what diffusers' pipelines do to scaled latents: for the VAE itself times 1
        decoded = decoder.net.decode(latents * (decoder.scale / decoder.net_scale)).sample.float()
    weight = 1.0 + (config.foreground_weight - 1.0) * foreground(target)  # (N, 1, H, W)
    if batch.head is not None:
        weight = weight * (1.0 + (config.face_weight - 1.0) * batch.head)
    loss, terms = _distance(decoded, target, weight, config, perceptual)
    share = config.full_share if config.tiny else 0.0
    if share:
        with torch.no_grad(), torch.autocast(vae.device.type, torch.bfloat16, enabled=autocast):
            full = vae.net.decode(latents).sample.float()
        to_full, of_full = _distance(decoded, full, weight, config, perceptual)
        loss = (1.0 - share) * loss + share * to_full
        terms |= {f"{name}_full": term for name, term in of_full.items()}
    if config.all_weights:  # here, not before decoding: the order decides how gradients round
        each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        kl = each.sum(dim=(1, 2, 3)).mean()
        loss = loss + config.kl * kl
        terms["kl"] = kl.detach()
    return {"loss": loss, **terms}


def _distance(
    decoded: Tensor,
    target: Tensor,
    weight: Tensor,
    config: VaeConfig,
    perceptual: LpipsNetwork | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss between images (N, 3, H, W) in [-1, 1], and its terms without gradient.

    ``weight``: of each pixel, (N, 1, H, W).
    """
    error = decoded - target
    absolute, squared = error.abs(), error.square()
    loss = (weight * (config.l1 * absolute + config.mse * squared)).mean()
    terms = {"l1": absolute.detach().mean(), "mse": squared.detach().mean()}
    if perceptual is not None:
        distance = _lpips(perceptual, decoded, target)
        loss = loss + config.lpips * distance
        terms["lpips"] = distance.detach()
    return loss, terms


def _latents(
    vae: VAE, batch: VaeBatch, target: Tensor, config: VaeConfig, dist: Distributed, autocast: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sampled latents, mean and log variance of the posterior: (N, C, h, w) each, unscaled."""
    trained = config.all_weights
    # a frozen encoder runs as it did when the dataset was prepared: in float32
    with (
        torch.set_grad_enabled(trained),
        torch.autocast(vae.device.type, torch.bfloat16, enabled=autocast and trained),
    ):
        moments = batch.moments
        if moments is None:
            moments = vae.net.encode(target).latent_dist.parameters.float()
        mean, log_variance = moments.chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 20.0)  # as AutoencoderKL does
        variance = log_variance.exp()
        if trained:
            # the posterior's noise and the added noise are independent: their variances add
            variance = variance + (config.latent_noise * deviation(mean, dist)) ** 2
        latents = mean + variance.sqrt() * batch.noise
    return latents, mean, log_variance


def deviation(values: Tensor, dist: Distributed) -> Tensor:
    """Standard deviation of ``values`` over all ranks (equal counts), without gradient."""
    values = values.detach()
    if dist.world_size == 1:
        return values.std()
    wide = values.double()
    mean, square = dist.all_reduce_mean(torch.stack([wide.mean(), wide.square().mean()]))
    count = values.numel() * dist.world_size
    variance = (square - mean.square()) * count / (count - 1)
    return variance.clamp(min=0).sqrt().to(values.dtype)


def foreground(batch: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W): 1 where a pixel differs from the border's median colour."""
    border = torch.cat([batch[:, :, 0], batch[:, :, -1], batch[..., 0], batch[..., -1]], dim=2)
    background = border.median(dim=2).values[..., None, None]  # (N, 3, 1, 1)
    return ((batch - background).abs().amax(dim=1, keepdim=True) > 0.06).to(batch.dtype)


def _lpips(network: LpipsNetwork, decoded: Tensor, target: Tensor) -> Tensor:
    """Mean LPIPS of two batches (N, 3, H, W) in [-1, 1]. XmdptError below 31 px a side."""
    side = min(target.shape[2:])
    if side < SMALLEST:
        raise XmdptError(
            f"LPIPS needs images of {SMALLEST} px, these have {side}",
            "train without it: --lpips 0",
        )
    return network(decoded, target).mean()
