"""XMDPT: one module that holds CANet, TDNet and MIPNet (Cross-view Masked Diffusion Transformers,
ICML 2024), with the calls that training and sampling need.

    condition = model.condition(pose_tokens, source_tokens, source_latents)   # CANet, once an image
    out = model(latents, timesteps, condition)                                # the unmasked pass
    both = model.passes(latents, timesteps, condition, condition, source_latents, mask)  # training

Legend: N batch, C latent channels (4), h = w latent side, T = (h/p)(w/p) tokens, D width,
L DINOv2 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.canet import PARTS, CANet
from xmdpt_cli.model.conditioning import Context, Forms, TokenConditions
from xmdpt_cli.model.denoiser import Denoiser
from xmdpt_cli.model.initialise import initialise
from xmdpt_cli.model.mipnet import PREDICTORS, Mask, MIPNet
from xmdpt_cli.model.relative_bias import RelativeBias
from xmdpt_cli.model.tdnet import Flow, TDNet

#: (depth, D, heads); S, B, L: paper sec. 4.1; XL: published code only; tiny: ours, for toys
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (4, 128, 4),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
DINO_TOKENS = 257  # DINOv2 on 224 px with patch 14: CLS and 16 x 16 patches
POSE_WIDTH, SOURCE_WIDTH = 768, 1536  # DINOv2-B and DINOv2-G
ALIGN_WIDTH = 2048  # hidden width of REPA's projector (Yu et al. 2024, arXiv 2410.06940)


class Passes(NamedTuple):
    """What a training step's passes give."""

    out: Tensor  # (N, 2C, h, w), the unmasked pass
    masked: Tensor | None  # (N, 2C, h, w), the masked pass
    aligned: Tensor | None  # (N, T, align_width), hidden tokens of the unmasked pass, projected


