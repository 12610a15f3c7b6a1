"""Contrastive flow matching and model guidance against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xmdpt_cli.diffusion import Schedule, training_loss
from xmdpt_cli.diffusion.model_guidance import target_shift

SCHEDULES = [Schedule(), Schedule("cosine", "v"), Schedule("flow", "flow")]
KEEP = torch.tensor([True, False, True])
TIMES = torch.tensor([20, 400, 990])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wide(rows: Tensor) -> Tensor:
    return rows[:, None, None, None].float()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.prediction)
def test_the_contrastive_optimum_is_its_closed_form(schedule: Schedule) -> None:
    """The gradient is 0 at (target - lambda negative) / (1 - lambda), and at the plain target in
    rows without conditions."""
    clean, noise = normal(3, 4, 2, 2, seed=0), normal(3, 4, 2, 2, seed=1)
    alpha, sigma = schedule.levels(TIMES, clean)
    other_clean, other_noise = clean[[1, 2, 0]], noise[[1, 2, 0]]
    target, negative = {
        "epsilon": (noise, other_noise),
        "v": (alpha * noise - sigma * clean, alpha * other_noise - sigma * other_clean),
        "flow": (noise - clean, other_noise - other_clean),
    }[schedule.prediction]
    optimum = torch.where(wide(KEEP) == 1, (target - 0.05 * negative) / 0.95, target)
    out = torch.cat([optimum, torch.zeros_like(optimum)], dim=1).requires_grad_()
    losses = training_loss(
        out, clean, TIMES, noise, keep=KEEP, contrastive_weight=0.05, schedule=schedule
    )
    losses.total.backward()
    assert out.grad is not None
    torch.testing.assert_close(out.grad[:, :4], torch.zeros_like(target), atol=1e-6, rtol=0)
    expected = (optimum - target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses.mse, expected)
    away = KEEP * (optimum - negative).square().mean(dim=(1, 2, 3))
    total = expected - 0.05 * away + (0.0 if losses.vb is None else losses.vb)
    torch.testing.assert_close(losses.total.detach(), total.mean())


def test_model_guidance_shifts_the_target_of_the_error_alone() -> None:
    clean, noise = normal(3, 4, 2, 2, seed=0), normal(3, 4, 2, 2, seed=1)
    out = normal(3, 8, 2, 2, seed=2).requires_grad_()
    unconditional = normal(3, 8, 2, 2, seed=3).requires_grad_()
    shift = 0.5 * (out - unconditional)[:, :4].detach() * wide(KEEP)
    found = training_loss(
        out, clean, TIMES, noise, keep=KEEP, unconditional=unconditional, model_guidance=0.5
    )
    plain = training_loss(out, clean, TIMES, noise)
    expected = (out[:, :4] - noise - shift).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found.mse, expected.detach())
    torch.testing.assert_close(found.vb, plain.vb)
    assert plain.vb is not None
    (gradient,) = torch.autograd.grad(found.total, out)
    (by_hand,) = torch.autograd.grad(expected.mean(), out)
    torch.testing.assert_close(gradient[:, :4], by_hand[:, :4])  # it stops at the shift
    assert unconditional.grad is None


def test_the_fixed_point_of_model_guidance_is_a_guided_prediction() -> None:
    """A model that always fits the mean of its targets ends at scale 1 / (1 - w)."""
    mean, unconditional = normal(1, 8, 2, 2, seed=0), normal(1, 8, 2, 2, seed=1)
    prediction = mean
    for _ in range(60):
        shift = target_shift(prediction, unconditional, None, 0.6)
        prediction = torch.cat([mean[:, :4] + shift, mean[:, 4:]], dim=1)
    expected = unconditional + (mean - unconditional) / 0.4
    torch.testing.assert_close(prediction[:, :4], expected[:, :4])
