"""What a VAE training is asked to do: one frozen dataclass, like ``config.TrainConfig``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from xmdpt_cli.errors import ConfigError

# For toys at 64 px. Measured on synthetic people, same time each: 300 steps of 4 images 27.2 dB,
# 600 of 2 27.8, 1200 of 1 27.9; at 4e-3 half a decibel less; 1800 of 2: 29.1 dB.
# Four numbers for 4x4 pixels is tight: the best linear code of that size gives 23.0 dB.
TOY_LR = 2e-3
# Latent-diffusion autoencoders were trained at 4.5e-6 per image of the batch (CompVis configs).
FINE_TUNE_LR_PER_IMAGE = 4.5e-6
# On synthetic people at 64 px: 0.3 costs 0.9 dB of reconstruction (0.15: 0.3 dB) and takes most
# blotches out of generated people, 0.01 of SSIM.
LATENT_NOISE = 0.2


@dataclass(frozen=True)
class VaeConfig:
    """One VAE training. The paper gives 77 epochs of the decoder (sec. 4.1) and no loss.

    The weights of the loss are those of public VAE fine-tuning: plain differences first, and a
    tenth of LPIPS (sd-vae-ft-mse's model card); the foreground counts more because synthetic people
    and DeepFashion stand before plain backgrounds.
    """

    epochs: float = 77.0  # paper sec. 4.1
    steps: int = 0  # 0: as many as the epochs make
    batch_size: int = 8  # images a step, over all processes
    learning_rate: float = 0.0  # 0: 4.5e-6 per image of the batch; small VAE from scratch 2e-3
    l1: float = 1.0  # on [-1, 1]
    mse: float = 2.0
    lpips: float = 0.1
    face_weight: float = 1.0  # how often pixels around the head count; 1: as all others
    foreground_weight: float = 3.0  # how often pixels count that differ from the border's colour
    kl: float = 1e-6  # with all_weights only
    latent_noise: float = LATENT_NOISE  # with all_weights only; standard deviations of the latents
    ema: float = 0.0  # decay of the weights' average, which is then what is written; 0: none
    all_weights: bool = False  # a small VAE from scratch instead of a given one's decoder
    cached_latents: bool = True  # from the dataset's stored moments, where it has them
    precision: str = "auto"  # "fp32", "bf16" (autocast), "auto": bf16 on a GPU that has it
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16", "auto"):
            raise ConfigError(f"precision is one of fp32, bf16, auto, not {self.precision!r}")
        for name, least in (
            ("steps", 0), ("batch_size", 1), ("checkpoint_every", 1), ("log_every", 1),
            ("seed", 0), ("learning_rate", 0), ("l1", 0), ("mse", 0), ("lpips", 0), ("kl", 0),
            ("latent_noise", 0), ("face_weight", 0), ("foreground_weight", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.epochs < math.inf:
            raise ConfigError(f"epochs must be positive, not {self.epochs}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema lies in [0, 1), not {self.ema}")
        if self.l1 + self.mse + self.lpips == 0:
            raise ConfigError("l1, mse and lpips are all 0: there is nothing to train for")


def settle(config: VaeConfig, images: int) -> VaeConfig:
    """Put numbers where ``config`` leaves the choice: steps and epochs fit, a learning rate.

    What has no meaning for this kind of training is 0 or off, so that the record says what was.
    """
    scratch, batch = config.all_weights, config.batch_size
    steps = config.steps or max(1, math.ceil(config.epochs * images / batch))
    chosen = TOY_LR if scratch else FINE_TUNE_LR_PER_IMAGE * batch
    return dataclasses.replace(
        config,
        steps=steps,
        epochs=config.epochs if not config.steps else steps * batch / images,
        learning_rate=config.learning_rate or chosen,
        kl=config.kl if scratch else 0.0,
        latent_noise=config.latent_noise if scratch else 0.0,
        cached_latents=config.cached_latents and not scratch,
    )