class XMDPT(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="xmdpt",
    tags=["pose-guided-person-image-synthesis", "diffusion"],
    repo_url="https://arxiv.org/abs/2402.01516",
):
    """The whole model. Every argument is plain, so ``config.json`` rebuilds it.

    ``latent_size`` is the side of the (square) latents: 32 at 256 px, 64 at 512 px with an f = 8
    VAE. ``pose_length``/``source_length`` and ``pose_width``/``source_width`` describe the DINOv2
    tokens. The paper's Table 2: ``predictor`` (a, d) a key of ``mipnet.PREDICTORS``, "none" builds
    what inference needs and no more; ``mask_ratio`` (b) the share r of tokens hidden in the masked
    pass; ``condition_parts`` and ``aggregation`` (e) as in ``CANet``, joined by "+".
    ``backbone`` is "plain" (published) or "mdtv2".

    ``conditioning`` is "vector" (the paper) or "tokens" (our extension), which needs ``vae_factor``
    to lay the pose map on the latent grid; ``token_source``, ``token_source_by``, ``token_pose``
    are ``conditioning.Forms``, ``vector=False`` leaves CANet out. ``align_width`` above 0 adds
    REPA's projector to that width behind block ``align_block``.
    """

    def __init__(
        self,
        *,
        depth: int = 12,
        width: int = 384,
        heads: int = 6,
        latent_size: int = 32,
        latent_channels: int = 4,
        patch: int = 2,
        decode_layers: int = 2,
        mask_ratio: float = 0.3,
        pose_length: int = DINO_TOKENS,
        pose_width: int = POSE_WIDTH,
        source_length: int = DINO_TOKENS,
        source_width: int = SOURCE_WIDTH,
        predictor: str = "self-cross",
        condition_parts: str = "+".join(PARTS),
        aggregation: str = "add",
        backbone: str = "plain",
        conditioning: str = "vector",
        vae_factor: int = 8,
        token_source: str = "latents",
        token_source_by: str = "keys",
        token_pose: str = "add",
        vector: bool = True,
        align_width: int = 0,
        align_block: int = 4,
    ) -> None:
        super().__init__()
        if conditioning not in ("vector", "tokens"):
            raise ConfigError(f"conditioning is 'vector' or 'tokens', not {conditioning!r}")
        if latent_size % patch or width % heads or width % 4:
            raise ConfigError(
                f"sizes do not fit: latents {latent_size}, patch {patch}, width {width}, "
                f"heads {heads}"
            )
        if not 0 <= mask_ratio < 1:
            raise ConfigError(f"mask_ratio lies in [0, 1), not {mask_ratio}")
        if not 0 < decode_layers < depth:
            raise ConfigError(
                f"decode_layers lies between 1 and {depth - 1} of {depth} blocks, not "
                f"{decode_layers}"
            )
        if predictor not in PREDICTORS:
            raise ConfigError(f"predictor is one of {', '.join(PREDICTORS)}, not {predictor!r}")
        if not vector and conditioning == "vector":
            raise ConfigError("conditioning 'vector' without the vector leaves nothing")
        grid = latent_size // patch
        if align_width and not 0 < align_block <= depth - decode_layers:
            raise ConfigError(f"align_block lies in 1 to {depth - decode_layers}")
        self.latent_shape = (latent_channels, latent_size, latent_size)
        self.mask_ratio, self.conditioning, self.width = mask_ratio, conditioning, width
        self.align_block = align_block if align_width else 0
        self.pose_pixels = grid * vae_factor * patch
        self.canet = None
        if vector:
            self.canet = CANet(
                width,
                grid * grid,
                (pose_length, pose_width),
                (source_length, source_width),
                tuple(condition_parts.split("+")),
                aggregation,
            )
        conditions = None
        if conditioning == "tokens":
            forms = Forms(token_source, token_source_by, token_pose)
            if backbone == "mdtv2" and forms.source_by == "sequence":
                raise ConfigError("backbone 'mdtv2' has no source tokens in the sequence")
            conditions = TokenConditions(
                forms,
                width=width,
                depth=depth,
                tokens=grid * grid,
                channels=latent_channels,
                patch=patch,
                pose_patch=vae_factor * patch,
                source=(source_length, source_width),
            )
        self.tdnet = TDNet(
            width=width,
            depth=depth,
            heads=heads,
            grid=grid,
            patch=patch,
            channels=latent_channels,
            decode_layers=decode_layers,
            backbone=backbone,
            conditions=conditions,
        )
        self.mipnet = None if predictor == "none" else MIPNet(width, heads, grid, predictor)
        self.align = None
        if align_width:
            self.align = nn.Sequential(
                nn.Linear(width, ALIGN_WIDTH),
                nn.SiLU(),
                nn.Linear(ALIGN_WIDTH, ALIGN_WIDTH),
                nn.SiLU(),
                nn.Linear(ALIGN_WIDTH, align_width),
            )
        initialise(self.canet, self.tdnet, self.mipnet)

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> XMDPT:
        """``XMDPT.from_size("S", latent_size=64)``: a named size, the rest as in __init__."""
        if size not in SIZES:
            raise ConfigError(f"no such size: {size!r}", f"choose one of {', '.join(SIZES)}")
        depth, width, heads = SIZES[size]
        return cls(**{"depth": depth, "width": width, "heads": heads, **overrides})

    @property
    def size(self) -> str:
        """The name of its size, a key of ``SIZES``; "custom" if it has none."""
        shape = (len(self.tdnet.blocks), self.width, self.tdnet.bias.heads)
        return next((name for name, size in SIZES.items() if size == shape), "custom")

    def condition(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_latents: Tensor
    ) -> Tensor:
        """CANet (paper sec. 3): the condition vector (N, D).

        pose_tokens (N, L, 768): DINOv2-B tokens of the target's pose picture; source_tokens
        (N, L, 1536): DINOv2-G tokens of the source; source_latents (N, C, h, w), scaled. A model
        without the vector gives ones: they say that there are conditions.
        """
        self._check(source_latents, "source_latents")
        if self.canet is None:
            return source_latents.new_ones(len(source_latents), self.width)
        embedded = self.tdnet.embed(source_latents)
        return self.canet(pose_tokens, source_tokens, embedded)

    def context(
        self,
        source_latents: Tensor,
        pose_map: Tensor,
        source_pose_map: Tensor,
        source_tokens: Tensor | None = None,
    ) -> Context:
        """What ``conditioning="tokens"`` passes besides the vector; made once a picture.

        source_latents (N, C, h, w); pose_map and source_pose_map (N, 3, H, W) in [0, 1], drawn
        from the target's and the source's keypoints, H = h times the VAE's factor. The source's
        pose tells the tokens of one body part in both views that they belong together.
        source_tokens (N, L, 1536) for ``token_source`` "dino" and "both".
        """
        conditions = self.tdnet.conditions
        if conditions is None:
            raise ConfigError("this model takes the condition vector only (conditioning='vector')")
        self._check(source_latents, "source_latents")
        expected = (len(source_latents), 3, self.pose_pixels, self.pose_pixels)
        for drawn in (pose_map, source_pose_map):
            if drawn.shape != expected:
                raise ConfigError(
                    f"a pose map {tuple(drawn.shape)} does not lie on the latent grid "
                    f"{tuple(source_latents.shape)}: expected {expected}"
                )
        dtype = source_latents.dtype
        maps = (pose_map.to(dtype), source_pose_map.to(dtype))
        return conditions(source_latents, source_tokens, *maps, self.tdnet.position)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """The unmasked pass: (N, C, h, w), (N,), (N, D) -> (N, 2C, h, w), prediction then variance.

        A row of ``condition`` that is all zero means unconditional (its context is dropped too).
        """
        return self._passes(latents, timesteps, condition, None, None, None, context).out

    if TYPE_CHECKING:  # nn.Module's own says Any

        def __call__(
            self,
            latents: Tensor,
            timesteps: Tensor,
            condition: Tensor,
            context: Context | None = None,
        ) -> Tensor: ...

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        scales: Sequence[float],
        context: Context | None = None,
    ) -> Denoiser:
        """Guided predictions for the pictures of ``condition`` (N, D): see ``Denoiser``."""
        self._check_condition(condition, condition, context)
        return Denoiser(self.tdnet, condition, timesteps, scales, context)

    def compile_sampling(self) -> None:
        """From now on sampling runs through torch.compile: one compilation a batch size.

        On a GPU its steps become CUDA graphs. Equal up to rounding.
        """
        cuda = next(self.parameters()).is_cuda
        self.tdnet.compile(dynamic=False, mode="reduce-overhead" if cuda else None)

    def forward_masked(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        source_latents: Tensor,
        token_noise: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """The masked pass of training (MIPNet) alone: shapes as in forward.

        token_noise (N, T), uniform in [0, 1): the int(T (1 - r)) smallest of a row are kept.
        """
        expected = (len(latents), self.tdnet.grid**2)
        if token_noise.shape != expected:
            raise ConfigError(f"token_noise is {tuple(token_noise.shape)}, not {expected}")
        mask = Mask.draw(token_noise, self.mask_ratio)
        found = self._passes(latents, timesteps, None, condition, source_latents, mask, context)
        assert found.masked is not None
        return found.masked

    def passes(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        masked_condition: Tensor | None = None,
        source_latents: Tensor | None = None,
        mask: Mask | None = None,
        context: Context | None = None,
        masked_latents: Tensor | None = None,
    ) -> Passes:
        """Both passes of a training step in one walk through the blocks; without ``mask`` the
        unmasked one alone.

        Shapes as in ``forward``; each pass has its condition (rows are dropped independently), and
        the masked one its own noisy latents where ``masked_latents`` (N, C, h, w) are given.
        Equal to ``forward`` and ``forward_masked`` up to rounding.
        """
        if mask is None:
            masked_condition = None
        return self._passes(
            latents,
            timesteps,
            condition,
            masked_condition,
            source_latents,
            mask,
            context,
            masked_latents,
        )

    def parameter_counts(self) -> dict[str, int]:
        """Parameters three ways: held in training, read in inference, and as the paper counts.

        The paper leaves out MIPNet's two blocks, both position embeddings and the bias tables of
        the main blocks, but counts the mask token.
        """
        training = sum(p.numel() for p in self.parameters())
        mipnet = sum(p.numel() for p in self.mipnet.parameters()) if self.mipnet else 0
        align = sum(p.numel() for p in self.align.parameters()) if self.align else 0
        blocks = mipnet - (self.mipnet.mask_token.numel() if self.mipnet else 0)
        positions = self.tdnet.position.numel() + self.tdnet.decoder_position.numel()
        tables = sum(m.table.numel() for m in self.tdnet.modules() if isinstance(m, RelativeBias))
        return {
            "training": training,
            "inference": training - mipnet - align,
            "paper": training - align - blocks - positions - tables,
        }

    def _passes(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor | None,
        masked_condition: Tensor | None,
        source_latents: Tensor | None,
        mask: Mask | None,
        context: Context | None,
        masked_latents: Tensor | None = None,
    ) -> Passes:
        """The passes that have a condition."""
        self._check(latents, "latents")
        given = [c for c in (condition, masked_condition) if c is not None]
        for one in given:
            self._check_condition(one, latents, context)
        net = self.tdnet
        x = net.embed(latents)  # (N, T, D)
        c = net.timestep(timesteps) + torch.stack(given)  # (P, N, D): c = t_emb + c_cond
        seen = [None if context is None else context.where(_known(one, x)) for one in given]
        flows = []
        if condition is not None:
            flows.append(net.flow(x, seen[0]))
        if mask is None or masked_condition is None:
            net.encode(c, flows, self.align_block)
            flows[0].x = net.with_position(flows[0].x)
            return Passes(net.decode(c, flows)[0], None, self._aligned(flows[0]))
        if self.mipnet is None:
            raise ConfigError("this model was built without MIPNet: it cannot run the masked pass")
        last = len(given) - 1
        if masked_latents is not None:
            self._check(masked_latents, "masked_latents")
            x = net.embed(masked_latents)
        masked = net.flow(x, seen[last], last, mask.kept)
        views = []
        if self.mipnet.reads_source:
            assert source_latents is not None
            self._check(source_latents, "source_latents")
            # The source view through the same blocks, unmasked, with the same c and no gradient.
            with torch.no_grad():
                start = net.embed(source_latents)
                known = seen[last]
                known = None if known is None else known.detach()
                views = [net.flow(start, known, last, None, False, False)]
        net.encode(c, [*flows, masked, *views], self.align_block)
        aligned = None
        for flow in flows:
            flow.x = net.with_position(flow.x)
            aligned = self._aligned(flow)
        self._fill(masked, mask, views, c)
        outs = net.decode(c, [*flows, masked])
        return Passes(outs[0], outs[-1], aligned)

    def _fill(self, flow: Flow, mask: Mask, views: list[Flow], c: Tensor) -> None:
        """MIPNet puts the missing tokens into a flow."""
        assert self.mipnet is not None
        count, tokens = mask.kept.shape[1], self.tdnet.grid**2
        source = views[0].x[:, :tokens] if views else None
        whole = self.mipnet(
            flow.x[:, :count], mask, self.tdnet.decoder_position, source, c, flow.condition
        )
        rest = flow.x[:, count:]  # the source's tokens, if they are in the sequence
        flow.x = torch.cat([whole, rest], dim=1) if rest.shape[1] else whole
        flow.kept = None

    def _aligned(self, flow: Flow) -> Tensor | None:
        if self.align is None or flow.hidden is None:
            return None
        projected: Tensor = self.align(flow.hidden)
        return projected

    def _check_condition(self, condition: Tensor, latents: Tensor, context: Context | None) -> None:
        if condition.shape != (latents.shape[0], self.width):
            expected = (latents.shape[0], self.width)
            raise ConfigError(f"condition is {tuple(condition.shape)}, not {expected}")
        if (context is not None) != (self.conditioning == "tokens"):
            raise ConfigError(
                f"conditioning={self.conditioning!r} does not fit context={context!r:.60}"
            )

    def _check(self, latents: Tensor, name: str) -> None:
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise ConfigError(
                f"{name} are {tuple(latents.shape)}, this model was built for "
                f"(N, {', '.join(map(str, self.latent_shape))})",
                "use data prepared at the resolution the model was made for",
            )


def _known(condition: Tensor, like: Tensor) -> Tensor:
    """(N, D) -> (N, 1, 1): 0 for the rows that have lost their conditions."""
    return (condition != 0).any(dim=1)[:, None, None].to(like.dtype)
