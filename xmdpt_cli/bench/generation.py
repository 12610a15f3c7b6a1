"""How X-MDPT draws a batch: as published, pruned, as here, and each under D-CFG.

A drawing is made once a batch (``setup``) and then step by step (``draw(state, steps)``, which
gives latents (N, C, h, w)); see ``implementations`` for what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmdpt_cli.bench.baselines import BRANCHES, disentangled
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.diffusion import sample
from xmdpt_cli.model import XMDPT

GUIDANCE, POWER = 2.0, 0.01  # paper sec. 4.1
SCALES = 2.0, 2.0  # of D-CFG; speed does not depend on them

Setup = Callable[[], Any]
Draw = Callable[[Any, int], Tensor]
#: x (N, C, h, w), step -> the guided prediction
Denoise = Callable[[Tensor, int], Tensor]


class Inputs(NamedTuple):
    """Random conditions and start noise of N images."""

    pose: Tensor  # (N, L, 768)
    source: Tensor  # (N, L, 1536)
    latents: Tensor  # (N, C, h, w)
    noise: Tensor

    @classmethod
    def of(cls, model: XMDPT, count: int, seed: int = 0) -> Inputs:
        """On the CPU, tokens in bf16 as datasets hold them."""
        rng = torch.Generator().manual_seed(seed)
        pose = torch.randn(count, *model.canet.pose_shape, generator=rng).bfloat16()
        source = torch.randn(count, *model.canet.source_shape, generator=rng).bfloat16()
        latents, noise = (torch.randn(count, *model.latent_shape, generator=rng) for _ in range(2))
        return cls(pose, source, latents, noise)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """Conditions in ``dtype``; the noise stays in fp32, as ``xmdpt sample`` keeps it."""
        pose, source, latents = (x.to(device, dtype) for x in self[:3])
        return Inputs(pose, source, latents, self.noise.to(device))


def published(net: PublishedXMDPT, inputs: Inputs, branches: int) -> Draw:
    """Every branch by itself, the source stream and CANet in each. Needs no setup."""
    keep = torch.ones(len(inputs.noise), dtype=torch.bool, device=inputs.noise.device)
    whole = inputs.source, inputs.latents
    # unconditional, pose alone, both: whether conditions are kept, and which source
    given = [(~keep, whole), (keep, (torch.zeros_like(whole[0]), torch.zeros_like(whole[1])))]
    given = [*given[: branches - 1], (keep, whole)]

    def predict(x: Tensor, t: Tensor) -> list[Tensor]:
        return [net(x, t, inputs.pose, *source, kept) for kept, source in given]

    return lambda _, steps: _by_branches(predict, inputs, steps)


def pruned(net: PublishedXMDPT, inputs: Inputs) -> tuple[Setup, Draw]:
    """As published but for the source stream, with CANet once."""

    @torch.no_grad()
    def setup() -> Tensor:
        return net.model.condition(inputs.pose, inputs.source, inputs.latents)

    def draw(condition: Tensor, steps: int) -> Tensor:
        nothing = torch.zeros_like(condition)

        def predict(x: Tensor, t: Tensor) -> list[Tensor]:
            return [net.model(x, t, c) for c in (nothing, condition)]

        return _by_branches(predict, inputs, steps)

    return setup, draw


def ours(model: XMDPT, inputs: Inputs, solver: str = "ddim") -> tuple[Setup, Draw]:
    """As ``xmdpt sample`` draws."""

    @torch.no_grad()
    def setup() -> Tensor:
        return model.condition(inputs.pose, inputs.source, inputs.latents)

    def draw(condition: Tensor, steps: int) -> Tensor:
        return sample(model, inputs.noise, condition, steps, GUIDANCE, POWER, solver)

    return setup, draw


def ours_disentangled(model: XMDPT, inputs: Inputs) -> tuple[Setup, Draw]:
    """Three branches in one batch, with all else as ours."""
    nothing = torch.zeros_like(inputs.source), torch.zeros_like(inputs.latents)

    @torch.no_grad()
    def setup() -> Tensor:
        both = model.condition(inputs.pose, inputs.source, inputs.latents)
        posed = model.condition(inputs.pose, *nothing)
        return torch.cat([torch.zeros_like(both), posed, both])  # (3N, D)

    def draw(conditions: Tensor, steps: int) -> Tensor:
        def make(timesteps: Sequence[int], scales: Sequence[float]) -> Denoise:
            # scale 1: the branches are made here, in one batch
            inner = model.denoiser(conditions, timesteps, [1.0] * len(scales))
            return lambda x, i: disentangled(inner(torch.cat([x] * BRANCHES), i), *SCALES)

        return _sampled(make, inputs, steps)

    return setup, draw


def _by_branches(
    predict: Callable[[Tensor, Tensor], list[Tensor]], inputs: Inputs, steps: int
) -> Tensor:
    """``predict(x, t)`` gives the branches of a step one after the other, unconditional first."""

    def make(timesteps: Sequence[int], scales: Sequence[float]) -> Denoise:
        def denoise(x: Tensor, i: int) -> Tensor:
            t = torch.full((len(x),), timesteps[i], device=x.device)
            outs = [out.to(x.dtype) for out in predict(x.to(inputs.latents.dtype), t)]
            if len(outs) == BRANCHES:
                return disentangled(torch.cat(outs), *SCALES)
            without, conditional = outs
            return torch.lerp(without, conditional, scales[i])

        return denoise

    return _sampled(make, inputs, steps)


class _Model:
    """What ``sample`` takes for a model: it asks for a denoiser of the steps to come."""

    def __init__(self, make: Callable[[Sequence[int], Sequence[float]], Denoise]) -> None:
        self.make = make

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: Any = None,
    ) -> Denoise:
        return self.make(timesteps, cfg_scales)


def _sampled(
    make: Callable[[Sequence[int], Sequence[float]], Denoise], inputs: Inputs, steps: int
) -> Tensor:
    nothing = inputs.noise.new_empty(len(inputs.noise), 0)  # conditions are the denoiser's affair
    return sample(_Model(make), inputs.noise, nothing, steps, GUIDANCE, POWER)
