"""X-MDPT computed the published way, as a measure: same weights, same results, more work.

What the published implementation spends (FACTS sections 1, 7): the source view runs through every
block of every pass although only the masked pass reads it, and only after block depth - 2; CANet is
computed in every call; every attention gathers its bias table anew and is written out naively.
Parameters bear the published names, so a published checkpoint loads as it is.

Legend: N batch, T tokens, K kept tokens, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmdpt_cli.model.convert import published_tensors
from xmdpt_cli.model.layers import modulate, sincos_position_embedding, timestep_features
from xmdpt_cli.model.relative_bias import relative_index
from xmdpt_cli.model.xmdpt import XMDPT


class _Bias(nn.Module):
    index: Tensor

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * side - 1) ** 2 + 3, heads)
        )
        self.register_buffer("index", relative_index(side), persistent=False)

    def forward(self) -> Tensor:
        return self.relative_position_bias_table[self.index].permute(2, 0, 1).contiguous()


class _Attention(nn.Module):
    """Self-attention, or with a context cross-attention; softmax(q k^T + bias) v step by step."""

    def __init__(self, width: int, heads: int, side: int, cross: bool) -> None:
        super().__init__()
        self.heads, self.cross = heads, cross
        if cross:
            self.to_q, self.to_kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_bias = _Bias(side, heads)

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        n, t, _ = x.shape
        return x.reshape(n, t, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, context: Tensor | None, kept: Tensor | None) -> Tensor:
        if self.cross:
            assert context is not None
            (q,), (k, v) = self._split(self.to_q(x), 1), self._split(self.to_kv(context), 2)
        else:
            q, k, v = self._split(self.qkv(x), 3)
        attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.rel_pos_bias()
        if kept is not None:  # each kept token keeps its row and column
            n, count = kept.shape
            bias = bias.unsqueeze(0).expand(n, -1, -1, -1)
            rows = kept[:, None, :, None].expand(-1, self.heads, -1, bias.shape[-1])
            columns = kept[:, None, None, :].expand(-1, self.heads, count, -1)
            bias = bias.gather(2, rows).gather(3, columns)
        attention = (attention + bias).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, side: int, cross: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = _Attention(width, heads, side, cross)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = _Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, c: Tensor, context: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        parts = self.adaLN_modulation(c).chunk(6, dim=1)
        h = self.attn(modulate(self.norm1(x), parts[0], parts[1]), context, kept)
        x = x + parts[2].unsqueeze(1) * h
        h = self.mlp(modulate(self.norm2(x), parts[3], parts[4]))
        return x + parts[5].unsqueeze(1) * h


class _Embed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class _Timestep(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.mlp(timestep_features(t).to(first.weight.dtype))


class _Final(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PublishedXMDPT(nn.Module):
    """The published model with its published amount of work; weights as in ``model``.

    ``share``: the same memory too, so that ``model`` must not be trained; bias tables are copied,
    for they lie otherwise in both.
    """

    def __init__(self, model: XMDPT, *, share: bool = False) -> None:
        super().__init__()
        net, canet = model.tdnet, model.canet
        assert canet is not None
        assert model.conditioning == "vector"
        width, grid, heads = model.width, net.grid, net.bias.heads
        channels, patch = net.channels, net.patch
        self.patch, self.grid, self.out = patch, grid, 2 * channels
        self.encoder_depth, self.mask_ratio = net.encoder_depth, model.mask_ratio
        tokens = grid * grid
        position = sincos_position_embedding(width, grid)
        self.pos_embed, self.decoder_pos_embed = nn.Parameter(position), nn.Parameter(position + 0)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.x_embedder = _Embed(channels, width, patch)
        self.t_embedder = _Timestep(width)
        self.blocks = nn.ModuleList(_Block(width, heads, grid) for _ in net.blocks)
        self.sideblocks = nn.ModuleList([_Block(width, heads, grid)])
        self.sideblocks_cross = nn.ModuleList([_Block(width, heads, grid, cross=True)])
        self.final_layer = _Final(width, patch * patch * self.out)

        def mlp(features: int) -> nn.Sequential:
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Linear(features, width), nn.GELU(), norm)

        def conv(length: int) -> nn.Sequential:
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Conv1d(length, 1, 1), nn.GELU(), norm)

        self.mlp_dino_pose, self.mlp_dino_img = mlp(canet.pose[1]), mlp(canet.source[1])
        self.conv1d_pose, self.conv1d_global = conv(canet.pose[0]), conv(canet.source[0])
        self.conv1d_local = conv(tokens)
        self.mlp_final = mlp(width)
        weights = published_tensors(dict(model.state_dict()), self.state_dict())
        if share:
            weights = {name: value.contiguous() for name, value in weights.items()}
        self.load_state_dict(weights, assign=share)

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
        x = self.x_embedder(x) + self.pos_embed
        source = self.x_embedder(source_latents) + self.pos_embed
        condition = self._canet(pose_tokens, source_tokens, source)
        c = self.t_embedder(t) + condition * keep.to(x.dtype).unsqueeze(1)
        kept = None
        if token_noise is not None:
            count = int(x.shape[1] * (1 - self.mask_ratio))
            kept = token_noise.argsort(dim=1, stable=True)[:, :count]
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        view = source.detach()
        for block in self.blocks[: self.encoder_depth]:
            x = block(x, c, None, kept)
            with torch.no_grad():
                view = block(view, c)
        if kept is None:
            x = x + self.decoder_pos_embed
        else:
            x = self._predict(x, kept, view, c)
        for block in self.blocks[self.encoder_depth :]:
            x = block(x, c)
            with torch.no_grad():
                view = block(view, c)
        return self._unpatchify(self.final_layer(x, c))

    def condition(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_latents: Tensor
    ) -> Tensor:
        """CANet's vector (N, D), for ``pruned``."""
        return self._canet(
            pose_tokens, source_tokens, self.x_embedder(source_latents) + self.pos_embed
        )

    def pruned(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The unmasked pass as published, but for what sampling does not read: no source stream,
        and CANet before the loop. Attention is still written out, with its table gathered anew."""
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + condition
        for block in self.blocks[: self.encoder_depth]:
            x = block(x, c)
        x = x + self.decoder_pos_embed
        for block in self.blocks[self.encoder_depth :]:
            x = block(x, c)
        return self._unpatchify(self.final_layer(x, c))

    def _canet(self, pose_tokens: Tensor, source_tokens: Tensor, source: Tensor) -> Tensor:
        """(N, D) from both pictures' tokens and the embedded source latents (N, T, D)."""
        pose = self.conv1d_pose(self.mlp_dino_pose(pose_tokens.to(source.dtype)))
        image = self.conv1d_global(self.mlp_dino_img(source_tokens.to(source.dtype)))
        return self.mlp_final((self.conv1d_local(source) + image + pose).squeeze(1))

    def _unpatchify(self, x: Tensor) -> Tensor:
        n, p, g = x.shape[0], self.patch, self.grid
        x = x.reshape(n, g, g, p, p, self.out).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(n, self.out, g * p, g * p)

    def _predict(self, x: Tensor, kept: Tensor, view: Tensor, c: Tensor) -> Tensor:
        n, _, width = x.shape
        where = kept.unsqueeze(-1).expand(-1, -1, width)
        whole = self.mask_token.expand(n, self.grid**2, width).scatter(1, where, x)
        whole = whole + self.decoder_pos_embed
        new = self.sideblocks_cross[0](self.sideblocks[0](whole, c), c, view)
        there = torch.zeros(whole.shape[:2], dtype=torch.bool, device=x.device)
        there = there.scatter(1, kept, torch.ones_like(kept, dtype=torch.bool)).unsqueeze(-1)
        return torch.where(there, whole, new)
