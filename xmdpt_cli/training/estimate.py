"""Estimates of the time, memory and disk that a training needs, made before it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.build_model import build_model
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.footprint import COUNTED, Cost, parameter_bytes, step_time
from xmdpt_cli.training.optimizer import make_optimizers, state_bytes
from xmdpt_cli.training.step import Inputs, TrainStep, in_bf16


@dataclass(frozen=True)
class Estimate:
    """The estimate, per process where several train together."""

    steps: int  # still to do
    step_seconds: float | None  # None: the batch size is not known yet
    how: str  # MEASURED, on a few steps, or COUNTED and divided by the rate of matrix products
    memory: dict[str, int]  # bytes: weights, gradients, optimizer, average, activations
    checkpoint: int  # bytes of one
    parameters: dict[str, int]  # ``XMDPT.parameter_counts``
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


def estimate_training(
    config: TrainConfig,
    dataset: PairDataset,
    out: Path,
    device: torch.device,
    world: int = 1,
    sharded: bool = False,
) -> Estimate:
    """``world``: processes that train together, ``sharded`` if they share weights and state
    (FSDP2). Reads only shapes; a few steps run where one takes ``LONG`` seconds at most.
    """
    config = dataclasses.replace(
        config, mask_ratio=config.mask_ratio + config.mask_span / 2, mask_span=0.0
    )
    with torch.device("meta"):  # shapes only
        model = build_model(config, dataset)
    found = checkpoint.latest(out / "checkpoints")
    done = 0 if found is None else checkpoint.step_of(found)
    steps = max(0, config.steps - done)
    weights, state = parameter_bytes(model.parameters()), state_bytes(model, config)
    one = 2 * weights + state  # model, average, optimizer
    kept = config.keep_checkpoints + 1  # the newest is written before the oldest goes
    kept += config.steps // config.keep_every if config.keep_every else 0
    share = world if sharded else 1
    memory = dict.fromkeys(("weights", "gradients", "average"), weights // share)
    memory["optimizer"] = state // share
    pairs = config.batch_size // world
    at_once = -(-pairs // config.accumulate)
    step = TrainStep(model, config, Schedule(config.schedule, config.prediction))
    step.autocast = in_bf16(config.precision, device)

    def loss(module: nn.Module, count: int) -> Tensor:
        inputs = made_up_inputs(config, dataset, model, count, torch.device("cpu"))
        total: Tensor = module(inputs).total
        return total

    cost = Cost(step, loss)
    seconds, how = None, COUNTED
    if pairs:
        memory["activations"] = cost.activations(at_once)
        seconds, how = step_time(
            cost.flops, pairs, at_once, device, step.autocast,
            lambda count: _steps(config, dataset, count, device),
        )  # fmt: skip
    counts = model.parameter_counts()
    return Estimate(steps, seconds, how, memory, one, counts, kept * one + weights)


def made_up_inputs(
    config: TrainConfig, dataset: PairDataset, model: XMDPT, count: int, device: torch.device
) -> Inputs:
    """Random inputs of the dataset's shapes, for ``count`` pairs."""
    tokens = model.tdnet.grid**2
    side = model.pose_pixels
    wide = dataset.column("source_tokens").shape

    def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(count, *shape, device=device).to(dtype)

    def image() -> Tensor:
        return torch.rand(count, 3, side, side, device=device)

    maps = (image(), image()) if config.conditioning == "tokens" else None
    mask = None
    if config.predictor != "none":
        mask = Mask.random(torch.rand(count, tokens, device=device), config.mask_ratio)
    kept = torch.ones(count, dtype=torch.bool, device=device)
    return Inputs(
        target=made(*model.latent_shape),
        source=made(*model.latent_shape),
        noise=made(*model.latent_shape),
        masked_noise=made(*model.latent_shape) if mask is not None else None,
        timesteps=torch.zeros(count, dtype=torch.long, device=device),
        keep=kept,
        keep_masked=kept,
        pose_tokens=made(*dataset.column("pose_tokens").shape, dtype=torch.bfloat16),
        source_tokens=made(*wide, dtype=torch.bfloat16),
        mask=mask,
        pose_maps=maps,
        target_tokens=made(*wide, dtype=torch.bfloat16) if config.repa_weight else None,
    )


def _steps(
    config: TrainConfig, dataset: PairDataset, count: int, device: torch.device
) -> Callable[[], None]:
    """A whole training step on ``count`` pairs, ready to run."""
    model = build_model(config, dataset).to(device)
    step = TrainStep(model, config, Schedule(config.schedule, config.prediction).to(device))
    step.autocast = in_bf16(config.precision, device)
    optimizers, ema = make_optimizers(model, config), Ema(model, config.ema, config.ema_warmup)
    inputs = made_up_inputs(config, dataset, model, count, device)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        step(inputs).total.backward()
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model, 1)

    return run
