"""Caching across sampling steps: what the blocks compute changes smoothly with the noise level.

In some steps no block is computed. What the blocks add to the embedded latents, the residual, is
then extrapolated linearly from the last two computed steps; the embedding of the current latents
and the output layer are computed in every step. The variable is the noise angle arctan(sigma /
alpha): 90 degrees for noise, 0 for a clean image. The blocks are computed again where it has
changed by ``cache`` degrees since they were computed last. (v is the derivative of the latents by
this angle, so it is the variable in which steps of a model that predicts v are even.)

So the steps are known before the first one and do not depend on the images: an image does not
depend on the others of its batch, and compiled steps stay CUDA graphs. docs/experiments.md compares
this with the ideas it is made of and with alternatives: FORA (arXiv 2407.01425) and Learning-to-
Cache (arXiv 2406.01733), which reuse layers in fixed steps; DeepCache (arXiv 2312.00858), which
computes the outer layers only; TaylorSeer (arXiv 2503.06923), which extrapolates; TeaCache (arXiv
2411.19108) and first-block caches, which measure the change of each image's features.

Legend as in ``fast.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xmdpt_cli.diffusion.policy import angles_of
from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.fast import Denoiser, embed, output
from xmdpt_cli.model.xmdpt import XMDPT

MOST = 15.0  # degrees; larger values were not measured


def check_cache(model: XMDPT, schedule: Schedule, degrees: float) -> None:
    """ConfigError for an angle out of range, and for a model that was distilled or predicts noise.

    Near 90 degrees a small error of predicted noise is a large one of the clean image: there, fewer
    steps are better at the same speed.
    """
    if not 0 <= degrees <= MOST:
        raise ConfigError(
            f"cache lies between 0 (off) and {MOST:g} degrees, not {degrees:g}", "for example 4"
        )
    if degrees and model.guidance_embed is not None:
        raise ConfigError(
            "a distilled model cannot be sampled with a cache across steps",
            "leave the cache out, or use the model that this one was distilled from",
        )
    if degrees and schedule.prediction != "v":
        raise ConfigError(
            "a cache across steps needs a model that predicts v, and this one predicts noise",
            "take fewer steps instead: --steps 12",
        )


class Cached:
    """A model with a cache across steps: a ``GuidedModel`` for ``sample``.

    Args:
        model: A model that is not distilled.
        schedule: Its noise schedule; it predicts v.
        degrees: Least change of the noise angle between computed steps, 0 to ``MOST``.
    """

    def __init__(self, model: XMDPT, schedule: Schedule, degrees: float) -> None:
        check_cache(model, schedule, degrees)
        self.model, self.schedule, self.degrees = model, schedule, degrees

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: TokenConditions | None = None,
    ) -> Denoiser:
        """As ``XMDPT.denoiser``; its steps must be called in order."""
        angles = torch.rad2deg(angles_of(self.schedule))[list(timesteps)].tolist()
        return CachedDenoiser(self.model, condition, timesteps, cfg_scales, tokens, angles,
                              self.degrees)  # fmt: skip


class CachedDenoiser(Denoiser):
    """``Denoiser`` with a cache; its steps must be called in order."""

    def __init__(
        self,
        model: XMDPT,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: TokenConditions | None,
        angles: Sequence[float],  # of the steps, in degrees
        degrees: float,
    ) -> None:
        super().__init__(model, condition, timesteps, cfg_scales, tokens)
        self.predict_residual, self.angles = model.predict_residual, angles
        branches = [1 if scale == 1.0 else 2 for scale in cfg_scales]
        self.computed = computed_steps(angles, branches, degrees)
        self._known: list[tuple[float, Tensor]] = []  # (angle, residual), the newest last

    def _predict(
        self, i: int, latents: Tensor, modulations: Tensor, tokens: TokenConditions | None
    ) -> Tensor:
        pose, kv = tokens or (None, None)
        if self.computed[i]:
            out, residual = self.predict_residual(
                self.net, latents, modulations, self._bias, pose, kv
            )
            # a CUDA graph overwrites its outputs in the next step
            self._known = [*self._known, (self.angles[i], residual.clone())][-2:]
            return out
        residual = self._extrapolated(self.angles[i], len(latents))
        return output(self.net, embed(self.net, latents, pose) + residual, modulations)

    def _extrapolated(self, angle: float, rows: int) -> Tensor:
        """The residual at ``angle``: (rows, T, D)."""
        last_angle, last = self._known[-1]
        first_angle, first = self._known[0]
        if len(self._known) == 1 or len(first) < rows:
            return last[:rows]
        share = (angle - last_angle) / (last_angle - first_angle)
        return torch.lerp(first[:rows], last[:rows], 1 + share)


def computed_steps(angles: Sequence[float], branches: Sequence[int], degrees: float) -> list[bool]:
    """For each step whether its blocks are computed: in the first step, where the angle has fallen
    by ``degrees``, and where guidance has more ``branches`` than were computed last."""
    computed, last, known = [], math.inf, 0
    for angle, count in zip(angles, branches, strict=True):
        due = last - angle >= degrees or count > known
        if due:
            last, known = angle, count
        computed.append(due)
    return computed
