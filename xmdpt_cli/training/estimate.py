"""Estimates of the time, memory and disk that a training needs, made before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.model import parameter_counts
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.flops import step_flops
from xmdpt_cli.training.footprint import (
    COUNTED,
    Cost,
    ReadyStep,
    parameter_bytes,
    step_time,
)
from xmdpt_cli.training.optimizer import make_optimizers, state_bytes
from xmdpt_cli.training.step import Step, in_bf16
from xmdpt_cli.training.task import Task


@dataclass(frozen=True)
class Estimate:
    """The estimate, per process where several train together."""

    steps: int  # still to do
    step_seconds: float | None  # None: the batch size is not known yet
    how: str  # MEASURED, on a few steps, or COUNTED and divided by the rate of matrix products
    memory: dict[str, int]  # bytes: weights, gradients, optimizer, average, activations
    checkpoint: int  # bytes of one
    parameters: dict[str, int]  # ``model.parameter_counts``
    disk: int  # bytes of all that is kept at the same time, the finished model included

    @property
    def seconds(self) -> float | None:
        return None if self.step_seconds is None else self.steps * self.step_seconds

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
        }


def estimate(
    cost: Cost,
    make_step: Callable[[int], ReadyStep],
    *,
    out: Path,
    steps: int,
    pairs: int,
    accumulate: int,
    device: torch.device,
    bf16: bool,
    memory: dict[str, int],
    checkpoint_bytes: int,
    kept: int,
    model_bytes: int,
    parameters: dict[str, int],
) -> Estimate:
    """The estimate of a training in ``out``, of which some steps may be done.

    ``make_step(count)`` returns a step on ``count`` examples that is ready to run: it runs a few
    times if one takes ``LONG`` seconds at most. ``pairs``: examples per step and process (0: not
    known), taken in ``accumulate`` parts; ``kept``: checkpoints on the disk at the same time.
    """
    found = checkpoint.latest(out / "checkpoints")
    left = max(0, steps - (0 if found is None else checkpoint.step_of(found)))
    seconds, how = None, COUNTED
    if pairs:
        at_once = -(-pairs // accumulate)
        memory = {**memory, "activations": cost.activations(at_once)}
        seconds, how = step_time(cost.flops, pairs, at_once, device, bf16, make_step)
    disk = kept * checkpoint_bytes + model_bytes
    return Estimate(left, seconds, how, memory, checkpoint_bytes, parameters, disk)


def estimate_training(
    task: Task,
    out: Path,
    device: torch.device,
    world: int = 1,
    sharded: bool = False,
) -> Estimate:
    """The estimate of a run of ``task``; of the dataset only shapes are read.

    ``world``: processes that train together; ``sharded``: they share weights and state (FSDP2).
    """
    task = task.of_mean_cost()
    config, step = task.config, _shapes_only(task)
    step.autocast = in_bf16(config.precision, device)

    def loss(module: nn.Module, count: int) -> Tensor:
        inputs = task.made_up_inputs(step.model, count, torch.device("cpu"))
        total: Tensor = module(inputs).total
        return total

    weights = parameter_bytes(step.model.parameters())
    frozen = parameter_bytes(step.parameters()) - weights  # a teacher's
    state = state_bytes(step.model, config)
    kept = config.keep_checkpoints + 1  # the newest is written before the oldest is removed
    kept += config.steps // config.keep_every if config.keep_every else 0
    share = world if sharded else 1
    memory = dict.fromkeys(("weights", "gradients", "average"), weights // share)
    memory |= {"optimizer": state // share, **({"teacher": frozen // share} if frozen else {})}
    return estimate(
        Cost(step, loss),
        lambda count: _ready_step(task, count, device),
        out=out,
        steps=config.steps,
        pairs=config.batch_size // world,
        accumulate=config.accumulate,
        device=device,
        bf16=step.autocast,
        memory=memory,
        checkpoint_bytes=2 * weights + state,  # model, average, optimizer
        kept=kept,
        model_bytes=weights,
        parameters=parameter_counts(step.model),
    )


def pair_flops(task: Task) -> float:
    """FLOPs of a training step per pair, without the encoders of ``online``."""
    task = task.of_mean_cost()
    step = _shapes_only(task)
    inputs = task.made_up_inputs(step.model, 1, torch.device("cpu"))
    return float(step_flops(step, inputs))


def _shapes_only(task: Task) -> Step:
    """The step of a task, whose tensors have shapes and no data."""
    with torch.device("meta"):
        model = task.build_model()
    return task.make_step(model, torch.device("cpu"))


def _ready_step(task: Task, count: int, device: torch.device) -> ReadyStep:
    """A training step on ``count`` pairs, optimizer and EMA included."""
    config, model = task.config, task.build_model().to(device)
    step = task.make_step(model, device)
    step.autocast = in_bf16(config.precision, device)
    optimizers, ema = make_optimizers(model, config), Ema(model, config.ema, config.ema_warmup)
    inputs = task.made_up_inputs(model, count, device)

    def gradients() -> None:
        model.zero_grad(set_to_none=True)
        step(inputs).total.backward()

    def update() -> None:
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model, 1)

    return ReadyStep(gradients, update)
