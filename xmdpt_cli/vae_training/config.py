"""The settings of a VAE training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from xmdpt_cli.config import at_least, check_choices, option
from xmdpt_cli.errors import ConfigError

# For toys at 64 px. Measured on synthetic people, same time each: 300 steps of 4 images 27.2 dB,
# 600 of 2 27.8, 1200 of 1 27.9; at 4e-3 half a decibel less; 1800 of 2: 29.1 dB.
# Four numbers for 4x4 pixels are few: the best linear code of that size reaches 23.0 dB.
TOY_LR = 2e-3
# Latent-diffusion autoencoders were trained at 4.5e-6 per image of the batch (CompVis configs).
FINE_TUNE_LR_PER_IMAGE = 4.5e-6
# A tiny decoder from random weights; see FULL_SHARE for the data.
TINY_LR = 2e-3
# On synthetic people at 64 px: 0.3 costs 0.9 dB of reconstruction (0.15: 0.3 dB) and takes most
# blotches out of generated people, 0.01 of SSIM.
LATENT_NOISE = 0.2
FULL_SHARE = 0.5


@dataclass(frozen=True)
class VaeConfig:
    """One VAE training. The paper gives 77 epochs of the decoder (sec. 4.1) and no loss.

    The weights of the loss are those of public VAE fine-tuning: plain differences first, and a
    tenth of LPIPS (sd-vae-ft-mse's model card); the foreground counts more because synthetic people
    and DeepFashion stand before plain backgrounds.
    """

    epochs: float = option(77.0, "Number of epochs over the training images; the paper: 77.")
    steps: int = option(0, "Number of optimizer steps; 0: from --epochs.")
    batch_size: int = option(8, "Images per step, over all processes.")
    learning_rate: float = option(0.0, "Learning rate of AdamW; 0: 4.5e-6 x batch size.")
    l1: float = option(1.0, "Weight of the absolute difference in the loss.")
    mse: float = option(2.0, "Weight of the squared difference in the loss.")
    lpips: float = option(0.1, "Weight of LPIPS in the loss; 0: no LPIPS.")
    face_weight: float = option(1.0, "Weight of pixels around the head in the loss.")
    foreground_weight: float = option(3.0, "Weight of pixels outside the background in the loss.")
    kl: float = 1e-6  # weight of the KL term, with all_weights only
    latent_noise: float = LATENT_NOISE  # in deviations of the latents, with all_weights only
    ema: float = option(0.0, "Decay of the EMA of the weights; 0: no EMA.")
    all_weights: bool = option(
        False, "Train a small VAE from scratch instead.", names=("--all-weights",)
    )
    decoder: str = option(
        "full",
        "Decoder to train: the VAE's own, or a tiny one that imitates it.",
        choices=("full", "tiny"),
    )
    full_share: float = option(
        FULL_SHARE,
        "Weight of the full decoder's images in a tiny decoder's loss; the photographs have the "
        "rest of 1.",
    )
    cached_latents: bool = option(
        True,
        "Train on the dataset's latents, or encode images in every step.",
        names=("--cached-latents/--encode",),
    )
    precision: str = option(
        "auto",
        "Precision of the VAE; auto: bf16 on a GPU, else fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    seed: int = option(0, "Random seed.")
    checkpoint_every: int = option(500, "Steps between checkpoints.")
    log_every: int = 50

    @property
    def tiny(self) -> bool:
        return self.decoder == "tiny"

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(self, 1, "batch_size", "checkpoint_every", "log_every")
        at_least(self, 0, "steps", "seed", "learning_rate", "l1", "mse", "lpips", "kl")
        at_least(self, 0, "latent_noise", "face_weight", "foreground_weight")
        if not 0 < self.epochs < math.inf:
            raise ConfigError(f"epochs must be positive, not {self.epochs}")
        if not 0 <= self.full_share <= 1:
            raise ConfigError(f"full_share lies in [0, 1], not {self.full_share}")
        if self.tiny and self.all_weights:
            raise ConfigError(
                "--all-weights trains a VAE with latents of its own, and --decoder tiny a decoder "
                "for latents that exist",
                "leave out one of them",
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema lies in [0, 1), not {self.ema}")
        if self.l1 + self.mse + self.lpips == 0:
            raise ConfigError("l1, mse and lpips are all 0: there is nothing to train for")


def settle(config: VaeConfig, images: int) -> VaeConfig:
    """Replace the defaults that depend on the training: steps, epochs and the learning rate.

    Settings that this kind of training does not use become 0 or False. ``images``: size of the
    training set.
    """
    scratch, batch = config.all_weights, config.batch_size
    fine_tuned = TINY_LR if config.tiny else FINE_TUNE_LR_PER_IMAGE * batch
    steps = config.steps or max(1, math.ceil(config.epochs * images / batch))
    chosen = TOY_LR if scratch else fine_tuned
    return dataclasses.replace(
        config,
        steps=steps,
        epochs=config.epochs if not config.steps else steps * batch / images,
        learning_rate=config.learning_rate or chosen,
        kl=config.kl if scratch else 0.0,
        latent_noise=config.latent_noise if scratch else 0.0,
        cached_latents=config.cached_latents and not scratch,
        full_share=config.full_share if config.tiny else 0.0,
    )
