"""The three networks of X-MDPT in the paper's words (sec. 3): CANet, TDNet, MIPNet.

Legend: N batch, T = (h/p)(w/p) latent tokens, L DINOv2 tokens (CLS and patches), K kept tokens,
D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.model.layers import (
    Block,
    CrossAttention,
    FinalLayer,
    PatchEmbed,
    PoseEmbed,
    SelfAttention,
    TimestepEmbedder,
    sincos_position_embedding,
)


class Context(NamedTuple):
    """What ``conditioning="tokens"`` adds to the vector (our extension, not the paper's).

    The source tokens join the sequence that every block attends to. They stay as they are from
    block to block and from step to step, so their keys and values are made once a picture.
    """

    source: Tensor  # (N, T, depth * 2D) keys and values of the source tokens, block by block
    pose: Tensor  # (N, T, D) the pose map on the latent grid, added to the noisy tokens


class CANet(nn.Module):
    """Condition aggregation: pose, source and source latents folded into one vector (N, D).

    LayerNorm's eps is 1e-12 in the published code; GELU is the exact one here.
    """

    def __init__(
        self, width: int, tokens: int, pose: tuple[int, int], source: tuple[int, int]
    ) -> None:
        """``pose`` and ``source`` are (length L, feature width) of the DINOv2 tokens."""
        super().__init__()

        def project(features: int) -> nn.Sequential:
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Linear(features, width), nn.GELU(), norm)

        def aggregate(length: int) -> nn.Sequential:
            # a convolution with kernel 1 over the *token* axis: L tokens -> 1
            norm = nn.LayerNorm(width, eps=1e-12)
            return nn.Sequential(nn.Conv1d(length, 1, kernel_size=1), nn.GELU(), norm)

        self.pose_mlp = project(pose[1])
        self.source_mlp = project(source[1])
        self.pose_conv = aggregate(pose[0])
        self.global_conv = aggregate(source[0])
        self.local_conv = aggregate(tokens)
        self.final = project(width)

    def forward(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_embedding: Tensor
    ) -> Tensor:
        dtype = source_embedding.dtype
        v_pose = self.pose_conv(self.pose_mlp(pose_tokens.to(dtype)))  # (N, 1, D)
        v_global = self.global_conv(self.source_mlp(source_tokens.to(dtype)))  # (N, 1, D)
        v_local = self.local_conv(source_embedding)  # (N, 1, D)
        return self.final((v_local + v_global + v_pose).squeeze(1))


class TDNet(nn.Module):
    """The diffusion transformer: all inference needs besides the condition vector."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        patch: int,
        channels: int,
        decode_layers: int,
        joined: bool,
        pose_patch: int,
    ) -> None:
        super().__init__()
        tokens = grid * grid
        self.patch, self.grid, self.channels, self.pose_patch = patch, grid, channels, pose_patch
        self.encoder_depth = depth - decode_layers
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        self.timestep = TimestepEmbedder(width)
        self.blocks = nn.ModuleList(
            Block(width, SelfAttention(width, heads, grid, joined)) for _ in range(depth)
        )
        self.decoder_position = nn.Parameter(torch.zeros(1, tokens, width))
        self.final = FinalLayer(width, patch * patch * channels * 2)
        if joined:
            self.source_embed = PatchEmbed(channels, width, patch)
            self.pose_embed = PoseEmbed(width, pose_patch)
            self.source_norm = nn.LayerNorm(width, eps=1e-6)
            self.source_kv = nn.Linear(width, depth * 2 * width)

    def embed(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, T, D), position included."""
        return self.patch_embed(latents) + self.position

    def context(self, source_latents: Tensor, pose_map: Tensor, source_pose_map: Tensor) -> Context:
        """Shapes as in ``XMDPT.context``. One embedding for both poses: like finds like."""
        pose, source_pose = self.pose_embed(torch.cat([pose_map, source_pose_map])).chunk(2)
        source = self.source_embed(source_latents) + self.position + source_pose  # (N, T, D)
        return Context(self.source_kv(self.source_norm(source)), pose)

    def encode(
        self,
        x: Tensor,
        c: Tensor,
        source: Sequence[Tensor] | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """The first depth-2 blocks; kept (N, K) says which tokens x holds, None: all.

        source: ``Context.source`` cut into its blocks, (N, T, 2D) each; None for the paper's
        conditioning.
        """
        for i in range(self.encoder_depth):
            x = self.blocks[i](x, c, source and source[i], kept)
        return x

    def decode(self, x: Tensor, c: Tensor, source: Sequence[Tensor] | None = None) -> Tensor:
        """The last blocks and the output layer; x already holds the decoder position embedding."""
        for i in range(self.encoder_depth, len(self.blocks)):
            x = self.blocks[i](x, c, source and source[i])
        return self.unpatchify(self.final(x, c))

    def unpatchify(self, x: Tensor) -> Tensor:
        """(N, T, p*p*2C) -> (N, 2C, h, w); a token's values run row, column, channel."""
        n, p, g = x.shape[0], self.patch, self.grid
        x = x.reshape(n, g, g, p, p, 2 * self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, 2 * self.channels, g * p, g * p)


