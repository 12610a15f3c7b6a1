"""The settings of a run that ``xmdpt train`` and ``xmdpt distill`` share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xmdpt_cli.config import LARGEST, at_least, check_choices, option
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.counts import counted

MUCH_OF_THE_START = 0.05  # the published recipes leave e^-30


@dataclass(frozen=True)
class RunConfig:
    """Optimization, data, precision, checkpoints, log and validation of a run."""

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

    def __post_init__(self) -> None:
        check_choices(self)
        at_least(self, 1, "steps", "accumulate", "checkpoint_every", "log_every")
        at_least(self, 1, "keep_checkpoints", "validation_pairs")
        at_least(self, 0, "batch_size", "warmup_steps", "weight_decay", "seed", "keep_every")
        at_least(self, 0, "validate_every", "max_grad_norm")
        if self.seed > LARGEST:  # torch's and NumPy's generators take it
            raise ConfigError(f"seed is at most {LARGEST}, not {self.seed}")
        positive(self, "learning_rate")
        share(self, "ema")

    @property
    def varying_shapes(self) -> bool:
        """Whether the shapes of a step's tensors change from step to step."""
        return False

    @property
    def fixed_length(self) -> bool:
        """Whether what a step does depends on the number of steps of the run."""
        return self.decay == "cosine"

    @property
    def needs_joints(self) -> bool:
        """Whether the loss reads the keypoints of both images."""
        return False

    @property
    def least_micro_batch(self) -> int:
        """The smallest number of pairs that the loss takes at a time."""
        return 1

    def doubts(self, start: str = "its random initial values") -> list[str]:
        """Warnings about settings that are valid but probably not intended. ``start``: the values
        that the weights have before the first step."""
        found = []
        left = self.ema**self.steps  # the share that the first weights have in the average
        if not self.ema_warmup and left >= MUCH_OF_THE_START:
            found.append(
                f"after {counted(self.steps, 'step')} the average of the weights (ema "
                f"{self.ema:g}), which is the model that samples, is still {left:.0%} of {start}: "
                "set --ema-warmup, or a smaller --ema"
            )
        if self.warmup_steps > self.steps:
            found.append(
                f"the learning rate ends at {self.steps / self.warmup_steps:.0%} of "
                f"{self.learning_rate:g}: --warmup-steps {self.warmup_steps} is more than --steps "
                f"{self.steps}"
            )
        return found


def positive(config: object, *names: str) -> None:
    """ConfigError for a field that is not above 0, or not finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive and finite, not {value}")


def share(config: object, *names: str) -> None:
    """ConfigError for a field outside [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ConfigError(f"{name} lies in [0, 1), not {value}")
