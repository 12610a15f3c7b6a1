"""Exponential moving average of the weights (paper sec. 4.1: 0.9999)."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from xmdpt_cli.training.sharded import local

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
        ours = [local(p) for p in self.model.parameters()]
        theirs = [local(p.detach()) for p in model.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
