"""X-MDPT computed the published way, as a measure: the reference model with the published work.

What the published implementation spends beyond it: the source view runs through every block of
every pass, although only the masked pass reads it, and only before the last blocks; CANet is
computed in every call; attention is written out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.model.layers import ScaledDotProductAttention, gather_tokens


class WrittenOutAttention(ScaledDotProductAttention):
    """softmax(q k^T / sqrt(d) + bias) v, step by step."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return attention.softmax(dim=-1) @ v


class PublishedXMDPT(nn.Module):
    """A reference model (``conditioning="vector"``), which it changes: it is the wrapper's own."""

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
        token_noise: Tensor | None = None,
    ) -> Tensor:
        """One pass: conditions, both streams through all blocks; masked with ``token_noise``."""
        net, mipnet = self.model.tdnet, self.model.mipnet
        condition = self.model.condition(pose_tokens, source_tokens, source_latents)
        c = net.t_embedder(t) + condition * keep.to(x.dtype).unsqueeze(1)
        x, source = net.embed(x), net.embed(source_latents).detach()
        mask, ids_keep = None, None
        if token_noise is not None:
            mask = Mask.random(token_noise, self.model.mask_ratio)
            ids_keep = mask.ids_keep
            x = gather_tokens(x, ids_keep)
        for i, block in enumerate(net.blocks):
            if i == net.encoder_depth and mask is None:
                x = x + net.decoder_pos_embed
            elif i == net.encoder_depth:
                assert mipnet is not None
                x, ids_keep = mipnet(x, mask, net.decoder_pos_embed, c, source), None
            x = block(x, c, ids_keep)
            with torch.no_grad():
                source = block(source, c)
        return net.unpatchify(net.final_layer(x, c))
