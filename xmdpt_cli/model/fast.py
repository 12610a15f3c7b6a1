"""The computation of ``xmdpt.py`` as training and sampling run it: same weights, same numbers up to
rounding (``tests/model/test_fast.py``), less work.

- Training (``training_passes``): the unmasked pass, the masked pass and the source view go through
  each block in one call. They share its modulations and its bias, and FSDP2 gathers it once.
- Sampling (``Denoiser``): biases, and the modulations of many steps, are computed before the first
  step; both branches of guidance are one batch; no source view, since only training reads it.

Legend as in ``xmdpt.py``; B rows of a batch of both passes or both guidance branches, M = T - K
masked tokens, P passes of a training step (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.diffusion.guidance import Guidance
from xmdpt_cli.model.attention_flow import attention_flow
from xmdpt_cli.model.config import check_inputs, check_mipnet
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.layers import (
    Attention,
    Block,
    FinalLayer,
    gather_tokens,
    merge_heads,
    split_heads,
)
from xmdpt_cli.model.positions import (
    BothPositions,
    block_positions,
    shared_positions,
    stacked_positions,
)
from xmdpt_cli.model.relative_bias import bias_of_queries, dense_bias
from xmdpt_cli.model.rotary import Positions

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import XMDPT, Mask, MIPNet, TDNet

#: Limit of the modulations that are computed at once, for as many steps as fit: one large matrix
#: product is faster than many small ones, but all 50 steps of L with 512 images would take 15 GB.
MODULATION_BYTES = 256 * 2**20


# training


class Passes(NamedTuple):
    """The outputs of a training step."""

    out: Tensor  # (N, 2C, h, w) of the unmasked pass
    masked_out: Tensor | None  # (N, 2C, h, w) of the masked pass
    repa: Tensor | None  # (N, T, repa_width) projected hidden tokens of the unmasked pass
    flows: Tensor | None  # (blocks, N, T, 2) of the unmasked pass; see ``attention_flow``


def training_passes(
    model: XMDPT,
    latents: Tensor,  # (N, C, h, w) noisy
    timesteps: Tensor,  # (N,)
    condition: Tensor,  # (N, D)
    *,
    tokens: TokenConditions | None = None,
    keep: Tensor | None = None,  # (N,) bool: rows that keep their conditions
    mask: Mask | None = None,  # None: no masked pass
    masked_latents: Tensor | None = None,  # (N, C, h, w) noisy, of the masked pass
    keep_masked: Tensor | None = None,  # (N,) bool, in the masked pass
    source_latents: Tensor | None = None,  # (N, C, h, w), for the masked pass
    cfg_scales: Tensor | None = None,  # (N,), of a model with ``guidance_embed``
    repa: bool = True,  # False: no projection of the hidden tokens
    flow_blocks: Sequence[int] = (),  # numbers of the encoder blocks, from 0, whose flow is wanted
) -> Passes:
    """``model(...)`` and ``model.forward_masked(...)`` in one walk through the blocks."""
    net = model.tdnet
    x_embedded, kv, c = model.embed(latents, timesteps, condition, tokens, keep, cfg_scales)
    if mask is None:
        x, _, _, projected, flows = _encode(
            model, c[None], None, x_embedded, None, None, kv, None, repa, flow_blocks
        )
        out = _decode(net, c, x + net.decoder_pos_embed, x_embedded, kv)
        return Passes(out, None, projected, flows)

    assert masked_latents is not None
    assert source_latents is not None
    mipnet = check_mipnet(model, source_latents)
    masked_embedded, kv_masked, c_masked = model.embed(
        masked_latents, timesteps, condition, tokens, keep_masked, cfg_scales
    )
    masked = gather_tokens(masked_embedded, mask.ids_keep)  # (N, K, D)
    source = None
    if "cross" in mipnet.order:
        with torch.no_grad():
            source = net.embed(source_latents)  # (N, T, D)
    both = torch.stack([c, c_masked])  # (2, N, D)
    x, masked_x, source, projected, flows = _encode(
        model, both, mask, x_embedded, masked, source, kv, kv_masked, repa, flow_blocks
    )
    assert masked_x is not None
    masked = _predict_masked(mipnet, masked_x, mask, net.decoder_pos_embed, c_masked, source)
    # nothing is masked any more: from here on both passes are one batch
    out = _decode(
        net,
        both.flatten(0, 1),
        torch.cat([x + net.decoder_pos_embed, masked]),
        torch.cat([x_embedded, masked_embedded]),
        None if kv is None or kv_masked is None else torch.cat([kv, kv_masked]),
    )
    unmasked_out, masked_out = out.chunk(2)
    return Passes(unmasked_out, masked_out, projected, flows)


def _encode(
    model: XMDPT,
    c: Tensor,  # (P, N, D)
    mask: Mask | None,
    x: Tensor,  # (N, T, D)
    masked: Tensor | None,  # (N, K, D)
    source: Tensor | None,  # (N, T, D)
    kv: Tensor | None,
    kv_masked: Tensor | None,
    repa: bool,
    flow_blocks: Sequence[int],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """x, masked and source after the encoder blocks, REPA's projection, and the flows."""
    net, projected = model.tdnet, None
    flows: list[Tensor] = []
    shared = shared_positions(net, kv, None if mask is None else mask.ids_keep)
    skips: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    for i, block in enumerate(net.blocks[: net.encoder_depth]):
        skip = (None, None, None) if block.skip_linear is None else skips.pop()
        x, masked, source, flow = block.call(
            _encoder_block, c, x, masked, source, mask, net.block_kv(kv, i),
            net.block_kv(kv_masked, i), skip, shared, i in flow_blocks,
        )  # fmt: skip
        if flow is not None:
            flows.append(flow)
        if net.backbone == "mdtv2" and block.skip_linear is None:
            skips.append((x, masked, source))
        if repa and model.repa_projector is not None and i + 1 == model.repa_layer:
            projected = model.repa_projector(x)
    return x, masked, source, projected, torch.stack(flows) if flows else None


