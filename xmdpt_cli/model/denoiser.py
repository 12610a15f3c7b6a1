"""The computation of ``xmdpt.py`` as sampling runs it: same weights, same numbers up to rounding
(``tests/model/test_fast.py``), less work. Training: ``fast.py``.

Biases, and the modulations of many steps, are computed before the first step; both branches of
guidance are one batch; no source view, since only training reads it.

Legend as in ``xmdpt.py``; B rows of a batch of both guidance branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xmdpt_cli.diffusion.guidance import Guidance
from xmdpt_cli.model.config import check_inputs
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.layers import Block, FinalLayer
from xmdpt_cli.model.positions import stacked_positions
from xmdpt_cli.model.rotary import Positions

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import XMDPT, TDNet

#: Limit of the modulations that are computed at once, for as many steps as fit: one large matrix
#: product is faster than many small ones, but all 50 steps of L with 512 images would take 15 GB.
MODULATION_BYTES = 256 * 2**20


class Denoiser:
    """``denoiser(x, i)``: the guided prediction at step i, (N, C, h, w) -> (N, 2C, h, w). Its steps
    must be called in order.

    A model with ``guidance_embed`` predicts it in one evaluation, any other in two where there is
    guidance; ``cache``: fewer, see ``Guidance``.
    """

    def __init__(
        self,
        model: XMDPT,
        condition: Tensor,  # (N, D)
        timesteps: Sequence[int],  # of the steps to come
        cfg_scales: Sequence[float],  # of the same; 1: the unconditional branch is not computed
        tokens: TokenConditions | None = None,
        cache: int = 1,
    ) -> None:
        latents = condition.new_empty(len(condition), *model.latent_shape)
        distilled = model.guidance_embed is not None
        check_inputs(model, latents, condition, tokens, cfg_scales if distilled else None)
        self.net, self.predict, self.tokens = model.tdnet, model.predict, tokens
        self.guidance = Guidance([1.0] * len(cfg_scales) if distilled else cfg_scales, cache)
        times = torch.tensor(timesteps, device=condition.device)
        # c of each image and, last, of the unconditional branch, which all images share
        rows = torch.cat([condition, torch.zeros_like(condition[:1])])  # (N + 1, D)
        embedded = self.net.t_embedder(times)  # (steps, D)
        if model.guidance_embed is not None:
            embedded = embedded + model.guidance_embed(
                times.new_tensor(cfg_scales, dtype=torch.float)
            )
        self._c = embedded[:, None] + rows  # (steps, N + 1, D)
        self._modulations, self._steps = self._c[:0], range(0)
        self._positions = stacked_positions(self.net, None if tokens is None else tokens.kv)
        self._both: TokenConditions | None = None
        if tokens is not None and 2 in self.guidance.branches:
            with_dropped = (torch.cat([part, torch.zeros_like(part)]) for part in tokens)
            self._both = TokenConditions(*with_dropped)

    def __call__(self, x: Tensor, i: int) -> Tensor:
        """In the dtype of x whatever the network computes in: guidance amplifies rounding."""
        n, latents, tokens = len(x), x.to(self._c.dtype), self.tokens
        shared = self._modulations_of(i)  # (N + 1, (6 depth + 2) D)
        modulations = shared[:n]
        if self.guidance.branches[i] == 2:
            latents, tokens = torch.cat([latents, latents]), self._both
            modulations = torch.cat([modulations, shared[n:].expand(n, -1)])
        out = self.predict(
            self.net, latents, modulations, self._positions, *(tokens or (None, None))
        )
        return self.guidance(out.to(x.dtype), i)

    def _modulations_of(self, i: int) -> Tensor:
        if i not in self._steps:
            layers: list[Block | FinalLayer] = [*self.net.blocks, self.net.final_layer]
            _, rows, width = self._c.shape
            step_bytes = rows * (6 * len(self.net.blocks) + 2) * width * self._c.element_size()
            count = max(1, MODULATION_BYTES // step_bytes)
            self._steps = range(i, min(i + count, len(self._c)))
            self._modulations = self._c[:0]  # frees the old ones before the new ones are computed
            c = self._c[i : self._steps.stop]
            self._modulations = torch.cat([layer.adaLN_modulation(c) for layer in layers], dim=-1)
        return self._modulations[i - self._steps.start]


def predict(
    net: TDNet,
    latents: Tensor,  # (B, C, h, w)
    modulations: Tensor,  # (B, (6 depth + 2) D) of the blocks in order, then of the output layer
    positions: Positions,  # of all blocks
    pose: Tensor | None = None,  # (B, T, D)
    kv: Tensor | None = None,  # (B, S, depth * 2D)
) -> Tensor:
    """The unmasked pass from all that does not depend on the noisy latents: (B, 2C, h, w)."""
    x = net.embed(latents)  # (B, T, D)
    x = x_embedded = x if pose is None else x + pose
    *block_modulations, output_modulation = modulations.split(
        [6 * x.shape[2]] * len(net.blocks) + [2 * x.shape[2]], dim=1
    )
    skips: list[Tensor] = []
    for i, block in enumerate(net.blocks):
        if i == net.encoder_depth:
            x = x + net.decoder_pos_embed
        skip = None
        if block.skip_linear is not None:
            skip = skips.pop() if i < net.encoder_depth else x_embedded
        places = positions.of_block(i)
        x = block.modulated(x, block_modulations[i], places, net.block_kv(kv, i), skip)
        if net.backbone == "mdtv2" and skip is None:
            skips.append(x)
    return net.unpatchify(net.final_layer.modulated(x, output_modulation))


def compile_sampling(model: XMDPT) -> None:
    """``Denoiser`` uses torch.compile from now on, with one compilation per batch size (N for one
    branch, 2N for both); on a GPU its steps become CUDA graphs."""
    mode = "reduce-overhead" if next(model.parameters()).is_cuda else None
    model.predict = torch.compile(predict, dynamic=False, mode=mode)
