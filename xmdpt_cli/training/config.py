"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.config import at_least, check_choices, option
from xmdpt_cli.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the paper's recipe (sec. 4.1) for size S at 256 px, except
    ``swap_by``, ``online``, ``sampling_steps`` and ``sampling_solver``."""

    size: str = option("S", "Size of the model.", choices=("tiny", "S", "B", "L", "XL"))
    resolution: int = option(0, "Image side that the dataset must have, in pixels; 0: any.")
    source_encoder: str = option(
        "", "Encoder that the dataset's source tokens must come from, e.g. dinov2-giant (Table 2c)."
    )
    pose_encoder: str = option(
        "", "Encoder that the dataset's pose tokens must come from, e.g. dinov2-base (Table 2c)."
    )
    conditioning: str = option(
        "vector",
        "Form of the conditions; vector: the paper's single vector, tokens: our extension.",
        choices=("vector", "tokens"),
    )
    condition_parts: str = option(
        "local+global+pose", "Parts of the condition vector (vL, vG, vP), joined by + (Table 2e)."
    )
    aggregation: str = option(
        "add",
        "How the parts of the condition vector are combined; add: published (Table 2e).",
        choices=("add", "mlp", "concat"),
    )
    predictor: str = option(
        "self-cross",
        "Predictor of masked tokens; self-cross: MIPNet, self: MDT (Table 2a, d).",
        choices=("none", "self", "cross", "cross-self", "self-cross"),
    )
    mask_ratio: float = option(0.3, "Share of tokens masked in the masked pass (Table 2b).")
    mask_span: float = option(
        0.0, "Width of the range from which each step samples its mask ratio (MDTv2: 0.2)."
    )
    backbone: str = option(
        "plain",
        "Transformer backbone; plain: published, mdtv2: with long skip connections.",
        choices=("plain", "mdtv2"),
    )
    decode_layers: int = option(
        0, "Number of blocks after the predictor; 0: 2, for mdtv2 6 (S) or 4."
    )
    prediction: str = option(
        "epsilon", "Quantity that the model predicts; epsilon: the paper.", choices=("epsilon", "v")
    )
    schedule: str = option(
        "linear", "Noise schedule; linear: the paper.", choices=("linear", "cosine")
    )
    loss_weighting: str = option(
        "none",
        "Weighting of the squared error by timestep; min-snr: with limit 5.",
        choices=("none", "min-snr"),
    )
    masked_noise: str = option(
        "independent",
        "Noise of the masked pass; independent of the unmasked pass: published.",
        choices=("independent", "shared"),
    )
    repa_weight: float = option(
        0.0, "Weight of the REPA loss on the target's DINOv2 tokens; 0: off, REPA: 0.5."
    )
    repa_layer: int = option(4, "Number of the block whose output the REPA loss aligns.")
    timestep_power: float = option(
        1.0, "Power p of the timestep sampling t = T u^p; below 1: more noisy timesteps."
    )
    cond_drop_prob: float = option(
        0.1, "Probability of dropping a sample's conditions, for guidance."
    )
    steps: int = option(300_000, "Number of optimizer steps.")
    batch_size: int = option(
        32, "Pairs per optimizer step, over all processes; auto: what fits a GPU.", auto=0
    )
    accumulate: int = option(
        1, "Parts of a batch for gradient accumulation: less memory, same result."
    )
    optimizer: str = option(
        "adamw",
        "Optimizer; adamw: the paper, adan: MDTv2, muon: short runs.",
        choices=("adamw", "adan", "muon"),
    )
    learning_rate: float = option(1e-4, "Learning rate of the optimizer.")
    warmup_steps: int = option(0, "Steps over which the learning rate rises from 0.")
    decay: str = option(
        "none",
        "Learning rate schedule; none: the paper, cosine: to 0 at the last step.",
        choices=("none", "cosine"),
    )
    weight_decay: float = option(0.0, "Weight decay of the optimizer.")
    max_grad_norm: float = option(
        0.0, "Largest norm of the gradients; 0: no clipping (the paper), MDTv2: 1."
    )
    ema: float = option(0.9999, "Decay of the exponential moving average of the weights.")
    ema_warmup: bool = option(False, "Raise the EMA's decay from 0 at the start, for short runs.")
    swap: bool = option(True, "Swap source and target of half of the pairs.")
    swap_by: str = option(
        "pair",
        "Unit of --swap; pair: each pair alone, batch: all pairs of a step (published).",
        choices=("pair", "batch"),
    )
    flip: bool = option(True, "Flip both images of half of the pairs horizontally.")
    online: bool = option(
        False, "Encode the images in every step, with random crops (published), without the cache."
    )
    seed: int = option(0, "Random seed.")
    precision: str = option(
        "auto",
        "Precision of the model; auto: bf16 autocast on a GPU that has it, else fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    compile: str = option(
        "auto", "Use of torch.compile; auto: on a GPU.", choices=("auto", "on", "off")
    )
    sharding: str = option(
        "auto",
        "Sharding of the model under torchrun; auto: fsdp for L and XL, else ddp.",
        choices=("auto", "ddp", "fsdp"),
    )
    checkpoint_every: int = option(5000, "Steps between checkpoints.")
    keep_checkpoints: int = option(2, "Number of newest checkpoints to keep.")
    keep_every: int = option(0, "Steps between checkpoints that are never deleted; 0: none.")
    log_every: int = option(50, "Steps between lines of the log.")
    validate_every: int = option(
        0, "Steps between validations: images, losses, similarity; 0: none."
    )
    validation_pairs: int = option(8, "Number of pairs generated in each validation.")
    track: str = option(
        "none", "Experiment tracker used beside TensorBoard.", choices=("none", "wandb", "trackio")
    )
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
        at_least(self, 0, "batch_size", "warmup_steps", "weight_decay", "seed", "keep_every")
        at_least(self, 0, "validate_every", "mask_span", "repa_weight", "resolution")
        at_least(self, 0, "decode_layers", "max_grad_norm")
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
        """Warnings about settings that are valid but probably not intended."""
        start = self.ema**self.steps  # the share that the first weights have in the average
        if self.ema_warmup or start < MUCH_OF_THE_START:
            return []
        return [
            f"after {self.steps} steps the average of the weights (ema {self.ema:g}), which is the "
            f"model that samples, is still {start:.0%} of its random initial values: --ema-warmup "
            "or a smaller --ema"
        ]


MUCH_OF_THE_START = 0.05  # the published recipes leave e^-30
