"""Classifier-free guidance with the paper's power-cosine scale (eq. 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def guidance_scale(timestep: int, guidance: float, power: float, total: int = 1000) -> float:
    """Paper eq. 6: gamma_t = 1 + (gamma - 1) s(t), s(t) = (1 - cos(pi (1 - t/1000)^alpha)) / 2."""
    s = (1 - math.cos(math.pi * (1 - timestep / total) ** power)) / 2
    return 1 + (guidance - 1) * s


def classifier_free_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional), on all 2C channels as published."""
    return torch.lerp(unconditional, conditional, scale)
