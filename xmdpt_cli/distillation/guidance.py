"""Stage "guidance": both branches of guidance in one evaluation (Meng et al. 2023, arXiv
2210.03142, sec. 3.1), at the teacher's scale schedule."""

from __future__ import annotations

from torch import Tensor

from xmdpt_cli.distillation.inputs import DistillInputs
from xmdpt_cli.distillation.step import DistillStep


class GuidanceStep(DistillStep):
    """w_t || v_student(x_t, t, gamma_t) - v_teacher(x_t, t, gamma_t) ||^2, a mean over the values.

    t is uniform, gamma is uniform in the student's range, gamma_t follows by paper eq. 6. The
    student's variance (the second half of its output) is not trained.
    """

    name = "guidance"

    def error(self, inputs: DistillInputs) -> Tensor:
        schedule, uniform = self.schedule, inputs.uniform
        t = (schedule.steps * uniform[:, 0].double()).long().clamp(max=schedule.steps - 1)
        scales = self.scale_at(self.guidance(uniform[:, 1]), t)
        x = schedule.add_noise(inputs.target, inputs.noise, t)
        target = self.teacher(x, t, scales, self.teacher.conditions(inputs))
        found, _ = self.student(x, t, scales, self.conditions(inputs))
        return self.weight[t] * (found - target).square().flatten(1).mean(dim=1)
