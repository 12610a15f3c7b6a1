"""A policy: what a student of few steps predicts, and the path that follows from it in closed form.

At the start of a step the student predicts x_0 at both ends of the step. Between them x_0 is
interpolated linearly in the angle phi = arctan(sigma / alpha), and the sampling ODE with this x_0
is solved exactly: one evaluation gives a curved path instead of DDIM's straight one. This is the
DX policy of pi-Flow (Chen et al. 2025, arXiv 2510.14974) on a grid of two points.

    x = cos(phi) x_0 + sin(phi) eps
    d/dphi (x / sin(phi)) = -x_0(phi) / sin(phi)^2

x is x_t where the schedule preserves the variance, and x_t / sqrt(alpha^2 + sigma^2) on any path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule


def angles_of(schedule: Schedule) -> Tensor:
    """phi of every timestep, float64 (T,), rising from about 0 to about pi / 2."""
    return torch.atan2(schedule.sigma, schedule.alpha)


def norms_of(schedule: Schedule) -> Tensor:
    """sqrt(alpha^2 + sigma^2) of every timestep, float64 (T,); 1 where the variance is
    preserved."""
    return torch.hypot(schedule.alpha, schedule.sigma)


def policy_weights(start: Tensor, end: Tensor, now: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of x, of x_0 at the start and of x_0 at the end in the x at angle ``now``.

    Angles are float64, of any one shape, 0 <= end <= now <= start <= pi / 2, end < start. With
    equal predictions at both ends this is DDIM's step from ``start`` to ``now``.
    """
    # x_0 = a + slope (phi - start), slope = (b - a) / (end - start); the integral of
    # -x_0 / sin^2 is x_0 cot(phi) - slope log(sin(phi))
    sine, width = now.sin(), end - start
    share = (now - start) / width
    cotangent = start.cos() / start.sin()
    curved = torch.xlogy(sine, sine / start.sin()) / width  # 0 where sine is 0
    return (
        sine / start.sin(),
        (1 - share) * now.cos() - sine * cotangent + curved,
        share * now.cos() - curved,
    )
