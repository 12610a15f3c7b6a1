"""From noise to latents: a deterministic solver with the paper's power-cosine guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.diffusion.solvers import plan, spaced, spacing_of
from xmdpt_cli.errors import ConfigError

LINEAR = Schedule()


def guidance_scale(timestep: int, guidance: float, power: float, total: int = 1000) -> float:
    """Paper eq. 6: gamma_t = 1 + (gamma - 1) s(t), s(t) = (1 - cos(pi (1 - t/1000)^alpha)) / 2."""
    s = (1 - math.cos(math.pi * (1 - timestep / total) ** power)) / 2
    return 1 + (guidance - 1) * s


def guided(
    model: Callable[..., Tensor],
    x: Tensor,
    timestep: int,
    condition: Tensor,
    scale: float,
    context: Any = None,
) -> Tensor:
    """One guided prediction (N, 2C, h, w): all channels are guided, as published.

    Both branches go through the network in one batch of 2N; the unconditional half has a zero
    condition. Where the scale is exactly 1 the unconditional branch is not run.
    """
    n = x.shape[0]
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


@dataclass(frozen=True)
class Seen:
    """What a callback is told after every step."""

    done: int  # steps
    steps: int
    clean: Tensor  # (N, C, h, w) the clean latents that the network sees in x


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
    spacing: str | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    context: Any = None,
    schedule: Schedule = LINEAR,
    callback: Callable[[Seen], None] | None = None,
) -> Tensor:
    """Draw latents (N, C, h, w) from start noise of that shape; the result is scaled latents.

    condition (N, D), computed once by ``model.condition``. Defaults are the paper's (sec. 4.1):
    50 DDIM steps (eta 0) over round(linspace(0, 999, 50)), each step to the next listed timestep
    and the last to alpha-bar = 1; guidance 2.0; power 0.01 for best SSIM/LPIPS, 1.0 for best FID.
    ``solver`` and ``spacing`` (None: the solver's own): names in ``solvers``. ``interval``:
    guidance is applied where t / 1000 lies in it (Kynkäänniemi et al. 2024, arXiv 2404.07724),
    elsewhere the unconditional branch is not run. Deterministic: all randomness is in ``noise``.

    A model that has a ``denoiser`` (``XMDPT``) makes what all steps share before the loop; any
    other callable is called as in ``guided``.
    """
    if power <= 0:
        raise ConfigError(f"power must be positive, not {power}")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ConfigError(f"the guidance interval lies in 0 to 1, low end first, not {interval}")
    own = spacing_of(solver)
    todo = plan(solver, spaced(spacing or own, steps, schedule), schedule)
    scales = [
        guidance_scale(step.timestep, guidance, power, schedule.steps)
        if interval[0] <= step.timestep / schedule.steps <= interval[1]
        else 1.0
        for step in todo
    ]
    if hasattr(model, "denoiser"):
        denoise = model.denoiser(condition, [step.timestep for step in todo], scales, context)
    else:

        def denoise(x: Tensor, i: int) -> Tensor:
            return guided(model, x, todo[i].timestep, condition, scales[i], context)

    x = before = noise
    earlier: list[Tensor] = []
    for i, step in enumerate(todo):
        out = denoise(x, i)[:, : x.shape[1]].to(x.dtype)
        if schedule.prediction == "epsilon":
            clean = (x - step.sigma * out) / step.alpha
        else:
            clean = step.alpha * x - step.sigma * out
        if step.correct:
            x = _weighted(step.correct, [before, clean, *earlier])
        before, x = x, _weighted(step.predict, [x, clean, *earlier])
        earlier = [clean, *earlier][:2]
        if callback is not None:
            callback(Seen(i + 1, steps, clean))
    return x


def _weighted(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=False):
        total = torch.add(total, term, alpha=weight)
    return total


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
