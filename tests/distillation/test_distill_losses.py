"""The losses against their formulas, written with the reference model and plain torch."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from small_teacher import SHORT, make_teacher
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.distillation.inputs import DistillInputs
from xmdpt_cli.distillation.step import DistillStep
from xmdpt_cli.distillation.task import DistillTask
from xmdpt_cli.distillation.teacher import load_teacher
from xmdpt_cli.model import XMDPT

CPU = torch.device("cpu")
CONFIG = dataclasses.replace(SHORT, min_guidance=1.2, max_guidance=2.5)
POWER = 0.5  # of ``make_teacher``


def task_of(data: Path, folder: Path, config: DistillConfig) -> DistillTask:
    return DistillTask(config, PairDataset(data), load_teacher(folder, config), "wise")


def step_of(task: DistillTask) -> tuple[DistillStep, DistillInputs]:
    """A step whose student differs from its teacher, and its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.build_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        inputs = task.made_up_inputs(model, 4, CPU)
    inputs.uniform[:, 0] = torch.tensor([0.0, 0.3, 0.7, 0.995])
    return task.make_step(model, CPU), inputs


def reference(
    model: XMDPT,
    inputs: DistillInputs,
    x: Tensor,
    t: Tensor,
    keep: bool = True,
    scales: Tensor | None = None,
) -> Tensor:
    """The reference model's output, conditional or not."""
    condition = model.condition(inputs.pose_tokens, inputs.source_tokens, inputs.source)
    tokens = None
    if inputs.pose_maps is not None:
        tokens = model.token_conditions(inputs.source, *inputs.pose_maps)
    kept = torch.full((len(x),), keep)
    return model(x, t, condition, tokens, kept, scales)


def scale_of(gamma: Tensor, t: Tensor) -> Tensor:
    """Paper eq. 6."""
    share = [(1 - math.cos(math.pi * (1 - int(v) / 1000) ** POWER)) / 2 for v in t]
    return 1 + (gamma - 1) * torch.tensor(share)


def teacher_v(
    task: DistillTask, inputs: DistillInputs, x: Tensor, t: Tensor, scales: Tensor
) -> Tensor:
    """The velocity of both branches, combined."""
    model, schedule = task.teacher.model, task.teacher.schedule
    conditional, unconditional = (reference(model, inputs, x, t, keep) for keep in (True, False))
    scale = scales[:, None, None, None]
    guided = (unconditional + scale * (conditional - unconditional))[:, :4]
    if schedule.prediction != "epsilon":
        return guided
    abar = schedule.alpha_bar[t].float()[:, None, None, None]
    clean = (x - (1 - abar).sqrt() * guided) / abar.sqrt()
    return abar.sqrt() * guided - (1 - abar).sqrt() * clean


