"""Caching across sampling steps: what the blocks compute changes smoothly from step to step.

In the steps of a fixed schedule no block is computed. What the blocks add to the embedded latents
(the residual) is extrapolated linearly from the last two computed steps; the embedding of the
current latents and the output layer are computed as always.

Of the family of FORA (arXiv 2407.01425), DeepCache (arXiv 2312.00858), Learning-to-Cache (arXiv
2406.01733) and TaylorSeer (arXiv 2503.06923, which extrapolates). Compared with others in
docs/experiments.md. The schedule depends on the number of the step alone, not on the images, so an
image does not depend on its batch, and compiled steps stay CUDA graphs.

Legend as in ``fast.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.fast import Denoiser, embed, output

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import XMDPT

WARM_UP = 2  # steps that are always computed: a line needs two points
MOST = 5  # a larger distance of computed steps was not measured


def check_cache(model: XMDPT, every: int) -> None:
    """ConfigError unless the blocks of ``model`` can be computed in every ``every``-th step."""
    if not 1 <= every <= MOST:
        raise ConfigError(f"cache lies between 1 (off) and {MOST}, not {every}")


class Cached:
    """A model whose blocks are computed in every ``every``-th step: a ``GuidedModel`` for
    ``sample``. ``every`` 1 computes all steps."""

    def __init__(self, model: XMDPT, every: int) -> None:
        check_cache(model, every)
        self.model, self.every = model, every

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: TokenConditions | None = None,
    ) -> Denoiser:
        """As ``XMDPT.denoiser``; its steps must be called in order."""
        return CachedDenoiser(self.model, condition, timesteps, cfg_scales, tokens, self.every)


class CachedDenoiser(Denoiser):
    """``Denoiser`` with a cache, whose steps are called in order."""

    def __init__(
        self,
        model: XMDPT,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: TokenConditions | None,
        every: int,
    ) -> None:
        super().__init__(model, condition, timesteps, cfg_scales, tokens)
        self.predict_residual = model.predict_residual
        self.computed = computed_steps([2 - (scale == 1.0) for scale in self.cfg_scales], every)
        self._last: list[tuple[int, Tensor]] = []  # (step, residual), the newest last

    def _predict(
        self, i: int, latents: Tensor, modulations: Tensor, tokens: TokenConditions | None
    ) -> Tensor:
        pose, kv = tokens or (None, None)
        if self.computed[i]:
            out, residual = self.predict_residual(
                self.net, latents, modulations, self._bias, pose, kv
            )
            # a CUDA graph overwrites its outputs in the next step
            self._last = [*self._last, (i, residual.clone())][-WARM_UP:]
            return out
        (first, before), (second, last) = ((j, r[: len(latents)]) for j, r in self._last)
        residual = last + (i - second) / (second - first) * (last - before)
        return output(self.net, embed(self.net, latents, pose) + residual, modulations)


def computed_steps(branches: Sequence[int], every: int) -> list[bool]:
    """For each step whether its blocks are computed. ``branches``: 1 or 2, of guidance.

    The first ``WARM_UP`` steps, every ``every``-th of the others, and a step with more branches
    than the last ``WARM_UP`` computed ones had.
    """
    computed: list[bool] = []
    for i, count in enumerate(branches):
        known = [branches[j] for j in range(i) if computed[j]][-WARM_UP:]
        due = (i - WARM_UP + 1) % every == 0
        computed.append(due or len(known) < WARM_UP or min(known) < count)
    return computed
