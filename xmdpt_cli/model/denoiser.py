"""Guided predictions, step after step, for the same pictures.

The published sampler runs the source view through every block for nothing, CANet in every call,
and the two guidance branches one after the other. Here all that does not depend on the noisy
latents is made before the first step, and both branches go through the blocks in one batch; the
result is the same up to rounding (FACTS section 7).

Legend: N pictures, R rows of a batch (2N where guided, else N), D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmdpt_cli.model.conditioning import Context
from xmdpt_cli.model.tdnet import Ready, TDNet

#: Modulations of as many steps are made at once as fit into this: a matrix product of many rows
#: is worth it on a GPU, 50 steps of L with 512 pictures would be 15 GB.
MODULATION_BYTES = 256 * 2**20


class Denoiser:
    """``denoiser(x, i)``: the guided prediction at step i, (N, C, h, w) -> (N, 2C, h, w)."""

    def __init__(
        self,
        net: TDNet,
        condition: Tensor,
        timesteps: Sequence[int],
        scales: Sequence[float],
        context: Context | None = None,
    ) -> None:
        """condition (N, D); ``timesteps`` and guidance ``scales`` of the steps to come. Where the
        scale is exactly 1 the unconditional branch is not run."""
        self.net, self.scales, self.context = net, scales, context
        times = torch.tensor(timesteps, device=condition.device)
        # c of the conditional rows and, last, of the unconditional branch, which all share
        rows = torch.cat([condition, torch.zeros_like(condition[:1])])  # (N + 1, D)
        self._c = net.timestep(times)[:, None] + rows  # (steps, N + 1, D)
        self._made = self._c[:0]  # (steps made, N + 1, (6 blocks + 2) D)
        self._range = range(0)
        self._bias = net.bias.joined(1 if context is None else context.views(net.bias.others))
        self._both: Context | None = None
        if context is not None and any(scale != 1.0 for scale in scales):
            self._both = Context(
                *(None if part is None else torch.cat([part, torch.zeros_like(part)])
                  for part in context)
            )  # fmt: skip

    def __call__(self, x: Tensor, i: int) -> Tensor:
        """In x's type, whatever the network computes in: guidance doubles what is rounded."""
        scale, seen = self.scales[i], x.to(self._c.dtype)
        if scale == 1.0:
            return self.net(seen, self._ready(i, False), self.context).to(x.dtype)
        out = self.net(torch.cat([seen, seen]), self._ready(i, True), self._both).to(x.dtype)
        with_condition, without = out.chunk(2)
        return torch.lerp(without, with_condition, scale)

    def _ready(self, i: int, guided: bool) -> Ready:
        if i not in self._range:
            self._make(i)
        rows = self._made[i - self._range.start]
        n = len(rows) - 1
        if guided:
            return Ready(torch.cat([rows[:n], rows[n:].expand(n, -1)]), self._bias)
        return Ready(rows[:n], self._bias)

    def _make(self, first: int) -> None:
        """The modulations of as many steps from ``first`` on as fit."""
        blocks = len(self.net.blocks)
        _, rows, width = self._c.shape
        step_bytes = rows * (6 * blocks + 2) * width * self._c.element_size()
        count = max(1, MODULATION_BYTES // step_bytes)
        self._range = range(first, min(first + count, len(self.scales)))
        self._made = self._c[:0]  # the old ones go before the new ones come
        c = self._c[first : self._range.stop]
        layers = (*self.net.blocks, self.net.final)
        self._made = torch.cat([layer.modulation(c) for layer in layers], dim=-1)
