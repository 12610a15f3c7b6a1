"""The computation of ``xmdpt.py`` as training runs it: same weights, same numbers up to rounding
(``tests/model/test_fast.py``), less work. Sampling: ``denoiser.py``.

The unmasked pass, the masked pass and the source view go through each block in one call. They share
its modulations and its bias, and FSDP2 gathers it once.

Legend as in ``xmdpt.py``; B rows of a batch of both passes, M = T - K masked tokens, P passes of a
training step (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xmdpt_cli.model.attention_flow import attention_flow
from xmdpt_cli.model.config import check_mipnet
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.layers import Attention, Block, gather_tokens, merge_heads, split_heads
from xmdpt_cli.model.positions import BothPositions, block_positions, shared_positions
from xmdpt_cli.model.relative_bias import bias_of_queries, dense_bias
from xmdpt_cli.model.rotary import Positions

if TYPE_CHECKING:
    from xmdpt_cli.model.xmdpt import XMDPT, Mask, MIPNet, TDNet


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
