"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.config import at_least, check_choices, option
from xmdpt_cli.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the paper's recipe (sec. 4.1) for size S at 256 px."""

    size: str = option("S", "Model size.", choices=("tiny", "S", "B", "L", "XL"))
    resolution: int = option(0, "Resolution the dataset must have, in pixels; 0: any.")
    source_encoder: str = option(
        "", "Encoder the source tokens must come from, e.g. dinov2-giant (Table 2c)."
    )
    pose_encoder: str = option(
        "", "Encoder the pose tokens must come from, e.g. dinov2-base (Table 2c)."
    )
    conditioning: str = option(
        "vector",
        "vector: the paper's single vector; tokens: our extension.",
        choices=("vector", "tokens"),
    )
    condition_parts: str = option(
        "local+global+pose", "Which of vL, vG and vP are used, joined by + (Table 2e)."
    )
    aggregation: str = option(
        "add", "How they are combined; add: published (Table 2e).", choices=("add", "mlp", "concat")
    )
    predictor: str = option(
        "self-cross",
        "Predicts masked tokens; self-cross: MIPNet, self: MDT (Table 2a, d).",
        choices=("none", "self", "cross", "cross-self", "self-cross"),
    )
    mask_ratio: float = option(0.3, "Share of tokens masked in the masked pass (Table 2b).")
    mask_span: float = option(
        0.0, "Above 0: the ratio is drawn per step from [ratio, ratio + span] (MDTv2: 0.2)."
    )
    backbone: str = option(
        "plain", "plain: published; mdtv2: long skip connections.", choices=("plain", "mdtv2")
    )
    decode_layers: int = option(0, "Blocks behind the predictor; 0: 2, mdtv2 6 (S) or 4.")
    prediction: str = option(
        "epsilon", "What the model predicts; epsilon: the paper.", choices=("epsilon", "v")
    )
    schedule: str = option(
        "linear", "Noise schedule; linear: the paper.", choices=("linear", "cosine")
    )
    loss_weighting: str = option(
        "none", "Weight of the squared error by timestep (limit 5).", choices=("none", "min-snr")
    )
    masked_noise: str = option(
        "independent",
        "Noise of the masked pass; independent of the unmasked one's: published.",
        choices=("independent", "shared"),
    )
    repa_weight: float = option(
        0.0, "REPA: weight of aligning hidden tokens with the target's DINOv2 tokens (0.5)."
    )
    repa_layer: int = option(4, "REPA: the block whose output is aligned.")
    timestep_power: float = option(
        1.0, "t = T u^power with uniform u; below 1 favours noisy timesteps."
    )
    cond_drop_prob: float = option(0.1, "Probability that a sample loses its conditions.")
    steps: int = option(300_000, "Optimizer steps.")
    batch_size: int = option(
        32, "Pairs per optimizer step over all processes; auto: what fits a GPU.", auto=0
    )
    accumulate: int = option(1, "Gradient accumulation: parts of a batch, for less memory.")
    optimizer: str = option(
        "adamw",
        "adamw: the paper; adan: MDTv2; muon: short runs.",
        choices=("adamw", "adan", "muon"),
    )
    learning_rate: float = option(1e-4, "Learning rate.")
    warmup_steps: int = option(0, "Steps in which the learning rate rises from 0.")
    decay: str = option(
        "none",
        "Learning rate schedule; none: the paper, cosine: to 0 at the last step.",
        choices=("none", "cosine"),
    )
    weight_decay: float = option(0.0, "Weight decay.")
    max_grad_norm: float = option(
        0.0, "Clip the norm of all gradients at this; 0: no clipping (the paper), MDTv2: 1."
    )
    ema: float = option(0.9999, "Decay of the exponential moving average of the weights.")
    ema_warmup: bool = option(False, "Start the EMA with a short memory, for short runs.")
    swap: bool = option(True, "Swap source and target half of the time.")
    swap_by: str = option(
        "pair",
        "pair: each for itself; batch: all pairs of a step together (published).",
        choices=("pair", "batch"),
    )
    flip: bool = option(True, "Mirror both half of the time.")
    online: bool = option(
        False, "Encode the images in every step, with fresh crops (published), not from the cache."
    )
    seed: int = option(0, "Random seed.")
    precision: str = option(
        "auto",
        "auto: bf16 (autocast) on a GPU that has it, else fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    compile: str = option("auto", "torch.compile; auto: on a GPU.", choices=("auto", "on", "off"))
    sharding: str = option(
        "auto",
        "Under torchrun; auto: fsdp for L and XL, else ddp.",
        choices=("auto", "ddp", "fsdp"),
    )
    checkpoint_every: int = option(5000, "Steps between checkpoints.")
    keep_checkpoints: int = option(2, "Newest checkpoints that are kept.")
    keep_every: int = option(0, "Checkpoints of every so many steps are kept for good; 0: none.")
    log_every: int = option(50, "Steps between lines of the log.")
    validate_every: int = option(
        0, "Steps between validations: images, losses, similarity; 0: none."
    )
    validation_pairs: int = option(8, "Pairs generated in each validation.")
    track: str = option("none", "Tracker beside TensorBoard.", choices=("none", "wandb", "trackio"))
    sampling_steps: int = option(20, "Default sampling steps of the model; the paper: 50.")
    sampling_solver: str = option(
        "unipc",
        "Default solver of the model; ddim: the paper.",
        choices=("ddim", "dpmpp-2m", "unipc"),
    )
    guidance: float = option(2.0, "Default guidance scale of the model (paper eq. 6).")
    power: float = option(0.01, "Default power of the guidance schedule (paper eq. 6).")

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(self, 1, "steps", "accumulate", "checkpoint_every", "log_every")
        at_least(self, 1, "keep_checkpoints", "sampling_steps", "validation_pairs")
        at_least(
            self,
            0,
            "batch_size",
            "warmup_steps",
            "weight_decay",
            "seed",
            "keep_every",
            "validate_every",
        )
        at_least(self, 0, "mask_span", "repa_weight", "resolution", "decode_layers")
        at_least(self, 0, "max_grad_norm")
        for name in ("learning_rate", "timestep_power", "power"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        for name, value in (("ema", self.ema), ("cond_drop_prob", self.cond_drop_prob)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} lies in [0, 1), not {value}")
        if not self.mask_ratio + self.mask_span < 1:
            raise ConfigError("mask_ratio + mask_span must stay below 1")
        if self.predictor != "none" and not self.mask_ratio > 0:
            raise ConfigError(
                f"mask_ratio {self.mask_ratio} hides nothing from predictor {self.predictor!r}",
                "--predictor none trains without the masked pass",
            )

    def doubts(self) -> list[str]:
        """What is allowed and seldom meant, in words."""
        start = self.ema**self.steps  # the share that the first weights have in the average
        if self.ema_warmup or start < MUCH_OF_THE_START:
            return []
        return [
            f"after {self.steps} steps the average of the weights (ema {self.ema:g}), which is the "
            f"model that samples, is still {start:.0%} of what it began as, noise: --ema-warmup "
            "or a smaller --ema"
        ]


MUCH_OF_THE_START = 0.05  # the published recipes leave e^-30
