"""Exponential moving average of the weights (paper sec. 4.1: 0.9999)."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A frozen copy of a model whose weights are an average of the model's.

    Create it before sharding the model, then shard both in the same way (``parallel.shard``): each
    rank averages its own part of the weights.
    """

    def __init__(self, model: M, decay: float, warmup: bool) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards ``model`` after optimizer step number ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        averages = [local_shard(p) for p in self.model.parameters()]
        weights = [local_shard(p.detach()) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (DTensor), a view; any other tensor as it is."""
    # without isinstance: importing DTensor takes half as long as importing torch
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
