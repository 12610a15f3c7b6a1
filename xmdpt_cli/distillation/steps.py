"""Stage "steps": the student follows the teacher along its own path (pi-Flow, Chen et al. 2025,
arXiv 2510.14974): L2 alone, no adversary, no Jacobian products."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from xmdpt_cli.diffusion.policy import angles_of, norms_of, policy_weights
from xmdpt_cli.diffusion.solvers import POLICY, spaced, spacing_of
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.inputs import DistillInputs
from xmdpt_cli.distillation.step import DistillStep
from xmdpt_cli.distillation.teacher import Teacher
from xmdpt_cli.model import XMDPT

#: Limit of the weight 1 / sigma^2 that an error of x_0 has in the velocity. Near the clean image it
#: would be 24,000, and few pairs would decide a step (docs/experiments.md).
LARGEST_WEIGHT = 10.0


class StepsStep(DistillStep):
    """w || v_policy(x, phi) - v_teacher(x, phi) ||^2 at a point of the student's own path, v the
    velocity that the student's schedule predicts.

    One of the student's steps begins at a noisy ground truth. The student predicts x_0 at both ends
    of the step; its policy leads to x at a uniform angle phi of the step, without a gradient; there
    its velocity is compared with the teacher's.
    """

    name = "policy"
    solver: ClassVar[str] = POLICY  # that samples the student

    angles: Tensor  # (T,) of the timesteps, float64
    norms: Tensor  # (T,) of the timesteps, float64: the policy leads x / norm
    #: (N + 1,) angles at which the student's steps begin, then 0; float64
    ends: Tensor
    #: (N,) timesteps at which they begin
    starts: Tensor

    def __init__(self, model: XMDPT, teacher: Teacher, config: DistillConfig, power: float) -> None:
        super().__init__(model, teacher, config, power)
        angles = angles_of(self.schedule)
        starts = spaced(spacing_of(POLICY), config.student_steps, self.schedule)
        self.register_buffer("angles", angles, persistent=False)
        self.register_buffer("norms", norms_of(self.schedule), persistent=False)
        self.register_buffer("starts", torch.tensor(starts, device=angles.device), persistent=False)
        ends = torch.cat([angles[self.starts], angles.new_zeros(1)])
        self.register_buffer("ends", ends, persistent=False)

    def error(self, inputs: DistillInputs) -> Tensor:
        uniform = inputs.uniform.double()
        step = (self.config.student_steps * uniform[:, 0]).long()
        step = step.clamp(max=self.config.student_steps - 1)
        guidance = self.guidance(inputs.uniform[:, 1])
        t, start, end = self.starts[step], self.ends[step], self.ends[step + 1]
        x = self.schedule.add_noise(inputs.target, inputs.noise, t)
        levels = self.schedule.levels(t, x)
        at_start, at_end = (
            self.schedule.clean(x, out, *levels)
            for out in self.student(x, t, guidance, self.conditions(inputs))
        )

        wanted = end + (start - end) * uniform[:, 2]
        t_now = (self.angles - wanted[:, None]).abs().argmin(dim=1)
        now = torch.minimum(torch.maximum(self.angles[t_now], end), start)
        with torch.no_grad():
            norm = self.norms[t_now]
            first, *others = policy_weights(start, end, now)
            weights = [column(norm * w) for w in (first / self.norms[t], *others)]
            x_now = weights[0] * x + weights[1] * at_start + weights[2] * at_end
            scales = self.scale_at(guidance, t_now)
            target = self.teacher(x_now, t_now, scales, self.teacher.conditions(inputs))
        clean = torch.lerp(at_start, at_end, column((now - start) / (end - start)))
        alpha, sigma = norm * now.cos(), norm * now.sin()
        found = self.schedule.out_of_clean(x_now, clean, column(alpha), column(sigma))
        weight = self.weight[t_now] * (LARGEST_WEIGHT * sigma**2).clamp(max=1).float()
        return weight * (found - target).square().flatten(1).mean(dim=1)


def column(values: Tensor) -> Tensor:
    """(N,) -> float32 (N, 1, 1, 1)."""
    return values.float().reshape(-1, 1, 1, 1)
