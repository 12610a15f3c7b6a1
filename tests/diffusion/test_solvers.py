"""The solvers against diffusers' schedulers, and against the exact solution for Gaussian data."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from gaussian import MEAN, SPREAD, Gaussian
from scipy.integrate import solve_ivp
from torch import Tensor

from xmdpt_cli.diffusion import SOLVERS, Guided, Schedule, StepResult, sample
from xmdpt_cli.diffusion.policy import angles_of, policy_weights
from xmdpt_cli.diffusion.solvers import POLICY, plan, spaced, timestep_list
from xmdpt_cli.errors import ConfigError

THEIRS = {"dpmpp-2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
SCHEDULES = {"linear": ("linear", 1e-5), "cosine": ("squaredcos_cap_v2", 1e-4)}


def exact(noise: Tensor) -> Tensor:
    """Where the probability flow leads from t = 999: to the same quantile of the data."""
    alpha_bar = float(Schedule().alpha_bar[-1])
    spread = math.sqrt(alpha_bar * SPREAD**2 + 1 - alpha_bar)
    return MEAN + SPREAD * (noise - math.sqrt(alpha_bar) * MEAN) / spread


@pytest.mark.parametrize("steps", [2, 5, 8, 20, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("solver", THEIRS)
def test_solver_is_diffusers(solver: str, kind: str, prediction: str, steps: int) -> None:
    schedule = Schedule(kind, prediction)
    names = {"epsilon": "epsilon", "v": "v_prediction"}
    scheduler: Any = THEIRS[solver](
        beta_schedule=SCHEDULES[kind][0],
        prediction_type=names[prediction],
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    # its table in float32 rounds beta near its cap; the solver is compared, not the table
    scheduler.alphas_cumprod = schedule.alpha_bar.clone()
    scheduler.alpha_t = schedule.alpha_bar.sqrt()
    scheduler.sigma_t = (1 - schedule.alpha_bar).sqrt()
    scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    scheduler.set_timesteps(steps)
    model, c = Gaussian(schedule), torch.ones(2, 1)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    x = noise
    for t in scheduler.timesteps:
        out = model(x, t.expand(2), c, torch.ones(2, dtype=torch.bool))[:, :4]
        x = scheduler.step(out, t, x).prev_sample
    ours = sample(
        Guided(model), noise, c, steps, 1.0, solver=solver, spacing="trailing", schedule=schedule
    )
    assert spaced("trailing", steps, schedule) == scheduler.timesteps.tolist()
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_converges_at_its_order(solver: str) -> None:
    """Twice the steps: half the error for DDIM, a quarter and less for the second-order ones."""
    schedule = Schedule()
    noise = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()

    def error(steps: int) -> float:
        out = sample(
            Guided(Gaussian(schedule)), noise, torch.ones(64, 1), steps, 1.0, solver=solver,
            spacing="trailing", schedule=schedule,
        )  # fmt: skip
        return float((out - exact(noise)).abs().mean())

    ratio = error(32) / error(64)
    assert (1.7 < ratio < 2.3) if solver == "ddim" else ratio > 4, ratio


@pytest.mark.parametrize("steps", [1, 2, 8, 50, 999, 1000])
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "logsnr", "angle"])
@pytest.mark.parametrize("kind", [*SCHEDULES, "flow"])
def test_timesteps_fall(kind: str, spacing: str, steps: int) -> None:
    times = spaced(spacing, steps, Schedule(kind, "flow" if kind == "flow" else "v"))
    assert len(times) == steps
    assert times[0] == 999
    assert times[-1] >= 0
    assert all(a > b for a, b in pairwise(times))


def test_logsnr_is_even() -> None:
    schedule = Schedule()
    bars = schedule.alpha_bar[spaced("logsnr", 10, schedule)]
    strides = (bars / (1 - bars)).log().diff()
    assert float(strides.max() / strides.min()) == pytest.approx(1.0, abs=0.2)


def test_logsnr_spends_one_step_on_pure_noise() -> None:
    """The cosine schedule's last timesteps hold next to no image; the linear schedule has none."""
    assert spaced("logsnr", 8, Schedule()) == [999, 885, 755, 598, 401, 193, 68, 20]
    schedule = Schedule("cosine")
    times = spaced("logsnr", 8, schedule)
    bars = schedule.alpha_bar[times]
    half_log_snr = (bars / (1 - bars)).log() / 2
    assert float(half_log_snr[0]) < -9
    strides = half_log_snr[1:].diff()
    assert float(strides.max() / strides.min()) == pytest.approx(1.0, abs=0.1)
    assert float(half_log_snr[1] - strides.mean()) == pytest.approx(-5.1, abs=0.1)


