"""Solvers of the sampling ODE.

A step of every solver here is a weighted sum of the current x and the last few predictions of x_0.
The weights depend on the schedule and the timesteps only, so they are computed in float64 before
the loop.

x_t = alpha x_0 + sigma eps, lambda = log(alpha / sigma), h = lambda' - lambda > 0 of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xmdpt_cli.diffusion.policy import angles_of, policy_weights
from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.errors import ConfigError

#: DDIM (eta 0; published), DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2),
#: UniPC of order 2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2)
SOLVERS = ("ddim", "dpmpp-2m", "unipc")
#: the solver of a model that was distilled to few steps, and of no other model (``policy``)
POLICY = "policy"
#: how the timesteps are chosen
SPACINGS = ("linspace", "trailing", "logsnr", "angle")
#: the published list of timesteps for the published solver; second-order solvers want even steps
#: of the signal-to-noise ratio (``examples/experiments/solvers.py``; docs/faster-sampling.md)
SPACING_OF = {"ddim": "linspace", "dpmpp-2m": "logsnr", "unipc": "logsnr", POLICY: "angle"}
#: lower limit of lambda in "logsnr". The cosine schedule falls to -9.9, where the image is all
#: noise; the linear schedule ends at -5.06. (The limit that diffusers advises for cosine schedules,
#: ``lambda_min_clipped``; measured in docs/faster-sampling.md.)
LOWEST_LAMBDA = -5.1


@dataclass(frozen=True)
class Step:
    """One step from x at ``timestep`` to the next one's x."""

    timestep: int
    alpha: float
    sigma: float
    #: weights of x, then of the predictions of x_0, the newest first; of a policy those at the
    #: start and at the end of the step
    predict: tuple[float, ...]
    #: weights of a correction of x, made before it: of the previous step's x, then of the
    #: predictions of x_0, the newest, at this x, first. Empty: no correction
    correct: tuple[float, ...] = ()


def spacing_of(solver: str) -> str:
    """The solver's own spacing; ConfigError for an unknown solver."""
    if solver not in SPACING_OF:
        raise ConfigError(f"no such solver: {solver!r}", f"choose one of {', '.join(SOLVERS)}")
    return SPACING_OF[solver]


def timestep_list(steps: int, total: int = 1000) -> list[int]:
    """round(linspace(0, total - 1, steps)), last first: 999 ... 0.

    The published list is made by adding a float stride again and again. For 283 of the numbers of
    steps from 2 to 1,000 (21, 23, 27, 35, 39 ...) that sum rounds to a neighbour of some of these
    timesteps, and a list of one step is t = 0 there; 10, 20, 50 and 100 steps are identical.
    """
    if not 1 <= steps <= total:
        raise ConfigError(f"steps lies between 1 and {total}, not {steps}")
    if steps == 1:
        return [total - 1]
    # Python rounds halves to even, as numpy does
    return [round(i * (total - 1) / (steps - 1)) for i in range(steps)][::-1]


