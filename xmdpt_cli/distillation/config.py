"""The settings of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from xmdpt_cli.config import option
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.run_config import RunConfig

STUDENT_STEPS = (1, 2, 4, 8)
LARGEST_GUIDANCE = 100.0  # far above any scale that is used; the loss of 1e30 is not finite


@dataclass(frozen=True)
class StudentConfig:
    """What the student learns."""

    stage: str = option(
        "steps",
        "What is distilled; guidance: both branches into one evaluation per step, steps: also "
        "many steps into few.",
        choices=("steps", "guidance"),
    )
    student_steps: int = option(4, "Sampling steps of the student of stage steps: 8, 4, 2 or 1.")
    min_guidance: float = option(1.0, "Smallest guidance scale that the student can sample with.")
    max_guidance: float = option(3.0, "Largest guidance scale that the student can sample with.")


@dataclass(frozen=True)
class DistillConfig(RunConfig, StudentConfig):  # the last one's fields come first
    """One distillation. The student starts from trained weights: a smaller learning rate, a shorter
    average and fewer steps than in ``TrainConfig``."""

    steps: int = option(20_000, "Number of optimizer steps.")
    learning_rate: float = option(5e-5, "Learning rate of the optimizer.")
    warmup_steps: int = option(500, "Steps over which the learning rate rises from 0.")
    max_grad_norm: float = option(1.0, "Largest norm of the gradients; 0: no clipping.")
    ema: float = option(0.999, "Decay of the exponential moving average of the weights.")
    validate_every: int = option(
        0, "Steps between validations: images of teacher and student, losses; 0: none."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.student_steps not in STUDENT_STEPS:
            raise ConfigError(
                f"student_steps is 8, 4, 2 or 1, not {self.student_steps}",
                "for more steps: --stage guidance, whose student samples in any number of steps",
            )
        low, high = self.min_guidance, self.max_guidance
        if not 1 <= low <= high <= LARGEST_GUIDANCE:
            raise ConfigError(
                "the guidance range is min_guidance to max_guidance, within 1 to "
                f"{LARGEST_GUIDANCE:g}, not {low:g} to {high:g}",
                "for example --min-guidance 1 --max-guidance 3",
            )

    def doubts(self, start: str = "the teacher's weights") -> list[str]:
        return super().doubts(start)
