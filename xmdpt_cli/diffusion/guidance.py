"""Classifier-free guidance with the paper's power-cosine scale (eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from xmdpt_cli.errors import ConfigError

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
        cache: int = 1,
    ) -> Denoise:
        """The guided predictions at the listed timesteps, with a scale each; its steps must be
        called in order. ``cache``: as in ``Guidance``."""
        ...


def guidance_scale(timestep: int, guidance: float, power: float, total: int = 1000) -> float:
    """Paper eq. 6: gamma_t = 1 + (gamma - 1) s(t), s(t) = (1 - cos(pi (1 - t/1000)^alpha)) / 2."""
    s = (1 - math.cos(math.pi * (1 - timestep / total) ** power)) / 2
    return 1 + (guidance - 1) * s


def classifier_free_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional), on all 2C channels as published."""
    return torch.lerp(unconditional, conditional, scale)


def check_cache(cache: object) -> None:
    """ConfigError unless the value is an int of at least 1."""
    if type(cache) is not int or cache < 1:
        raise ConfigError(
            f"cache is a whole number of steps, at least 1, not {cache!r}", "for example 2"
        )


def evaluated_branches(cfg_scales: Sequence[float], cache: int = 1) -> list[int]:
    """The number of branches that each step evaluates: 2 in every ``cache``-th step with guidance,
    the first of them included; 1, the conditional branch, in the others and where the scale is 1.
    """
    branches, guided = [], 0
    for scale in cfg_scales:
        branches.append(2 if scale != 1.0 and guided % cache == 0 else 1)
        guided += scale != 1.0
    return branches


class Guidance:
    """Classifier-free guidance over the steps of one sampling, with a cache of its difference.

    The difference of the branches, conditional - unconditional, changes smoothly from step to step.
    With a ``cache`` of k > 1 the unconditional branch is evaluated in every k-th step only. In the
    other steps the difference is extrapolated, linearly in the number of the step, from the last
    two steps that evaluated both branches, or reused where only one did. (FasterCache, Lv et al.
    2024, arXiv 2410.19355, reuses the difference of the branches, too.)

    Which steps these are depends on their number alone, not on the images: an image does not depend
    on the others of its batch, and there are two batch shapes, so compiled steps stay CUDA graphs.

    Args:
        cfg_scales: The guidance scale of each step; 1: no guidance.
        cache: The number k, at least 1; 1: no cache.
    """

    def __init__(self, cfg_scales: Sequence[float], cache: int = 1) -> None:
        self.cfg_scales, self.cached = cfg_scales, cache > 1
        self.branches = evaluated_branches(cfg_scales, cache)
        self._known: list[tuple[int, Tensor]] = []  # (step, difference), the newest last

    def __call__(self, out: Tensor, i: int) -> Tensor:
        """The guided prediction at step i, (N, 2C, h, w), from the branches that it evaluated:
        (2N, 2C, h, w), the conditional rows first, or (N, 2C, h, w)."""
        scale = self.cfg_scales[i]
        if scale == 1.0:
            return out
        if self.branches[i] == 1:
            return torch.add(out, self._extrapolated(i), alpha=scale - 1)
        conditional, unconditional = out.chunk(2)
        if self.cached:
            self._known = [*self._known, (i, conditional - unconditional)][-2:]
        return classifier_free_guidance(conditional, unconditional, scale)

    def _extrapolated(self, i: int) -> Tensor:
        """conditional - unconditional at step i: (N, 2C, h, w)."""
        (first_step, first), (last_step, last) = self._known[0], self._known[-1]
        if first_step == last_step:
            return last
        return torch.lerp(first, last, (i - first_step) / (last_step - first_step))


class Guided:
    """Guidance around any network: ``network(x, t, condition, keep)``, keep (N,) bool the rows that
    keep their condition. Both branches are one batch."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
        self.network = network

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: Any = None,
        cache: int = 1,
    ) -> Denoise:
        """See ``GuidedModel``."""
        guidance = Guidance(cfg_scales, cache)

        def denoise(x: Tensor, i: int) -> Tensor:
            keep = torch.ones(len(x), dtype=torch.bool, device=x.device)
            c = condition
            if guidance.branches[i] == 2:
                x, c, keep = torch.cat([x, x]), torch.cat([c, c]), torch.cat([keep, ~keep])
            t = torch.full((len(x),), timesteps[i], device=x.device)
            return guidance(self.network(x, t, c, keep), i)

        return denoise