def spaced(spacing: str, steps: int, schedule: Schedule) -> list[int]:
    """Timesteps, falling. "linspace": ``timestep_list``. "trailing": equal strides that end at the
    last timestep, so that none is spent at t = 0 (Lin et al. 2023, arXiv 2305.08891). "logsnr":
    equal strides of lambda between the trailing list's ends, from ``LOWEST_LAMBDA`` at least; the
    first timestep is the last one all the same. "angle": equal strides of arctan(sigma / alpha)
    from the last timestep to the clean image."""
    total = schedule.steps
    listed = timestep_list(steps, total)
    if spacing == "linspace" or steps == 1:
        return listed
    if spacing not in SPACINGS:
        raise ConfigError(f"spacing is one of {', '.join(SPACINGS)}, not {spacing!r}")
    if spacing == "angle":
        angles = angles_of(schedule).tolist()
        return _nearest(angles, [angles[-1] * (1 - i / steps) for i in range(1, steps)])
    trailing = [round(total - i * total / steps) - 1 for i in range(steps)]
    if spacing == "trailing":
        return trailing
    half_log_snr = [_lambda(*_levels(schedule, t)) for t in range(total)]
    last = half_log_snr[min(trailing[-1], total // 50)]
    first = max(half_log_snr[-1], LOWEST_LAMBDA)
    wanted = [first + (last - first) * i / (steps - 1) for i in range(1, steps)]
    return _nearest(half_log_snr, wanted)


def _nearest(values: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """The last timestep, then those whose ``values`` are nearest to the ``wanted`` ones, falling
    and distinct."""
    total, steps = len(values), len(wanted)
    found = [total - 1]
    for i, value in enumerate(wanted, start=1):
        nearest = min(range(total), key=lambda t: abs(values[t] - value))
        # timesteps must differ, and leave room for those that follow
        found.append(max(min(nearest, found[-1] - 1), steps - i))
    return found


def plan(solver: str, times: Sequence[int], schedule: Schedule) -> list[Step]:
    """The steps over falling ``times``; the last one leads to alpha = 1, sigma = 0."""
    levels = [*(_levels(schedule, t) for t in times), (1.0, 0.0)]
    steps = []
    if solver == POLICY:
        given = zip(times, levels, _policy(levels), strict=False)  # the last level ends a step
        return [Step(t, *level, tuple(predict)) for t, level, predict in given]
    for i, t in enumerate(times):
        # first order without an earlier prediction, and in the last step, where h is infinite
        first_order = solver == "ddim" or i in (0, len(times) - 1)
        predict = _first(*levels[i : i + 2]) if first_order else _second(*levels[i - 1 : i + 2])
        correct: tuple[float, ...] = ()
        if solver == "unipc" and i:
            correct = _unic(levels[max(0, i - 2) : i + 1])
        steps.append(Step(t, *levels[i], predict, correct))
    return steps


Level = tuple[float, float]  # alpha, sigma


def _levels(schedule: Schedule, t: int) -> Level:
    return float(schedule.alpha[t]), float(schedule.sigma[t])


def _lambda(alpha: float, sigma: float) -> float:
    """-inf for pure noise. A step from there is of first order: weights with 1 / h are 0."""
    return math.log(alpha / sigma) if alpha else -math.inf


def _policy(levels: Sequence[Level]) -> list[list[float]]:
    """The policy's weights for the steps from each level to the next, in x_t: the closed form is
    in x_t / norm."""
    ends = torch.tensor([math.atan2(sigma, alpha) for alpha, sigma in levels], dtype=torch.float64)
    norms = torch.tensor([math.hypot(*level) for level in levels], dtype=torch.float64)
    weights = torch.stack(policy_weights(ends[:-1], ends[1:], ends[1:]), dim=1)
    weights[:, 0] /= norms[:-1]
    return (weights * norms[1:, None]).tolist()


def _first(now: Level, end: Level) -> tuple[float, ...]:
    """x' = (sigma' / sigma) x + (alpha' - sigma' alpha / sigma) x_0: DDIM."""
    ratio = end[1] / now[1]
    return ratio, end[0] - ratio * now[0]


def _second(before: Level, now: Level, end: Level) -> tuple[float, ...]:
    """DPM-Solver++(2M): x_0 is extrapolated to the middle of the step by the one before. UniPC's
    predictor of order 2 is the same."""
    ratio, weight = _first(now, end)
    h_before, h = _lambda(*now) - _lambda(*before), _lambda(*end) - _lambda(*now)
    more = h / (2 * h_before)
    return ratio, weight * (1 + more), -weight * more


def _unic(levels: Sequence[Level]) -> tuple[float, ...]:
    """UniC of order 1 (two levels) or 2 (three): the step to the last level repeated with the
    prediction at its end."""
    now, end = levels[-2], levels[-1]
    ratio, weight = _first(now, end)
    if len(levels) == 2:
        return ratio, weight / 2, weight / 2
    h = _lambda(*end) - _lambda(*now)
    r = (_lambda(*levels[-3]) - _lambda(*now)) / h
    # the paper's R rho = b for K = 2, in -h as for data prediction: b_k = k! phi_{k+1}(-h) / phi_1
    phi1 = math.expm1(-h)
    phi2 = phi1 / -h - 1
    b1, b2 = phi2 / phi1, 2 * (phi2 / -h - 1 / 2) / phi1
    rho_old = (b1 - b2) / (1 - r)
    rho_new = b1 - rho_old
    # x_0 here + rho_old (x_0 before - x_0 here) / r + rho_new (x_0 there - x_0 here)
    return ratio, weight * rho_new, weight * (1 - rho_new - rho_old / r), weight * rho_old / r
