"""Classifier-free guidance with the paper's power-cosine scale (eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

#: x (N, C, h, w), step i -> the guided prediction (N, 2C, h, w)
Denoise = Callable[[Tensor, int], Tensor]


class GuidedModel(Protocol):
    """What ``sample`` takes: a model that predicts with guidance (``XMDPT``, ``Guided``)."""

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: Any = None,
    ) -> Denoise:
        """The guided predictions at the listed timesteps, with a scale each."""
        ...


def guidance_scale(timestep: int, guidance: float, power: float, total: int = 1000) -> float:
    """Paper eq. 6: gamma_t = 1 + (gamma - 1) s(t), s(t) = (1 - cos(pi (1 - t/1000)^alpha)) / 2."""
    s = (1 - math.cos(math.pi * (1 - timestep / total) ** power)) / 2
    return 1 + (guidance - 1) * s


def classifier_free_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional), on all 2C channels as published."""
    return torch.lerp(unconditional, conditional, scale)


class Guided:
    """Guidance around any network: ``network(x, t, condition, keep)``, keep (N,) bool the rows that
    keep their condition. Both branches are one batch; a scale of 1 needs the conditional alone."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
        self.network = network

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: Any = None,
    ) -> Denoise:
        """See ``GuidedModel``."""

        def denoise(x: Tensor, i: int) -> Tensor:
            n, scale = len(x), cfg_scales[i]
            keep = torch.ones(n, dtype=torch.bool, device=x.device)
            c = condition
            if scale != 1.0:
                x, c, keep = torch.cat([x, x]), torch.cat([c, c]), torch.cat([keep, ~keep])
            t = torch.full((len(x),), timesteps[i], device=x.device)
            out = self.network(x, t, c, keep)
            if scale == 1.0:
                return out
            conditional, unconditional = out.split(n)
            return classifier_free_guidance(conditional, unconditional, scale)

        return denoise
