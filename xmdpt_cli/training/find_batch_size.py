"""How many pairs fit into a device's memory, found by trying."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from xmdpt_cli.data.loader import PairDataset
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.fit import free_memory, largest_batch
from xmdpt_cli.training.step import step_inputs
from xmdpt_cli.training.trainer import Trainer

T = TypeVar("T")

MOST = 1024  # pairs at a time that ``--batch-size auto`` begins from


def repeated(value: T, count: int) -> T:
    """Inputs of N pairs as inputs of ``count``: its rows over and over."""
    if isinstance(value, Tensor):
        rows = torch.arange(count, device=value.device) % len(value)
        return value[rows]  # type: ignore[return-value]
    if isinstance(value, tuple):
        parts = [repeated(part, count) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)  # type: ignore[return-value]
    return value


def largest_that_fits(trainer: Trainer, start: int) -> int:
    """The largest number of pairs, at most ``start``, that one process trains on at a time.

    Takes whole steps, optimizer included, on copies of one batch: the trainer is used up by it.
    Nothing is exchanged with other processes. XmdptError if not even one pair fits.
    """
    batch = trainer.loader().batch(0)
    inputs = step_inputs(batch, trainer.config, 0, trainer.scale, trainer.device)

    def try_step(count: int) -> None:
        trainer.model.zero_grad(set_to_none=True)
        free_memory()
        trainer.module(repeated(inputs, count)).total.backward()
        for optimizer in trainer.optimizers:
            optimizer.step()

    return largest_batch(try_step, start)


def automatic_batch(config: TrainConfig, dataset: PairDataset, device: torch.device) -> int:
    """Pairs of a step that fill a GPU's memory; ConfigError on a CPU, whose memory has no end
    that could be met and left again."""
    if device.type != "cuda":
        raise ConfigError("--batch-size auto tries a GPU's memory", "on a CPU give a number")
    import dataclasses

    alone = dataclasses.replace(config, batch_size=1, accumulate=1, compile="off", online=False)
    found = largest_that_fits(Trainer(alone, dataset, device), min(MOST, len(dataset)))
    free_memory()  # of the trainer that tried: the run's own comes beside nothing
    return found