@pytest.mark.parametrize(
    ("conditioning", "prediction"), [("vector", "epsilon"), ("tokens", "v"), ("vector", "flow")]
)
def test_the_guidance_loss_is_its_formula(
    data: Path, tmp_path: Path, conditioning: str, prediction: str
) -> None:
    kind = "flow" if prediction == "flow" else "cosine"
    folder = make_teacher(
        tmp_path / "wise", data, conditioning=conditioning, prediction=prediction, schedule=kind
    )
    task = task_of(data, folder, CONFIG)
    step, inputs = step_of(task)
    losses = step(inputs)
    t = (1000 * inputs.uniform[:, 0].double()).long()
    scales = scale_of(1.2 + 1.3 * inputs.uniform[:, 1], t)
    if kind == "flow":
        s = (t + 1)[:, None, None, None] / 1000
        x = (1 - s) * inputs.target + s * inputs.noise
    else:
        abar = task.teacher.schedule.alpha_bar[t].float()[:, None, None, None]
        x = abar.sqrt() * inputs.target + (1 - abar).sqrt() * inputs.noise
    expected = teacher_v(task, inputs, x, t, scales)
    found = reference(step.model, inputs, x, t, scales=scales)[:, :4]
    error = (found - expected).square().mean(dim=(1, 2, 3))
    if prediction == "epsilon":  # whose error is 1 / abar times as large in v
        error = error * (1000 * abar.flatten()).clamp(max=1)
    torch.testing.assert_close(losses.mse, error, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(losses.total, error.mean(), rtol=1e-3, atol=1e-6)
    losses.total.backward()
    assert all(p.grad is not None for p in step.model.parameters())
    assert all(p.grad is None for p in step.teacher.parameters())


def test_a_student_starts_with_the_weights_of_its_teacher(data: Path, teacher: Path) -> None:
    """Without guidance and with v prediction both predict the same."""
    task = task_of(data, teacher, CONFIG)
    student, known = task.build_model(), task.teacher.model
    inputs = task.made_up_inputs(student, 2, CPU)
    t = torch.tensor([10, 900])
    mine = reference(student, inputs, inputs.noise, t, scales=torch.tensor([1.3, 2.0]))
    torch.testing.assert_close(mine, reference(known, inputs, inputs.noise, t))
    assert student.mipnet is None
    assert known.mipnet is not None
    two = task_of(data, teacher, dataclasses.replace(CONFIG, stage="steps")).build_model()
    first, second = reference(two, inputs, inputs.noise, t, scales=torch.tensor([1.3, 2.0])).chunk(
        2, dim=1
    )
    torch.testing.assert_close(first, mine[:, :4])
    torch.testing.assert_close(second, first)


def test_a_guidance_student_as_teacher_takes_one_evaluation(data: Path, tmp_path: Path) -> None:
    distilled = {
        "stage": "guidance", "steps": None, "guidance": [1.0, 3.0], "power": POWER,
        "loss": "guidance", "teacher": {"sha256": "0", "name": "wise", "trained_steps": 1,
        "conditioning": "vector", "prediction": "v"},
    }  # fmt: skip
    folder = make_teacher(
        tmp_path / "quick", data, prediction="v", distilled=distilled,
        model={"guidance_embed": True, "predictor": "none"},
    )  # fmt: skip
    task = task_of(data, folder, dataclasses.replace(CONFIG, stage="steps"))
    step, inputs = step_of(task)
    t, scales = torch.tensor([3, 90, 500, 999]), torch.tensor([1.2, 1.5, 1.9, 2.5])
    found = step.teacher(inputs.noise, t, scales, step.teacher.conditions(inputs))
    alone, variance = reference(task.teacher.model, inputs, inputs.noise, t, scales=scales).chunk(
        2, dim=1
    )
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    few = task_of(data, folder, dataclasses.replace(CONFIG, stage="steps")).build_model()
    first, second = reference(few, inputs, inputs.noise, t, scales=scales).chunk(2, dim=1)
    torch.testing.assert_close(first, alone)
    torch.testing.assert_close(second, first)  # not the variance, which its teacher still has
    assert not torch.allclose(variance, alone)


def test_the_steps_loss_is_its_formula(data: Path, tmp_path: Path) -> None:
    """The policy's path by integrating its equation in small steps, the rest in plain torch."""
    folder = make_teacher(tmp_path / "wise", data, prediction="v")
    config = dataclasses.replace(CONFIG, stage="steps", student_steps=2)
    task = task_of(data, folder, config)
    step, inputs = step_of(task)
    losses = step(inputs)
    schedule = task.teacher.schedule
    angles = torch.atan2((1 - schedule.alpha_bar).sqrt(), schedule.alpha_bar.sqrt())
    half = int((angles - angles[-1] / 2).abs().argmin())
    begin = [[999, half][int(2 * float(u))] for u in inputs.uniform[:, 0]]
    start = angles[begin]
    end = torch.tensor([float(angles[half]) if t == 999 else 0.0 for t in begin])
    wanted = end + (start - end) * inputs.uniform[:, 2]
    t_now = torch.tensor([int((angles - w).abs().argmin()) for w in wanted])
    gamma = 1.2 + 1.3 * inputs.uniform[:, 1]

    def wide(values: Tensor) -> Tensor:
        return values.double()[:, None, None, None]

    x = wide(start.cos()) * inputs.target + wide(start.sin()) * inputs.noise
    out = reference(step.model, inputs, x.float(), torch.tensor(begin), scales=gamma)
    first, second = out.double().chunk(2, dim=1)
    a = wide(start.cos()) * x - wide(start.sin()) * first
    b = wide(start.cos()) * x - wide(start.sin()) * second

    def velocity(x: Tensor, phi: Tensor) -> Tensor:
        clean = a + wide((phi - start) / (end - start)) * (b - a)
        return (wide(phi.cos()) * x - clean) / wide(phi.sin())  # dx / dphi, which is v

    now, count, path = angles[t_now], 200, x
    width = (now - start) / count
    for i in range(count):  # the midpoint rule
        phi = start + i * width
        middle = path + wide(width / 2) * velocity(path, phi)
        path = path + wide(width) * velocity(middle, phi + width / 2)
    target = teacher_v(task, inputs, path.float(), t_now, scale_of(gamma, t_now))
    # an error of x_0 counts 1 / sin^2 in v, and 10 at most
    x0_error = (wide(now.sin()) * (velocity(path, now) - target)).square().mean(dim=(1, 2, 3))
    error = (x0_error * (1 / now.sin() ** 2).clamp(max=10)).float()
    torch.testing.assert_close(losses.mse, error, rtol=1e-2, atol=1e-4)


def test_the_steps_loss_of_a_flow_teacher(data: Path, tmp_path: Path) -> None:
    """The path by integrating dx/ds in small steps, where x_0 is linear in the angle."""
    folder = make_teacher(tmp_path / "wise", data, prediction="flow", schedule="flow")
    task = task_of(data, folder, dataclasses.replace(CONFIG, stage="steps", student_steps=2))
    step, inputs = step_of(task)
    losses = step(inputs)
    s = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    angles = torch.atan2(s, 1 - s)
    half = 499  # s = 1 / 2: an angle of 45 degrees
    begin = torch.tensor([[999, half][int(2 * float(u))] for u in inputs.uniform[:, 0]])
    start, end = angles[begin], torch.where(begin == 999, angles[half], 0.0)
    wanted = end + (start - end) * inputs.uniform[:, 2]
    t_now = (angles - wanted[:, None]).abs().argmin(dim=1)
    gamma = 1.2 + 1.3 * inputs.uniform[:, 1]

    def wide(values: Tensor) -> Tensor:
        return values.double()[:, None, None, None]

    x = wide(1 - s[begin]) * inputs.target + wide(s[begin]) * inputs.noise
    out = reference(step.model, inputs, x.float(), begin, scales=gamma).double()
    a, b = (x - wide(s[begin]) * part for part in out.chunk(2, dim=1))

    def velocity(x: Tensor, now: Tensor) -> Tensor:
        share = (torch.atan2(now, 1 - now) - start) / (end - start)
        return (x - a - wide(share) * (b - a)) / wide(now)  # dx / ds = eps - x_0

    count, path = 400, x
    width = (s[t_now] - s[begin]) / count
    for i in range(count):  # the midpoint rule
        now = s[begin] + i * width
        middle = path + wide(width / 2) * velocity(path, now)
        path = path + wide(width) * velocity(middle, now + width / 2)
    target = teacher_v(task, inputs, path.float(), t_now, scale_of(gamma, t_now))
    # an error of x_0 counts 1 / s^2 in the velocity, and 10 at most
    error = (velocity(path, s[t_now]) - target).square().mean(dim=(1, 2, 3))
    error = error * (10 * s[t_now] ** 2).clamp(max=1)
    torch.testing.assert_close(losses.mse, error.float(), rtol=1e-2, atol=1e-4)
