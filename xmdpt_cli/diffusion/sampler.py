"""From noise to latents: deterministic DDIM with the paper's power-cosine guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.errors import ConfigError

LINEAR = Schedule()


def timestep_list(steps: int, total: int = 1000) -> list[int]:
    """round(linspace(0, total - 1, steps)), last first: 999 ... 0."""
    if not 1 <= steps <= total:
        raise ConfigError(f"steps lies between 1 and {total}, not {steps}")
    if steps == 1:
        return [total - 1]
    # Python rounds halves to even, as numpy does for the published list
    return [round(i * (total - 1) / (steps - 1)) for i in range(steps)][::-1]


def guidance_scale(timestep: int, guidance: float, power: float, total: int = 1000) -> float:
    """Paper eq. 6: gamma_t = 1 + (gamma - 1) s(t), s(t) = (1 - cos(pi (1 - t/1000)^alpha)) / 2."""
    s = (1 - math.cos(math.pi * (1 - timestep / total) ** power)) / 2
    return 1 + (guidance - 1) * s


def guided(
    model: Callable[..., Tensor],
    x: Tensor,
    timestep: int,
    condition: Tensor,
    guidance: float,
    power: float,
    context: Any = None,
    total: int = 1000,
) -> Tensor:
    """One guided prediction (N, 2C, h, w): all channels are guided, as published.

    Both branches go through the network in one batch of 2N; the unconditional half has a zero
    condition. Where the scale is exactly 1 the unconditional branch is not run.
    """
    n = x.shape[0]
    scale = guidance_scale(timestep, guidance, power, total)
    if scale == 1.0:
        t = torch.full((n,), timestep, device=x.device, dtype=torch.long)
        return _call(model, x, t, condition, context)
    t = torch.full((2 * n,), timestep, device=x.device, dtype=torch.long)
    both = torch.cat([condition, torch.zeros_like(condition)])
    doubled = None
    if context is not None:
        doubled = type(context)(*(None if p is None else torch.cat([p, p]) for p in context))
    with_condition, without = _call(model, torch.cat([x, x]), t, both, doubled).chunk(2)
    return without + scale * (with_condition - without)


@torch.no_grad()
def sample(
    model: Callable[..., Tensor],
    noise: Tensor,
    condition: Tensor,
    steps: int = 50,
    guidance: float = 2.0,
    power: float = 0.01,
    solver: str = "ddim",
    *,
    context: Any = None,
    schedule: Schedule = LINEAR,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw latents (N, C, h, w) from start noise of that shape; the result is scaled latents.

    condition (N, D), computed once by ``model.condition``. Defaults are the paper's (sec. 4.1):
    50 DDIM steps (eta 0) over round(linspace(0, 999, 50)), each step to the next listed timestep
    and the last to alpha-bar = 1; guidance 2.0; power 0.01 for best SSIM/LPIPS, 1.0 for best FID.
    Deterministic: all randomness is in ``noise``. ``progress(done, steps)`` is called per step.
    """
    if solver != "ddim":
        raise ConfigError(f"no such solver: {solver!r}", "the solver there is: ddim")
    if power <= 0:
        raise ConfigError(f"power must be positive, not {power}")
    times = timestep_list(steps, schedule.steps)
    alpha_bar = [float(schedule.alpha_bar[t]) for t in times] + [1.0]
    x = noise
    for i, t in enumerate(times):
        out = guided(model, x, t, condition, guidance, power, context, schedule.steps)
        prediction = out[:, : x.shape[1]].to(x.dtype)
        clean, eps = schedule.clean_and_noise(
            x, prediction, torch.tensor(alpha_bar[i], dtype=x.dtype, device=x.device)
        )
        x = math.sqrt(alpha_bar[i + 1]) * clean + math.sqrt(1 - alpha_bar[i + 1]) * eps
        if progress is not None:
            progress(i + 1, steps)
    return x


def start_noise(shape: tuple[int, ...], seed: int, positions: list[int]) -> Tensor:
    """Start noise (len(positions), *shape), each row from (seed, position) alone.

    So a picture does not depend on its batch, its order or its neighbours.
    """
    rows = []
    for position in positions:
        rng = torch.Generator().manual_seed((seed * 1_000_003 + position) % 2**63)
        rows.append(torch.randn(shape, generator=rng))
    return torch.stack(rows)


def _call(model: Callable[..., Tensor], x: Tensor, t: Tensor, c: Tensor, context: Any) -> Tensor:
    return model(x, t, c) if context is None else model(x, t, c, context=context)
