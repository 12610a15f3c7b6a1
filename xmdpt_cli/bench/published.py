"""X-MDPT with the work of the published implementation, the base of comparisons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.model.layers import ScaledDotProductAttention, drop


class WrittenOutAttention(ScaledDotProductAttention):
    """softmax(q k^T / sqrt(d) + bias) v, step by step."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is not None  # published: every attention has one
        attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return attention.softmax(dim=-1) @ v


class PublishedXMDPT(nn.Module):
    """The reference model plus what the published code computes beyond it.

    CANet is computed in every pass. The source view runs through all blocks of every pass, although
    only the masked pass reads it, before its last blocks. Attention is not fused: the attention
    modules of ``model`` (``conditioning="vector"``) are replaced in place.
    """

    def __init__(self, model: XMDPT) -> None:
        super().__init__()
        assert model.conditioning == "vector"
        self.model = model
        for module in model.modules():
            if isinstance(module, ScaledDotProductAttention):
                module.__class__ = WrittenOutAttention

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        pose_tokens: Tensor,
        source_tokens: Tensor,
        source_latents: Tensor,
        keep: Tensor,
        mask: Mask | None = None,
    ) -> Tensor:
        """One pass, shapes as in ``XMDPT``; with ``mask`` the masked pass."""
        model, net = self.model, self.model.tdnet
        condition = model.condition(pose_tokens, source_tokens, source_latents)
        unread = net.blocks  # which compute the source view for nothing
        if mask is None:
            out = model(x, t, condition, keep=keep)
        else:
            out = model.forward_masked(x, t, condition, source_latents, mask, keep=keep)
            unread = net.blocks[net.encoder_depth :]
        with torch.no_grad():
            c = net.t_embedder(t) + drop(condition, keep)
            source = net.embed(source_latents)
            for block in unread:
                source = block(source, c)
        return out
