"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.config import at_least, one_of, option
from xmdpt_cli.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the paper's recipe (sec. 4.1) for size S at 256 px."""

    size: str = option("S", "tiny, S, B, L or XL.")
    resolution: int = option(0, "Pixels the dataset must have; 0: whatever it has.")
    source_encoder: str = option(
        "", "What must have encoded the source, e.g. dinov2-giant (Table 2c)."
    )
    pose_encoder: str = option("", "What must have encoded the pose, e.g. dinov2-base (Table 2c).")
    conditioning: str = option("vector", "vector (the paper) or tokens (our extension).")
    condition_parts: str = option(
        "local+global+pose", "Which of vL, vG, vP: local+global+pose (Table 2e)."
    )
    aggregation: str = option("add", "Of these parts: add (published), mlp, concat (Table 2e).")
    predictor: str = option(
        "self-cross",
        "Of masked tokens: self-cross (MIPNet), self (MDT), cross, cross-self, none (Table 2a, d).",
    )
    mask_ratio: float = option(0.3, "Share of tokens hidden in the masked pass (Table 2b).")
    mask_span: float = option(
        0.0, "Above 0: drawn per step from ratio to ratio + span (MDTv2: 0.2)."
    )
    backbone: str = option("plain", "plain (published) or mdtv2 (long skips).")
    decode_layers: int = option(0, "Blocks behind the predictor; 0: 2, of mdtv2 6 (S) or 4.")
    token_source: str = option("latents", "tokens: latents, dino, both, none.")
    token_source_by: str = option(
        "keys",
        "tokens: read as keys beside the own ones, by cross-attention, in the sequence.",
    )
    token_pose: str = option("add", "tokens: add or concat to the noisy ones, keys, none.")
    vector: bool = option(True, "tokens: with the condition vector too.")
    prediction: str = option("epsilon", "epsilon (the paper) or v.")
    schedule: str = option("linear", "linear (the paper) or cosine.")
    loss_weighting: str = option("none", "Of the squared error: none or min-snr (limit 5).")
    align_weight: float = option(
        0.0, "REPA: hidden tokens towards the target's DINOv2 tokens; 0.5 in its paper."
    )
    align_block: int = option(4, "REPA: behind which block.")
    timestep_power: float = option(
        1.0, "t = T u^power, u uniform: below 1 draws noisy steps more often."
    )
    guidance_drop: float = option(0.1, "How often a row loses its conditions.")
    steps: int = option(300_000, "Optimizer steps.")
    batch_size: int = option(
        32, "Pairs of an optimizer step, over all processes; auto: what fits a GPU.", auto=0
    )
    accumulate: int = option(1, "Parts a process takes its share in: less memory, same result.")
    optimizer: str = option("adamw", "adamw (the paper), adan (MDTv2), muon (short runs).")
    learning_rate: float = option(1e-4, "Of the optimizer.")
    warmup_steps: int = option(0, "Steps in which the learning rate rises from 0.")
    decay: str = option("none", "none (the paper) or cosine to 0 at the last step.")
    weight_decay: float = option(0.0, "Of the optimizer.")
    ema: float = option(0.9999, "Decay of the weights' average.")
    ema_warmup: bool = option(False, "Start the average with a short memory: for short runs.")
    swap: bool = option(True, "Source and target change places half of the time.")
    flip: bool = option(True, "Both are mirrored half of the time.")
    online: bool = option(
        False,
        "Features from the pictures, with fresh crops (published), not from the cache.",
    )
    seed: int = option(0, "Of everything random.")
    precision: str = option("auto", "fp32, bf16 (autocast) or auto: bf16 on a GPU that has it.")
    compile: str = option("auto", "on, off or auto: on a GPU.")
    sharding: str = option("auto", "Under torchrun: ddp, fsdp or auto: fsdp for L and XL.")
    checkpoint_every: int = option(5000, "Steps between checkpoints.")
    keep_checkpoints: int = option(2, "How many of the newest are kept.")
    keep_every: int = option(0, "Those of every so many steps are kept for good; 0: none.")
    log_every: int = option(50, "Steps between lines of the log.")
    validate_every: int = option(
        0, "Steps between validations: pictures, losses, similarity; 0: none."
    )
    validation_pairs: int = option(8, "Pairs drawn in each.")
    track: str = option("none", "wandb or trackio, beside TensorBoard.")
    sampling_steps: int = option(20, "Travels with the model: steps of sampling; paper: 50.")
    sampling_solver: str = option(
        "unipc", "Travels with the model: unipc, dpmpp-2m, or the paper's ddim."
    )
    guidance: float = option(2.0, "Travels with the model: its scale.")
    power: float = option(0.01, "Travels with the model: exponent of the scale (paper eq. 6).")

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            one_of(self, name, allowed)
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
        at_least(self, 0, "mask_span", "align_weight", "resolution", "decode_layers")
        for name in ("learning_rate", "timestep_power", "power"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} must be positive, not {value}")
        for name, value in (("ema", self.ema), ("guidance_drop", self.guidance_drop)):
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

_CHOICES: dict[str, tuple[str, ...]] = {
    "conditioning": ("vector", "tokens"),
    "sampling_solver": ("ddim", "dpmpp-2m", "unipc"),
    "aggregation": ("add", "mlp", "concat"),
    "predictor": ("none", "self", "cross", "cross-self", "self-cross"),
    "backbone": ("plain", "mdtv2"),
    "token_source": ("latents", "dino", "both", "none"),
    "token_source_by": ("keys", "cross", "sequence"),
    "token_pose": ("add", "concat", "keys", "none"),
    "prediction": ("epsilon", "v"),
    "schedule": ("linear", "cosine"),
    "loss_weighting": ("none", "min-snr"),
    "decay": ("none", "cosine"),
    "optimizer": ("adamw", "adan", "muon"),
    "precision": ("fp32", "bf16", "auto"),
    "compile": ("on", "off", "auto"),
    "sharding": ("ddp", "fsdp", "auto"),
    "track": ("none", "wandb", "trackio"),
}
