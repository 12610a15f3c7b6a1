"""Finds the largest batch that fits in the memory of a device, by trying."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError, XmdptError, is_out_of_memory
from xmdpt_cli.files import human_bytes
from xmdpt_cli.training.task import Task
from xmdpt_cli.training.trainer import Trainer

T = TypeVar("T")

MAX_BATCH = 1024  # pairs at a time that ``--batch-size auto`` starts from


def repeat_rows(value: T, count: int) -> T:
    """Inputs of ``count`` pairs, made by repeating the rows of ``value``."""
    if isinstance(value, Tensor) and value.dim():  # a scalar belongs to the step
        rows = torch.arange(count, device=value.device) % len(value)
        return value[rows]  # type: ignore[return-value]
    if isinstance(value, tuple):
        parts = [repeat_rows(part, count) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)  # type: ignore[return-value]
    return value


def largest_that_fits(trainer: Trainer, start: int) -> int:
    """The largest number of pairs, at most ``start``, that one process can train on at a time.

    Takes whole steps, optimizer included, on repeated rows of one batch; the trainer must not be
    used afterwards. No collective. XmdptError if not even one pair fits.
    """
    batch = trainer.loader().batch(0)
    inputs = trainer.task.inputs(batch, 0, trainer.device)

    def try_step(count: int) -> None:
        trainer.model.zero_grad(set_to_none=True)
        free_memory()
        trainer.module(repeat_rows(inputs, count)).total.backward()
        for optimizer in trainer.optimizers:
            optimizer.step()

    return largest_batch(try_step, start)


def find_batch_size(task: Task, device: torch.device) -> int:
    """Pairs per micro batch that fill a GPU's memory; ConfigError on a CPU, which swaps instead of
    running out of memory."""
    if device.type != "cuda":
        raise ConfigError("--batch-size auto tries a GPU's memory", "on a CPU give a number")
    pairs = task.config.least_micro_batch
    alone = task.replace(batch_size=pairs, accumulate=1, compile="off", online=False)
    found = largest_that_fits(Trainer(alone, device), min(MAX_BATCH, len(task.dataset)))
    free_memory()  # of this trainer, before the run's own is created
    return found


def largest_batch(try_step: Callable[[int], None], start: int) -> int:
    """The largest number of pairs, at most ``start``, with which ``try_step`` does not run out of
    memory.

    Bisection, from ``start`` downwards; memory is freed between the tries. Other errors are not
    caught; XmdptError if not even one pair fits.
    """
    if start < 1:
        raise ValueError(f"start must be at least 1, not {start}")
    fits, too_many = 0, start + 1
    size = start
    while too_many - fits > 1:
        if _fits(try_step, size):
            fits = size
        else:
            too_many = size
        size = too_many // 2 if fits == 0 else (fits + too_many) // 2
    if fits == 0:
        raise XmdptError(
            "not even one pair fits into memory",
            "choose a smaller --size, or a dataset of smaller images",
        )
    return fits


def _fits(try_step: Callable[[int], None], size: int) -> bool:
    try:
        try_step(size)
        return True
    except Exception as err:
        if not is_out_of_memory(err):
            raise
    free_memory()  # outside the except block: the error's frames no longer hold tensors
    return False


def free_memory() -> None:
    """Release unreferenced memory, caches included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def batch_too_large(
    batch_size: int, largest: int, device: torch.device, world: int = 1, per_step: int = 1
) -> XmdptError:
    """The error for a batch that does not fit.

    ``batch_size``: pairs of an optimizer step, over ``world`` processes; ``largest``: the most that
    fit in one process at a time; ``per_step``: micro batches per step so far.
    """
    share = batch_size // world
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)
    at_once = share // per_step
    where = "of each process " if world > 1 else ""
    return XmdptError(
        f"a batch of {at_once} {where}does not fit in {total_memory(device)}; the largest that "
        f"fits is {largest}",
        f"--batch-size {batch_size} --accumulate {parts} makes the same steps in parts of "
        f"{share // parts}; or --batch-size {largest * world}",
    )


def total_memory(device: torch.device) -> str:
    """The memory of a device, for messages: "80.0 GB"."""
    if device.type == "cuda":
        return human_bytes(torch.cuda.get_device_properties(device).total_memory)
    return human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