class MIPNet(nn.Module):
    """Mask-based inter-prediction: masked tokens are predicted from kept ones and the source view.

    Training only; half of what it learns is thrown away with it, the rest stays in TDNet.
    """

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.self_block = Block(width, SelfAttention(width, heads, grid))
        self.cross_block = Block(width, CrossAttention(width, heads, grid))

    def forward(
        self, kept_tokens: Tensor, kept: Tensor, position: Tensor, source: Tensor, c: Tensor
    ) -> Tensor:
        """kept_tokens (N, K, D) at positions kept (N, K), position (1, T, D), source (N, T, D).

        Returns (N, T, D): kept positions as they came (with ``position`` added), the others new.
        """
        n, _, width = kept_tokens.shape
        tokens = position.shape[1]
        where = kept.unsqueeze(-1).expand(-1, -1, width)
        x = self.mask_token.to(kept_tokens.dtype).expand(n, tokens, width)
        x = x.scatter(1, where, kept_tokens) + position
        predicted = self.cross_block(self.self_block(x, c), c, source)
        is_kept = torch.zeros(n, tokens, dtype=torch.bool, device=x.device).scatter_(
            1, kept, torch.ones_like(kept, dtype=torch.bool)
        )
        return torch.where(is_kept.unsqueeze(-1), x, predicted)


def initialise(canet: CANet, tdnet: TDNet, mipnet: MIPNet | None) -> None:
    """The published initialisation: Xavier everywhere, then the exceptions."""
    parts: list[nn.Module] = [canet, tdnet, *([mipnet] if mipnet is not None else [])]
    for module in (m for part in parts for m in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, PatchEmbed):  # as if it were a linear
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
            nn.init.zeros_(module.proj.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, (SelfAttention, CrossAttention)):
            nn.init.trunc_normal_(module.bias.table, std=0.02)
    for linear in (
        tdnet.timestep.mlp[0],
        tdnet.timestep.mlp[2],
        canet.pose_mlp[0],
        canet.source_mlp[0],
        canet.final[0],
    ):
        nn.init.normal_(linear.weight, std=0.02)  # type: ignore[arg-type]
    for module in (m for part in parts for m in part.modules()):
        if isinstance(module, (Block, FinalLayer)):  # adaLN-Zero
            nn.init.zeros_(module.modulation[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(tdnet.final.linear.weight)
    if mipnet is not None:
        nn.init.normal_(mipnet.mask_token, std=0.02)
    table = sincos_position_embedding(tdnet.position.shape[2], tdnet.grid)
    with torch.no_grad():
        tdnet.position.copy_(table)
        tdnet.decoder_position.copy_(table)
        if hasattr(tdnet, "source_kv"):
            for part in tdnet.source_kv.weight.split(tdnet.position.shape[2]):  # D x D each
                nn.init.xavier_uniform_(part)
