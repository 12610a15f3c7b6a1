"""The VAE training loop: a toy VAE from scratch, or the decoder of a given one.

The paper fine-tunes the decoder of sd-vae-ft-mse on the training images for 77 epochs (sec.
4.1: "the face is distorted if not"); its loss is not published (ours: ``vae_loss``).

A step depends only on the seed and its number, so an interrupted run resumes exactly.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.progress import Progress, Say, silent, silently
from xmdpt_cli.training.logger import MetricsLogger, TimedIterator
from xmdpt_cli.utils.prefetch import prefetch
from xmdpt_cli.vae_training import folder
from xmdpt_cli.vae_training.config import VaeConfig, settle
from xmdpt_cli.vae_training.examples import (
    Examples,
    ImageExamples,
    Images,
    VaeBatch,
    digest,
    evenly_spaced,
    sample_batch,
)
from xmdpt_cli.vae_training.folder import VAEStats
from xmdpt_cli.vae_training.trainer import VaeTrainer

_THREADS = 4  # that read and decode the images of later steps


def train_vae(
    vae: VAE,
    images: Images,
    config: VaeConfig,
    *,
    out: str | Path,
    held_out: NDArray[np.uint8] | None = None,
    progress: Progress = silent,
) -> VAEStats:
    """Train ``vae`` in place on images alone, without LPIPS, into the diffusers folder ``out``.

    The scaling factor of a VAE trained from scratch is set to 1 / standard deviation of its
    latents. The same call resumes an interrupted run and returns the statistics of a finished one.
    Raises XmdptError if ``out`` holds something else, if there are no images, and if the loss is
    not finite.
    """
    out = Path(out)
    if len(images) == 0:
        raise XmdptError("no images to train the VAE on")
    config = settle(config, len(images))
    this = folder.identity(config, digest(images), vae, "none")
    trainer = VaeTrainer(vae, config)
    with only_process(out):
        folder.start_training(out, this, config)
        done = folder.finished(out)
        if done is not None:
            trained = VAE.load(out, device=vae.device, dtype=vae.dtype)
            vae.net, vae.origin = trained.net, trained.origin
            return folder.stats_of(done)
        started = time.monotonic()
        before = None if held_out is None else reconstruction_psnr(vae, held_out)
        fit(trainer, ImageExamples(images), out, progress)
        after = folder.write_part(out, vae, None if config.all_weights else this["encoder"])
        psnr = None if held_out is None else reconstruction_psnr(vae, held_out)
        stats = make_stats(trainer, len(images), before, psnr, time.monotonic() - started)
        record = {
            "settings": asdict(config),
            "encoder": {"before": this["encoder"], "after": after},
        }
        folder.publish(out, vae, {**record, "stats": asdict(stats)})
    return stats


def fit(
    trainer: VaeTrainer,
    examples: Examples,
    out: Path,
    progress: Progress = silent,
    say: Say = silently,
) -> None:
    """Train until all steps are done; resumes from, and saves checkpoints to, the folder ``out``.

    Afterwards ``trainer.vae`` has the EMA weights, if there is an EMA, and the scaling factor of
    its latents, if the encoder was trained. A collective.
    """
    net, dist, config = trainer.decoder.net, trainer.dist, trainer.config
    for parameter in trainer.parameters:  # before resuming: a frozen one gets no optimizer state
        parameter.requires_grad_(True)
    try:
        resumed = trainer.resume(out / folder.CHECKPOINTS)
        if resumed and dist.is_main and trainer.done < config.steps:
            say(f"resuming at step {trainer.done} of {config.steps}")
        if trainer.done < config.steps:
            _steps(trainer, examples, out, progress)
    finally:
        net.requires_grad_(False)
    trainer.use_ema()
    if config.all_weights:
        set_scale(trainer.vae, examples.images)


def _steps(trainer: VaeTrainer, examples: Examples, out: Path, progress: Progress) -> None:
    config, dist, vae = trainer.config, trainer.dist, trainer.vae
    first = trainer.done
    logger = MetricsLogger(
        out, first, config.log_every, dist, device=vae.device, steps=config.steps, tensorboard=False
    )

    def make(step: int) -> VaeBatch:
        return sample_batch(
            examples, vae, config.seed, step, config.batch_size, dist.rank, dist.world_size
        )

    reading = closing(prefetch(make, range(first, config.steps), threads=_THREADS))
    try:
        with reading as batches, dist.interruptible() as interrupted:
            timed = TimedIterator(batches)
            for batch in timed:
                terms = trainer.step(batch)
                logger.log_step(
                    {name: torch.tensor(value) for name, value in terms.items()},
                    trainer.done,
                    config.batch_size,
                    timed.pop_seconds(),
                    trainer.learning_rate,
                )
                if trainer.done % config.checkpoint_every == 0 or trainer.done == config.steps:
                    with logger.paused():
                        trainer.save(out / folder.CHECKPOINTS)
                progress("vae", trainer.done, config.steps, loss=terms["loss"])
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if trainer.done > first:
            trainer.save(out / folder.CHECKPOINTS)
        raise


def make_stats(
    trainer: VaeTrainer, images: int, before: float | None, after: float | None, seconds: float
) -> VAEStats:
    """The statistics of a finished training."""
    return VAEStats(
        steps=trainer.done,
        images=images,
        decoder_only=not trainer.config.all_weights,
        loss_first=trainer.first_loss,
        loss_last=float(np.mean(trainer.last_losses)),
        psnr_before=before,
        psnr=after,
        scaling_factor=trainer.vae.scale,
        seconds=seconds,
    )


def reconstruction_psnr(vae: VAE, images: NDArray[np.uint8]) -> float:
    """Encode to the posterior's mean, decode: PSNR in dB per uint8 image, then the mean."""
    decoded = vae.decode(posterior_mean(vae.encode_moments(images), vae.scale))
    error = (decoded.astype(np.float64) - images.astype(np.float64)) / 255.0
    mse = np.maximum((error**2).mean(axis=(1, 2, 3)), 1e-10)  # equal images: 100 dB
    return float((-10.0 * np.log10(mse)).mean())


def set_scale(vae: VAE, images: Images) -> None:
    """scaling_factor = 1 / standard deviation of the latents, as latent diffusion defines it."""
    latents = posterior_mean(vae.encode_moments(evenly_spaced(images, 256)), 1.0)
    deviation = float(latents.std())
    if not (math.isfinite(deviation) and deviation > 0):
        raise XmdptError(
            "all latents of the trained VAE are equal: there is no scale for them",
            "train it on images that differ",
        )
    vae.net.register_to_config(scaling_factor=1.0 / deviation)
