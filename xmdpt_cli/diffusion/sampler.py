"""From noise to latents: the loop over the steps of a deterministic solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmdpt_cli.diffusion.guidance import GuidedModel, check_cache, guidance_scale
from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.diffusion.solvers import POLICY, plan, spaced, spacing_of
from xmdpt_cli.errors import ConfigError

LINEAR = Schedule()


@dataclass(frozen=True)
class StepResult:
    """The argument of a callback, which is called after every step."""

    done: int  # steps
    steps: int
    clean: Tensor  # (N, C, h, w) the predicted clean latents


@torch.no_grad()
def sample(
    model: GuidedModel,
    noise: Tensor,
    condition: Tensor,
    steps: int = 50,
    guidance: float = 2.0,
    power: float = 0.01,
    solver: str = "ddim",
    *,
    spacing: str | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    cache: int = 1,
    tokens: Any = None,
    schedule: Schedule = LINEAR,
    callback: Callable[[StepResult], None] | None = None,
) -> Tensor:
    """Solve the sampling ODE from start noise to scaled latents.

    Deterministic: all randomness is in ``noise``. Defaults are the paper's (sec. 4.1): 50 DDIM
    steps (eta 0) over round(linspace(0, 999, 50)), each step to the next listed timestep and the
    last to alpha-bar = 1.

    Args:
        model: The network, such as an ``XMDPT``.
        noise: (N, C, h, w), standard normal.
        condition: (N, D), from ``model.condition``.
        steps: Number of steps.
        guidance: Scale of classifier-free guidance (paper eq. 6).
        power: Power of the guidance schedule (paper eq. 6); 0.01 for the best SSIM and LPIPS, 1.0
            for the best FID.
        solver: A name in ``solvers``: "ddim", "dpmpp-2m" or "unipc"; "policy" for a model that was
            distilled to this number of steps, whose guidance scale is the same in all of them.
        spacing: How the timesteps are chosen; None: the solver's own way.
        interval: Guidance is applied where t / 1000 lies in it (Kynkäänniemi et al. 2024, arXiv
            2404.07724); elsewhere the unconditional branch is not computed.
        cache: The unconditional branch is evaluated in every ``cache``-th step (``Guidance``); 1:
            in every step.
        tokens: ``model.token_conditions`` of an XMDPT with ``conditioning="tokens"``.
        schedule: The noise schedule that the model was trained with.
        callback: Called with a ``StepResult`` after every step.

    Returns:
        (N, C, h, w) scaled latents.

    Raises:
        ConfigError: A setting is out of its range.
    """
    if power <= 0:
        raise ConfigError(f"power must be positive, not {power}")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ConfigError(f"the guidance interval lies in 0 to 1, low end first, not {interval}")
    check_cache(cache)
    own_spacing = spacing_of(solver)
    timesteps = spaced(spacing or own_spacing, steps, schedule)
    todo = plan(solver, timesteps, schedule)
    cfg_scales = [
        guidance_scale(t, guidance, power, schedule.steps)
        if interval[0] <= t / schedule.steps <= interval[1]
        else 1.0
        for t in timesteps
    ]
    if solver == POLICY:
        cfg_scales = [guidance] * steps
    denoise = model.denoiser(condition, timesteps, cfg_scales, tokens, cache)
    x = before = noise
    earlier: list[Tensor] = []
    for i, step in enumerate(todo):
        found = denoise(x, i).to(x.dtype)  # (N, 2C, h, w); (N, C, h, w) of other networks
        out, second = found[:, : x.shape[1]], found[:, x.shape[1] :]
        clean = schedule.clean(x, out, step.alpha, step.sigma)
        if step.correct:
            x = _weighted(step.correct, [before, clean, *earlier])
        others = earlier
        if solver == POLICY:  # its prediction at the end of the step
            others = [schedule.clean(x, second, step.alpha, step.sigma)]
        before, x = x, _weighted(step.predict, [x, clean, *others])
        earlier = [clean, *earlier][:2]
        if callback is not None:
            callback(StepResult(i + 1, steps, clean))
    return x


def _weighted(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=False):
        total = torch.add(total, term, alpha=weight)
    return total


def start_noise(shape: tuple[int, ...], seed: int, positions: list[int]) -> Tensor:
    """Start noise (len(positions), *shape), each row from (seed, position) alone.

    So an image does not depend on its batch, its order or the other images.
    """
    rows = []
    for position in positions:
        rng = torch.Generator().manual_seed((seed * 1_000_003 + position) % 2**63)
        rows.append(torch.randn(shape, generator=rng))
    return torch.stack(rows)