def test_angle_is_even() -> None:
    schedule = Schedule("cosine")
    angles = angles_of(schedule)[spaced("angle", 8, schedule)]
    assert float(angles[0]) == pytest.approx(math.pi / 2, abs=1e-3)
    torch.testing.assert_close(angles, angles[0] * torch.arange(8, 0, -1) / 8, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("start", "end"), [(1.56, 0.9), (1.1, 0.3), (0.7, 0.0)])
def test_a_policy_solves_the_ode_of_its_linear_prediction(start: float, end: float) -> None:
    x, first, last = 1.3, 0.4, -0.8

    def slope(angle: float, state: list[float]) -> list[float]:
        clean = first + (last - first) * (angle - start) / (end - start)
        noise = (state[0] - math.cos(angle) * clean) / math.sin(angle)
        return [math.cos(angle) * noise - math.sin(angle) * clean]  # dx / dphi = v

    for now in (start - 0.3 * (start - end), max(end, 1e-4)):
        exact_x = solve_ivp(slope, (start, now), [x], rtol=1e-10, atol=1e-12).y[0, -1]
        angles = (torch.tensor(value, dtype=torch.float64) for value in (start, end, now))
        weights = [float(weight) for weight in policy_weights(*angles)]
        found = weights[0] * x + weights[1] * first + weights[2] * last
        assert found == pytest.approx(exact_x, abs=1e-7)


def test_the_last_step_of_a_policy_ends_at_its_prediction() -> None:
    assert plan(POLICY, [999, 400], Schedule())[-1].predict == pytest.approx((0.0, 0.0, 1.0))


@pytest.mark.parametrize("schedule", [Schedule("cosine", "v"), Schedule("flow", "flow")])
def test_a_policy_of_one_prediction_is_ddim(schedule: Schedule) -> None:
    noise = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    network = Gaussian(schedule)

    def twice(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        return network(x, t, c, keep)[:, :2].repeat(1, 2, 1, 1)

    outs = [
        sample(
            Guided(twice), noise, torch.ones(4, 1), 4, 1.0, solver=solver, spacing="angle",
            schedule=schedule,
        )
        for solver in ("ddim", POLICY)
    ]  # fmt: skip
    torch.testing.assert_close(outs[1], outs[0])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_one_step_gives_the_clean_image_seen_from_noise(solver: str, prediction: str) -> None:
    schedule = Schedule("linear", prediction)
    noise = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    seen: list[StepResult] = []
    out = sample(
        Guided(Gaussian(schedule)), noise, torch.ones(4, 1), 1, 1.0, solver=solver,
        schedule=schedule, callback=seen.append,
    )  # fmt: skip
    torch.testing.assert_close(out, seen[0].clean)
    assert (seen[0].done, seen[0].steps) == (1, 1)
    # all a network can say of noise is the mean
    torch.testing.assert_close(out, torch.full_like(out, MEAN), atol=0.01, rtol=0)


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("flow", "flow")])
def test_weights_carry_a_known_image_exactly(schedule: Schedule) -> None:
    """x_t = alpha x_0 + sigma eps with both known: every solver must stay on that line."""
    clean, eps = 0.7, -1.3
    for solver in (*SOLVERS, POLICY):
        steps = plan(solver, timestep_list(12), schedule)
        for here, there in pairwise(steps):
            x = here.alpha * clean + here.sigma * eps
            found = here.predict[0] * x + sum(here.predict[1:]) * clean
            assert found == pytest.approx(there.alpha * clean + there.sigma * eps, abs=1e-9)
            if there.correct:
                found = there.correct[0] * x + sum(there.correct[1:]) * clean
                assert found == pytest.approx(there.alpha * clean + there.sigma * eps, abs=1e-9)


def test_outside_its_interval_guidance_costs_nothing() -> None:
    network, rows = Gaussian(Schedule()), []

    def model(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        rows.append(len(x))
        return network(x, t, c, keep)

    noise = torch.zeros(3, 1, 2, 2)
    sample(Guided(model), noise, torch.ones(3, 1), 10, 2.0, interval=(0.2, 0.7))
    times = timestep_list(10)
    assert rows == [6 if 200 <= t <= 700 else 3 for t in times]
    for bad in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)):
        with pytest.raises(ConfigError, match="interval"):
            sample(Guided(model), noise, torch.ones(3, 1), 10, interval=bad)
