"""Flow matching: the path, its velocity, its loss, and the solvers on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from gaussian import MEAN, SPREAD, Gaussian
from torch import Tensor

from xmdpt_cli.diffusion import SOLVERS, Guided, Schedule, sample, training_loss
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.diffusion.solvers import plan, spaced
from xmdpt_cli.errors import ConfigError

FLOW = Schedule("flow", "flow")


def start() -> Tensor:
    return torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def generated(
    noise: Tensor, steps: int, solver: str, spacing: str, guidance: float = 1.0
) -> Tensor:
    return sample(
        Guided(Gaussian(FLOW)), noise, torch.ones(len(noise), 1), steps, 1.0, solver=solver,
        spacing=spacing, schedule=FLOW,
    )  # fmt: skip


def network(x: Tensor, t: int) -> Tensor:
    keep = torch.ones(len(x), dtype=torch.bool)
    return Gaussian(FLOW)(x, torch.full((len(x),), t), x, keep)[:, :1]


def test_the_path_is_a_line_from_the_image_to_the_noise() -> None:
    clean, noise = (torch.randn(3, 4, 2, 2) for _ in range(2))
    s = torch.tensor([0.001, 0.4, 1.0])[:, None, None, None]
    t = torch.tensor([0, 399, 999])
    noisy = FLOW.add_noise(clean, noise, t)
    torch.testing.assert_close(noisy, (1 - s) * clean + s * noise)
    assert torch.equal(noisy[2], noise[2])  # no image is left
    # the target is its derivative, and leads back to the image
    there = FLOW.add_noise(clean[:2], noise[:2], t[:2] + 1)
    target = FLOW.target(clean, noise, t)
    torch.testing.assert_close(target[:2], 1000 * (there - noisy[:2]), rtol=1e-3, atol=1e-3)
    alpha, sigma = FLOW.levels(t, clean)
    torch.testing.assert_close(FLOW.clean(noisy, target, alpha, sigma), clean, atol=1e-5, rtol=0)
    off = FLOW.clean(noisy, target + 0.25, alpha, sigma)
    torch.testing.assert_close(clean - off, (0.25 * s).expand_as(clean), atol=1e-5, rtol=0)
    torch.testing.assert_close(FLOW.clean_per_error[t].float(), s.flatten())


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_schedule_and_its_prediction_are_inverse(kind: str, prediction: str) -> None:
    schedule = Schedule(kind, prediction)
    x, clean = (torch.randn(4, 4, 2, 2).double() for _ in range(2))
    out = schedule.out_of_clean(x, clean, 0.6, 0.8)
    torch.testing.assert_close(schedule.clean(x, out, 0.6, 0.8), clean)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_ddim_is_the_euler_step_of_diffusers(steps: int) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    times = spaced("trailing", steps, FLOW)
    scheduler.set_timesteps(sigmas=[(t + 1) / 1000 for t in times])
    x = noise = start()
    for t, theirs in zip(times, scheduler.timesteps, strict=True):
        x = scheduler.step(network(x, t), theirs, x).prev_sample
    torch.testing.assert_close(
        generated(noise, steps, "ddim", "trailing"), x.double(), rtol=1e-5, atol=1e-5
    )


def test_dpmpp_is_that_of_diffusers_from_pure_noise() -> None:
    scheduler: Any = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(8)
    times = spaced("logsnr", 8, FLOW)
    scheduler.sigmas = torch.tensor([(t + 1) / 1000 for t in times] + [0.0]).double()
    scheduler.timesteps = torch.tensor(times)
    x = noise = start()
    for t in times:
        x = scheduler.step(network(x, t), t, x).prev_sample
    torch.testing.assert_close(generated(noise, 8, "dpmpp-2m", "logsnr"), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spacing", ["trailing", "logsnr", "angle", "linspace"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_converges_to_the_closed_form(solver: str, spacing: str) -> None:
    """The flow maps each quantile of the noise to the same quantile of the data."""
    noise = start()

    def error(steps: int) -> float:
        found = generated(noise, steps, solver, spacing)
        return float((found - MEAN - SPREAD * noise).abs().mean())

    # 16 times the steps: at first order 1 / 16 of the error
    assert error(128) < error(8) / (12 if solver == "ddim" else 60)


def test_guidance_on_the_flow_is_that_of_a_shifted_mean() -> None:
    """In the first step nothing but the mean is known: scale times the conditional one."""
    seen: list[Tensor] = []
    sample(
        Guided(Gaussian(FLOW)), start(), torch.ones(64, 1), 4, 2.0, 1.0, schedule=FLOW,
        spacing="trailing", interval=(0.0, 1.0), callback=lambda step: seen.append(step.clean),
    )  # fmt: skip
    scale = 1 + (1 - math.cos(math.pi * (1 - 999 / 1000))) / 2  # paper eq. 6
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], scale * MEAN))


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_with_a_variance_preserving_path_after_rescaling(solver: str) -> None:
    """x / sqrt(alpha^2 + sigma^2) of both paths is the same at the same alpha / sigma."""
    times = [899, 600, 300, 100]
    levels = [((999 - t) / 1000, (t + 1) / 1000) for t in times]
    norms = [math.hypot(*level) for level in levels]
    preserving = Schedule()
    object.__setattr__(preserving, "alpha", preserving.alpha.clone())
    object.__setattr__(preserving, "sigma", preserving.sigma.clone())
    for t, (alpha, sigma), norm in zip(times, levels, norms, strict=True):
        preserving.alpha[t], preserving.sigma[t] = alpha / norm, sigma / norm
    ours, theirs = plan(solver, times, FLOW), plan(solver, times, preserving)
    for here, there, norm, following in zip(ours, theirs, norms, [*norms[1:], 1.0], strict=True):
        expected = [there.predict[0] / norm, *there.predict[1:]]
        assert list(here.predict) == pytest.approx([following * w for w in expected])


def test_there_is_no_variational_bound() -> None:
    clean, noise, masked_noise = (torch.randn(4, 4, 2, 2) for _ in range(3))
    t = torch.tensor([0, 10, 500, 999])
    out, masked_out = (torch.randn(4, 8, 2, 2, requires_grad=True) for _ in range(2))
    assert loss_terms(out, clean, noise, t, FLOW)[1] is None
    losses = training_loss(
        out, clean, t, noise, masked_out=masked_out, masked_noise=masked_noise, schedule=FLOW
    )
    assert losses.vb is None
    assert losses.masked_vb is None
    mse = [
        (o[:, :4] - (e - clean)).square().mean()
        for o, e in ((out, noise), (masked_out, masked_noise))
    ]
    torch.testing.assert_close(losses.total, mse[0] + mse[1])
    losses.total.backward()
    assert out.grad is not None
    assert bool((out.grad[:, 4:] == 0).all())  # the variance


def test_min_snr_weights_the_error_of_the_image() -> None:
    t = torch.tensor([0, 99, 300, 700, 999])
    s = (t + 1.0) / 1000
    snr = ((1 - s) / s) ** 2
    torch.testing.assert_close(FLOW.weight("min-snr", t), snr.clamp(max=5) * s**2)


@pytest.mark.parametrize(("kind", "prediction"), [("flow", "v"), ("cosine", "flow")])
def test_flow_is_a_schedule_and_a_prediction(kind: str, prediction: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule {kind} does not fit prediction {prediction}"):
        Schedule(kind, prediction)
