"""One distillation step: what the losses of both stages share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from xmdpt_cli.diffusion import Losses
from xmdpt_cli.diffusion.guidance import guidance_scale
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.inputs import DistillInputs
from xmdpt_cli.distillation.teacher import Teacher
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.training.conditions import ModelConditions, conditions_of
from xmdpt_cli.training.step import Step

#: The squared error of a predicted noise is 1 / abar times as large in v: up to 25,000 times on the
#: linear schedule, 4e8 times on the cosine schedule. The loss follows it up to this factor
#: (measured: docs/experiments.md, "Distillation to few steps").
LARGEST_GAIN = 1000.0


class DistillStep(Step):
    """``DistillInputs`` -> losses; a subclass implements ``error``.

    Attributes:
        schedule: The student's: the teacher's schedule, with a prediction of the velocity.
        gain: (T,), gamma_t - 1 per unit of gamma - 1, by the teacher's power (paper eq. 6).
        weight: (T,), of the squared error in v: 1, or less where a teacher that predicts the noise
            does not know v well, see ``LARGEST_GAIN``.
    """

    name: ClassVar[str]  # of the loss, in the student's metadata

    gain: Tensor
    weight: Tensor

    def __init__(self, model: XMDPT, teacher: Teacher, config: DistillConfig, power: float) -> None:
        super().__init__(model)
        self.teacher, self.config = teacher, config
        device = teacher.schedule.sigma.device
        self.schedule = teacher.schedule.of_velocity()
        total = self.schedule.steps
        gain = [guidance_scale(t, 2.0, power, total) - 1 for t in range(total)]
        self.register_buffer("gain", torch.tensor(gain, device=device), persistent=False)
        weight = torch.ones(total, device=device)
        if teacher.schedule.prediction == "epsilon":
            weight = (LARGEST_GAIN * self.schedule.alpha_bar).clamp(max=1).float()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, inputs: DistillInputs) -> Losses:
        """See ``Step``."""
        with torch.autocast(inputs.target.device.type, torch.bfloat16, enabled=self.autocast):
            error = self.error(inputs)
        return Losses(error.mean(), error.detach())

    def error(self, inputs: DistillInputs) -> Tensor:
        """The squared error of every pair, float32 (N,), with a gradient."""
        raise NotImplementedError

    def guidance(self, uniform: Tensor) -> Tensor:
        """Uniform numbers (N,) in [0, 1) -> guidance scales gamma in the student's range."""
        low, high = self.config.min_guidance, self.config.max_guidance
        return low + (high - low) * uniform

    def scale_at(self, guidance: Tensor, timesteps: Tensor) -> Tensor:
        """gamma (N,) -> gamma_t (N,), paper eq. 6."""
        return 1 + (guidance - 1) * self.gain[timesteps]

    def conditions(self, inputs: DistillInputs) -> ModelConditions:
        """The student's conditions of a batch, with a gradient."""
        return conditions_of(self.model, inputs)

    def student(
        self, x: Tensor, timesteps: Tensor, cfg_scales: Tensor, conditions: ModelConditions
    ) -> tuple[Tensor, Tensor]:
        """Both halves of the student's output, float32 (N, C, h, w) each."""
        passes = training_passes(
            self.model,
            x,
            timesteps,
            conditions.vector,
            tokens=conditions.tokens,
            cfg_scales=cfg_scales,
        )
        first, second = passes.out.float().chunk(2, dim=1)
        return first, second