def _encoder_block(
    block: Block,
    c: Tensor,
    x: Tensor,
    masked: Tensor | None,
    source: Tensor | None,
    mask: Mask | None,
    kv: Tensor | None,
    kv_masked: Tensor | None,
    skip: tuple[Tensor | None, ...],
    shared: BothPositions | None,
    with_flow: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    modulation = block.adaLN_modulation(c)  # (P, N, 6D)
    positions, kept_positions = shared or block_positions(
        block, kv, None if mask is None else mask.ids_keep
    )
    products: list[Tensor] | None = [] if with_flow else None
    x = block.modulated(x, modulation[0], positions, kv, skip[0], products)
    flow = None
    if products is not None:
        q, k = products
        flow = attention_flow(q, k[:, :, q.shape[2] :])  # (N, T, 2), of the source's keys
    if masked is not None and kept_positions is not None:
        masked = block.modulated(masked, modulation[1], kept_positions, kv_masked, skip[1])
    if source is not None:
        with torch.no_grad():  # for the masked pass, with its c
            source = block.modulated(source, modulation[1], positions, kv_masked, skip[2])
    return x, masked, source, flow


def _decode(net: TDNet, c: Tensor, x: Tensor, x_embedded: Tensor, kv: Tensor | None) -> Tensor:
    """The last blocks and the output layer: x (B, T, D), c (B, D) -> (B, 2C, h, w)."""
    shared = shared_positions(net, kv)
    for i, block in enumerate(net.blocks[net.encoder_depth :], start=net.encoder_depth):
        x = block.call(_decoder_block, c, x, x_embedded, net.block_kv(kv, i), shared)
    return net.unpatchify(net.final_layer(x, c))


def _decoder_block(
    block: Block,
    c: Tensor,
    x: Tensor,
    x_embedded: Tensor,
    kv: Tensor | None,
    shared: BothPositions | None,
) -> Tensor:
    positions, _ = shared or block_positions(block, kv)
    return block.modulated(x, block.adaLN_modulation(c), positions, kv, x_embedded)


def _predict_masked(
    mipnet: MIPNet,
    x: Tensor,  # (N, K, D)
    mask: Mask,
    decoder_pos_embed: Tensor,
    c: Tensor,
    source: Tensor | None,
) -> Tensor:
    """``MIPNet.forward``, where no block computes tokens that nothing reads: (N, T, D)."""
    filled = mipnet.fill(x, mask, decoder_pos_embed)  # (N, T, D)
    if not mask.ids_mask.shape[1]:
        return filled
    x = filled
    for number, kind in enumerate(mipnet.order):
        # a later self-attention block reads all tokens, otherwise the masked ones are enough
        ids = None if "self" in mipnet.order[number + 1 :] else mask.ids_mask
        if kind == "self":
            x = mipnet.sideblocks[0].call(_self_block, c, x, ids)
        else:
            if ids is not None and x.shape[1] == filled.shape[1]:
                x = gather_tokens(x, ids)
            x = mipnet.sideblocks_cross[0].call(_cross_block, c, x, ids, source)
    ids = mask.ids_mask.unsqueeze(2).expand_as(x)
    return filled.scatter(1, ids, x.to(filled.dtype))


def _cross_block(
    block: Block, c: Tensor, x: Tensor, ids: Tensor | None, source: Tensor | None
) -> Tensor:
    """x (N, M, D), the tokens at ``ids``, or all."""
    assert block.attn.rel_pos_bias is not None
    bias = dense_bias(block.attn.rel_pos_bias)  # (H, T, T)
    if ids is not None:
        bias = bias_of_queries(bias, ids)  # (N, H, M, T)
    return block.modulated(x, block.adaLN_modulation(c), Positions(bias), source)


def _self_block(block: Block, c: Tensor, x: Tensor, ids: Tensor | None) -> Tensor:
    """All tokens x (N, T, D) in, those at ``ids`` (N, M) out: (N, M, D)."""
    if ids is None:
        return _decoder_block(block, c, x, x, None, None)
    attn, width = block.attn, x.shape[2]
    assert isinstance(attn, Attention)
    assert attn.rel_pos_bias is not None
    bias = bias_of_queries(dense_bias(attn.rel_pos_bias), ids)  # (N, H, M, T)
    modulation = block.adaLN_modulation(c)
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.unsqueeze(1).chunk(
        6, dim=2
    )  # (N, 1, D) each
    h = block.norm1(x) * (1 + scale_msa) + shift_msa
    weight, b = attn.qkv.weight, attn.qkv.bias
    (q,) = split_heads(F.linear(gather_tokens(h, ids), weight[:width], b[:width]), attn.heads, 1)
    k, v = split_heads(F.linear(h, weight[width:], b[width:]), attn.heads, 2)
    if attn.qk_norm is not None:
        q, k = attn.qk_norm(q, k)
    x = gather_tokens(x, ids) + gate_msa * attn.proj(merge_heads(attn.sdpa(q, k, v, bias)))
    h = block.mlp(block.norm2(x) * (1 + scale_mlp) + shift_mlp)
    return x + gate_mlp * h


# sampling


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
