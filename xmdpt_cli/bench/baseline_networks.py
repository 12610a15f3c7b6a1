"""Networks with the work of PIDM's and PoCoLD's, to compare X-MDPT's speed with.

They are built from diffusers' blocks and have random weights. Both have one interface: ``encode``
runs once per image, ``forward`` at every step with its result. A condition that is dropped for
guidance is zeros (PIDM).

Legend: N batch, H W image, h w latents, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import ResnetDownsampleBlock2D
from torch import Tensor, nn

from xmdpt_cli.model.layers import sincos_position_embedding

POSE_CHANNELS = 20  # heat maps (PIDM's released code)


class Conditions(NamedTuple):
    """The result of ``encode``, once for all steps, and arguments of ``forward``."""

    pose: Tensor
    source: tuple[Tensor, ...]


class SourceEncoder(nn.Module):
    """The down blocks of a UNet without timesteps; features of the levels with attention.

    With one more residual block at the coarsest level and a normalised 1x1 convolution for each
    level of features, encoder and UNet reach PIDM's number of parameters.
    """

    def __init__(self, widths: Sequence[int], layers: int, attended: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.levels, self.heads = nn.ModuleList(), nn.ModuleDict()
        before, last = widths[0], len(widths) - 1
        for i, width in enumerate(widths):
            level = ResnetDownsampleBlock2D(
                before,
                width,
                temb_channels=None,
                num_layers=layers + (i == last),
                add_downsample=i != last,
            )
            self.levels.append(level)
            if i in attended:
                norm = nn.GroupNorm(32, width)
                self.heads[str(i)] = nn.Sequential(norm, nn.SiLU(), nn.Conv2d(width, width, 1))
            before = width

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> (N, T, C) of each level with attention, the finest first."""
        features = []
        h = self.first(source)
        for i, level in enumerate(self.levels):
            h, states = level(h)
            if str(i) in self.heads:
                # the downsampled state is last in the list, except at the last level
                state = states[-1] if i == len(self.levels) - 1 else states[-2]
                features.append(self.heads[str(i)](state).flatten(2).transpose(1, 2))
        return tuple(features)


class PIDM(nn.Module):
    """A pixel-space UNet (ADM's blocks) with the pose as channels and the source by attention.

    Attention, at the ``attended`` levels and in the middle, has keys and values from the image
    itself and from the source's features of that level (PIDM's texture diffusion blocks).
    """

    def __init__(
        self,
        widths: Sequence[int],
        layers: int = 2,
        attended: Sequence[int] = (4, 5),
        head_width: int = 64,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        assert last in attended, "the middle block needs the coarsest features"
        kinds = ["SimpleCrossAttn" if i in attended else "Resnet" for i in range(last + 1)]
        down = {
            "SimpleCrossAttn": "SimpleCrossAttnDownBlock2D",
            "Resnet": "ResnetDownsampleBlock2D",
        }
        up = {"SimpleCrossAttn": "SimpleCrossAttnUpBlock2D", "Resnet": "ResnetUpsampleBlock2D"}
        self.attended = tuple(attended)
        self.encoder = SourceEncoder(widths, layers, attended)
        self.unet = UNet2DConditionModel(
            in_channels=3 + POSE_CHANNELS,
            out_channels=6,  # noise, then the learned variance, which DDIM does not read
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=tuple(down[kind] for kind in kinds),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=tuple(up[kind] for kind in reversed(kinds)),
            cross_attention_dim=tuple(widths),
            attention_head_dim=head_width,
            resnet_time_scale_shift="scale_shift",
        )

    def encode(self, pose: Tensor, source: Tensor) -> Conditions:
        """pose (N, 20, H, W), passed on unchanged; source (N, 3, H, W)."""
        return Conditions(pose, self.encoder(source))

    def forward(self, x: Tensor, t: Tensor, pose: Tensor, source: tuple[Tensor, ...]) -> Tensor:
        """x (N, 3, H, W), t (N,), the parts of ``Conditions`` -> (N, 6, H, W).

        The UNet's forward takes one sequence for all levels; here each level has another one.
        """
        net = self.unet
        reads: list[dict[str, Tensor]] = [{} for _ in net.down_blocks]
        for i, tokens in zip(self.attended, source, strict=True):
            reads[i] = {"encoder_hidden_states": tokens}
        time = net.time_embedding(net.time_proj(t).to(x.dtype))
        h = net.conv_in(torch.cat([x, pose], dim=1))
        skips = [h]
        for block, read in zip(net.down_blocks, reads, strict=True):
            h, states = block(h, time, **read)
            skips += states
        h = net.mid_block(h, time, **reads[-1])
        for block, read in zip(net.up_blocks, reversed(reads), strict=True):
            count = len(block.resnets)
            skips, of_block = skips[:-count], tuple(skips[-count:])
            h = block(h, of_block, time, **read)
        return net.conv_out(net.conv_act(net.conv_norm_out(h)))


class PatchTokens(nn.Module):
    """Linear patch embedding with positions: (N, C, H, W) -> (N, T, width)."""

    position: Tensor

    def __init__(self, channels: int, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)
        position = sincos_position_embedding(width, side // patch)
        self.register_buffer("position", position, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2) + self.position)


class PoCoLD(nn.Module):
    """A latent UNet with cross-attention to pose tokens and source tokens.

    PoCoLD's tokeniser is not known. A linear map of patches costs almost no time, so the comparison
    errs in PoCoLD's favour.
    """

    def __init__(
        self, widths: Sequence[int], token_width: int, latent_side: int, head_width: int = 64
    ) -> None:
        super().__init__()
        levels = len(widths)
        # a token is a patch of 16 x 16 pixels, 2 x 2 in the latents
        self.pose_tokens = PatchTokens(POSE_CHANNELS, 8 * latent_side, 16, token_width)
        self.source_tokens = PatchTokens(4, latent_side, 2, token_width)
        self.unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=tuple(widths),
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=token_width,
            # diffusers' name for the number of heads
            attention_head_dim=tuple(width // head_width for width in widths),
            use_linear_projection=True,
        )

    def encode(self, pose: Tensor, source: Tensor) -> Conditions:
        """pose (N, 20, 8h, 8w); source (N, 4, h, w): latents, encoded by the caller."""
        return Conditions(self.pose_tokens(pose), (self.source_tokens(source),))

    def forward(self, x: Tensor, t: Tensor, pose: Tensor, source: tuple[Tensor, ...]) -> Tensor:
        """x (N, 4, h, w), t (N,), the parts of ``Conditions`` -> noise (N, 4, h, w)."""
        tokens = torch.cat([pose, *source], dim=1)
        return self.unet(x, t, encoder_hidden_states=tokens, return_dict=False)[0]


Network = PIDM | PoCoLD
