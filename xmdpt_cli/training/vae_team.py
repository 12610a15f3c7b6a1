"""Several processes that train one VAE together: plain collectives of torch.distributed.

Started by torchrun (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Rank 0
writes; every process sees the mean of all gradients, so all hold the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from xmdpt_cli.data.ranks import World
from xmdpt_cli.errors import ConfigError, XmdptError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process among ``size``; alone, nothing is sent anywhere."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Team:
        """Meet the other processes that torchrun started. ConfigError if they cannot be met."""
        world = World.from_environment()
        if world.size == 1:
            return cls()
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE={world.size}, but {' and '.join(missing)} not set",
                "start all processes with torchrun, or unset WORLD_SIZE to work alone",
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(hours=1),  # rank 0 writes and draws while the others wait
        )
        return cls(world.rank, world.size)

    def leave(self) -> None:
        """Say goodbye, at the very end."""
        if self.size > 1:
            dist.destroy_process_group()

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def deviation(self, values: Tensor) -> Tensor:
        """Standard deviation of all processes' ``values`` together, without gradient."""
        values = values.detach()
        if self.size == 1:
            return values.std()
        sums = torch.stack([values.double().sum(), values.double().square().sum()])
        dist.all_reduce(sums)
        count = values.numel() * self.size
        variance = (sums[1] - sums[0] ** 2 / count) / (count - 1)
        return variance.clamp(min=0).sqrt().to(values.dtype)

    def lead(self, work: Callable[[], T]) -> T:
        """Rank 0 does ``work``; all get what it returned, or the error a user can act on."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = work()
            except Exception as err:
                known = isinstance(err, XmdptError)
                dist.broadcast_object_list(
                    [None, err if known else XmdptError(f"rank 0 failed: {err}")], src=0
                )
                raise
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        result: T = told[0]
        return result

    def gather(self, item: T) -> list[T]:
        """Every process's ``item``, by rank, for all of them."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items


ALONE = Team()
