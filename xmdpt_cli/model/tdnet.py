"""TDNet: the diffusion transformer, and the token sequences ("flows") that run through it.

Legend: N batch, T = (h/p)(w/p) latent tokens, K tokens of a flow (T, or the kept ones), S tokens
of the source, D width, H heads, P conditions side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.attention import Block, SelfAttention, Stream
from xmdpt_cli.model.conditioning import Context, TokenConditions
from xmdpt_cli.model.layers import FinalLayer, PatchEmbed, TimestepEmbedder
from xmdpt_cli.model.relative_bias import RelativeBias, bias_among

#: "plain" is the published X-MDPT; "mdtv2" the macro structure of MDTv2 (FACTS: its ancestor)
BACKBONES = ("plain", "mdtv2")


@dataclass
class Flow:
    """A token sequence on its way through the blocks."""

    x: Tensor  # (N, K, D); (N, K + S, D) if the source joins the sequence
    start: Tensor  # (N, T, D) x before anything was masked
    condition: int = 0  # which of the P conditions
    kept: Tensor | None = None  # (N, K) positions on the grid; None: all
    keys: tuple[Tensor, ...] | None = None  # (N, S, 2D) a block
    learning: bool = True
    skips: list[Tensor] = field(default_factory=list)
    hidden: Tensor | None = None  # (N, K, D) after the block that was asked for


class Ready(NamedTuple):
    """What the blocks need besides tokens, made beforehand."""

    # (N, (6 blocks + 2) D): of the blocks in order, then of the output layer; in one tensor, for
    # a CUDA graph copies each input of its own
    modulations: Tensor
    bias: Tensor  # (blocks, H, T, T + others), what ``RelativeBias`` gives

    def of_block(self, block: int, width: int) -> Tensor:
        """(1, N, 6D)"""
        return self.modulations[None, :, 6 * width * block : 6 * width * (block + 1)]


class TDNet(nn.Module):
    """The diffusion transformer: all inference needs besides the conditions."""

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
        backbone: str = "plain",
        conditions: TokenConditions | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ConfigError(f"backbone is one of {', '.join(BACKBONES)}, not {backbone!r}")
        tokens = grid * grid
        self.patch, self.grid, self.channels = patch, grid, channels
        self.encoder_depth = depth - decode_layers
        self.long_skips = backbone == "mdtv2"
        if self.long_skips and self.encoder_depth % 2:
            raise ConfigError(
                f"backbone 'mdtv2' pairs its encoder blocks: depth {depth} less decode_layers "
                f"{decode_layers} must be even"
            )
        forms = None if conditions is None else conditions.forms
        cross = forms is not None and forms.attends and forms.source_by == "cross"
        others = 0 if conditions is None or cross else conditions.others
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        self.timestep = TimestepEmbedder(width)
        self.bias = RelativeBias(grid, heads, depth, others)
        self.blocks = nn.ModuleList(
            Block(width, SelfAttention(width, heads), self._takes_skip(i), cross)
            for i in range(depth)
        )
        self.decoder_position = nn.Parameter(torch.zeros(1, tokens, width))
        self.final = FinalLayer(width, patch * patch * channels * 2)
        self.conditions = conditions

    def _takes_skip(self, block: int) -> bool:
        """MDTv2: the encoder's second half takes the first's outputs, last in first out; every
        decoder block takes the embedded input."""
        return self.long_skips and block >= self.encoder_depth // 2

    def embed(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, T, D), position included."""
        return self.patch_embed(latents) + self.position

    def flow(
        self,
        x: Tensor,
        context: Context | None,
        condition: int = 0,
        kept: Tensor | None = None,
        learning: bool = True,
        posed: bool = True,
    ) -> Flow:
        """A sequence from embedded tokens x (N, T, D), of which ``kept`` stay.

        ``context``: nothing in it where a row has lost its conditions (``Context.where``).
        ``posed``: the target's pose is laid on it, as on noisy tokens.
        """
        keys = None
        tokens = None
        if context is not None and self.conditions is not None:
            if posed and context.pose is not None:
                x = self.conditions.lay(x, context.pose)
            if context.keys is not None:
                keys = context.keys.chunk(len(self.blocks), dim=2)
            tokens = context.tokens
        start = x
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        if tokens is not None:
            x = torch.cat([x, tokens], dim=1)
        return Flow(x, start, condition, kept, keys, learning)

    def encode(
        self, c: Tensor | None, flows: list[Flow], look: int = 0, ready: Ready | None = None
    ) -> None:
        """The first blocks, c (P, N, D). After block ``look`` (from 1) ``hidden`` is kept."""
        self._run(c, flows, range(self.encoder_depth), look, ready)

    def decode(
        self, c: Tensor | None, flows: list[Flow], ready: Ready | None = None
    ) -> list[Tensor]:
        """The last blocks and the output layer; returns (N, 2C, h, w) a flow.

        The flows' first T tokens already hold the decoder position embedding, none is missing.
        """
        self._run(c, flows, range(self.encoder_depth, len(self.blocks)), 0, ready)
        width = flows[0].x.shape[2]
        if ready is None:
            last = self.final.modulation(c)  # (P, N, 2D)
        else:
            last = ready.modulations[None, :, -2 * width :]
        tokens = self.grid**2
        return [
            self.unpatchify(self.final(flow.x[:, :tokens], last[flow.condition])) for flow in flows
        ]

    def forward(self, latents: Tensor, ready: Ready, context: Context | None) -> Tensor:
        """The unmasked pass with all that does not depend on the noisy latents (N, C, h, w) made
        beforehand; (N, 2C, h, w). What ``Denoiser`` calls and ``torch.compile`` compiles."""
        flow = self.flow(self.embed(latents), context)
        self.encode(None, [flow], ready=ready)
        flow.x = self.with_position(flow.x)
        return self.decode(None, [flow], ready)[0]

    def with_position(self, x: Tensor) -> Tensor:
        """The decoder position embedding on the grid's tokens (source tokens have none)."""
        tokens = self.grid**2
        if x.shape[1] == tokens:
            return x + self.decoder_position
        return torch.cat([x[:, :tokens] + self.decoder_position, x[:, tokens:]], dim=1)

    def _run(
        self,
        c: Tensor | None,
        flows: list[Flow],
        blocks: range,
        look: int,
        ready: Ready | None,
    ) -> None:
        # (H, T, T + others) a block; unbound at once, so that their gradients are stacked at once
        whole = (self.bias() if ready is None else ready.bias).unbind(0)
        for i in blocks:
            made = None if ready is None else ready.of_block(i, flows[0].x.shape[2])
            streams = []
            for flow in flows:
                bias = whole[i] if flow.kept is None else bias_among(whole[i], flow.kept)
                if self._in_sequence:
                    bias = self._with_source_rows(bias, whole[i])
                keys = None if flow.keys is None else flow.keys[i]
                skip = self._skip(i, flow)
                streams.append(
                    Stream(flow.x, bias, keys, flow.condition, None, skip, flow.learning)
                )
            for flow, x in zip(flows, self.blocks[i](c, *streams, modulations=made), strict=True):
                flow.x = x
                if self.long_skips and i < self.encoder_depth // 2:
                    flow.skips.append(x)
                if i + 1 == look:
                    flow.hidden = x[:, : self.grid**2]

    def _skip(self, block: int, flow: Flow) -> Tensor | None:
        if not self._takes_skip(block):
            return None
        if block < self.encoder_depth:
            return flow.skips.pop()
        return flow.start

    @property
    def _in_sequence(self) -> bool:
        if self.conditions is None or not self.conditions.forms.attends:
            return False
        return self.conditions.forms.source_by == "sequence"

    def _with_source_rows(self, bias: Tensor, whole: Tensor) -> Tensor:
        """(..., H, K, K + S) and (H, T, T + S) -> (..., H, K + S, K + S): source tokens ask too.

        Among themselves, and onto the noisy tokens, distance counts for nothing here.
        """
        tokens, others = whole.shape[-2], whole.shape[-1] - whole.shape[-2]
        seen = whole[:, :1, tokens:]  # (H, 1, S): lower where several views share the weight
        far = seen[..., :1] + math.log(others / self.bias.others)
        row = torch.cat([far.expand(-1, -1, bias.shape[-1] - others), seen], dim=-1)
        return torch.cat([bias, row.expand(*bias.shape[:-2], others, -1)], dim=-2)

    def unpatchify(self, x: Tensor) -> Tensor:
        """(N, T, p*p*2C) -> (N, 2C, h, w); a token's values run row, column, channel."""
        n, p, g = x.shape[0], self.patch, self.grid
        x = x.reshape(n, g, g, p, p, 2 * self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, 2 * self.channels, g * p, g * p)
