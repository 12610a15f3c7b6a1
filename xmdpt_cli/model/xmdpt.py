"""X-MDPT: Cross-view Masked Diffusion Transformers for Person Image Synthesis (ICML 2024,
arXiv 2402.01516), in the order of the paper's section 3.

    condition = model.condition(pose_tokens, source_tokens, source_latents)  # CANet, once per image
    out = model(latents, timesteps, condition)                               # TDNet
    out = model.forward_masked(                                              # TDNet with MIPNet
        latents, timesteps, condition, source_latents, mask
    )

This is the reference: it contains no optimisations. Training and sampling compute the same numbers
through ``fast.py``, which also contains the guided sampling step (``denoiser``).

Legend: N batch, C latent channels (4), h = w latent side, p patch, s = h / p grid side, T = s * s
latent tokens, K of them kept by a mask, D width, H heads, L DINOv2 tokens, S source tokens that
``conditioning="tokens"`` adds to the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.config import (
    CONDITION_PARTS,
    PREDICTORS,
    SIZES,
    check_blocks,
    check_choice,
    check_choices,
    check_inputs,
    check_latents,
    check_mipnet,
    check_pose_maps,
    check_rotary,
    check_sizes,
)
from xmdpt_cli.model.denoiser import Denoiser, predict
from xmdpt_cli.model.extensions import GuidanceEmbedder, TokenConditioner, TokenConditions
from xmdpt_cli.model.initialisation import initialise
from xmdpt_cli.model.layers import (
    Block,
    FinalLayer,
    PatchEmbed,
    TimestepEmbedder,
    drop,
    gather_tokens,
)
from xmdpt_cli.model.repa import PROJECTIONS, repa_projector


def _blocks(blocks: Iterable[Block]) -> Sequence[Block]:
    """An nn.ModuleList, typed."""
    return cast("Sequence[Block]", nn.ModuleList(blocks))


class CANet(nn.Module):
    """Conditional aggregation network (paper sec. 3): all conditions -> one vector c_cond (N, D).

    The published model has all three ``parts`` and adds them. ``aggregation`` "mlp": side by side
    through a Linear and GELU; "concat": stacked and joined by a convolution with kernel 1.
    """

    def __init__(
        self,
        width: int,
        latent_tokens: int,  # T
        pose_shape: tuple[int, int],  # (L, features) of the pose tokens
        source_shape: tuple[int, int],  # (L, features) of the source tokens
        parts: Sequence[str] = CONDITION_PARTS,
        aggregation: str = "add",
    ) -> None:
        super().__init__()
        self.parts, self.aggregation = tuple(parts), aggregation
        self.pose_shape, self.source_shape = pose_shape, source_shape

        def activated(layer: nn.Module) -> nn.Sequential:
            return nn.Sequential(layer, nn.GELU(), nn.LayerNorm(width, eps=1e-12))

        if "local" in parts:
            self.conv1d_local = activated(nn.Conv1d(latent_tokens, 1, kernel_size=1))
        if "global" in parts:
            self.mlp_dino_img = activated(nn.Linear(source_shape[1], width))
            self.conv1d_global = activated(nn.Conv1d(source_shape[0], 1, kernel_size=1))
        if "pose" in parts:
            self.mlp_dino_pose = activated(nn.Linear(pose_shape[1], width))
            self.conv1d_pose = activated(nn.Conv1d(pose_shape[0], 1, kernel_size=1))
        if aggregation == "mlp":
            self.join: nn.Module = nn.Sequential(nn.Linear(len(parts) * width, width), nn.GELU())
        if aggregation == "concat":
            self.join = nn.Conv1d(len(parts), 1, kernel_size=1)
        self.mlp_final = activated(nn.Linear(width, width))

    def forward(
        self,
        pose_tokens: Tensor,  # (N, L, 768) DINOv2-B of the target's pose image
        source_tokens: Tensor,  # (N, L, 1536) DINOv2-G of the source image
        source_embedding: Tensor,  # (N, T, D) patch embedding of the source's latents
    ) -> Tensor:
        dtype, vectors = source_embedding.dtype, []
        # each convolution has kernel 1 and runs over the token axis: L (or T) tokens -> 1
        if "local" in self.parts:
            vectors.append(self.conv1d_local(source_embedding))  # vL (N, 1, D)
        if "global" in self.parts:
            x = self.mlp_dino_img(source_tokens.to(dtype))  # (N, L, D)
            vectors.append(self.conv1d_global(x))  # vG (N, 1, D)
        if "pose" in self.parts:
            x = self.mlp_dino_pose(pose_tokens.to(dtype))  # (N, L, D)
            vectors.append(self.conv1d_pose(x))  # vP (N, 1, D)
        if self.aggregation == "add":
            v = sum(vectors[1:], vectors[0])  # (N, 1, D)
        elif self.aggregation == "mlp":
            v = self.join(torch.cat(vectors, dim=2))  # (N, 1, D)
        else:
            v = self.join(torch.cat(vectors, dim=1))  # (N, 1, D)
        return self.mlp_final(v.squeeze(1))  # (N, D)


class TDNet(nn.Module):
    """Transformer-based denoising network (paper sec. 3): DiT blocks, conditioned by adaLN-Zero.

    MIPNet works between ``encode`` and ``decode``. ``backbone`` "mdtv2" adds the long skips of
    MDTv2 (arXiv 2303.14389): the second half of the encoder blocks takes the outputs of the first
    half, last in first out, and every decoder block takes the embedded input.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        patch: int,
        channels: int,
        decode_layers: int = 2,
        backbone: str = "plain",
        rotary: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels, self.heads = grid, patch, channels, heads
        self.encoder_depth, self.backbone = depth - decode_layers, backbone
        first_skip = self.encoder_depth // 2 if backbone == "mdtv2" else depth
        self.x_embedder = PatchEmbed(channels, width, patch)
        self.t_embedder = TimestepEmbedder(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, width))
        self.blocks = _blocks(
            Block(width, heads, grid, skip=i >= first_skip, rotary=rotary, qk_norm=qk_norm)
            for i in range(depth)
        )
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, grid * grid, width))
        self.final_layer = FinalLayer(width, patch * patch * 2 * channels)

    def embed(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, T, D)."""
        return self.x_embedder(latents) + self.pos_embed

    def encode(
        self, x: Tensor, c: Tensor, ids_keep: Tensor | None = None, kv: Tensor | None = None
    ) -> Tensor:
        """The first depth - decode_layers blocks: (N, K, D), (N, D) -> (N, K, D)."""
        skips: list[Tensor] = []
        for i, block in enumerate(self.blocks[: self.encoder_depth]):
            skip = None if block.skip_linear is None else skips.pop()
            x = block(x, c, ids_keep, self.block_kv(kv, i), skip)  # (N, K, D)
            if self.backbone == "mdtv2" and skip is None:
                skips.append(x)
        return x

    def decode(self, x: Tensor, c: Tensor, x_embedded: Tensor, kv: Tensor | None = None) -> Tensor:
        """The last blocks and the output layer: (N, T, D), (N, D) -> (N, 2C, h, w)."""
        for i, block in enumerate(self.blocks[self.encoder_depth :], start=self.encoder_depth):
            x = block(x, c, None, self.block_kv(kv, i), x_embedded)  # (N, T, D)
        return self.unpatchify(self.final_layer(x, c))

    def block_kv(self, kv: Tensor | None, block: int) -> Tensor | None:
        """Keys and values of the source for one block: (N, S, depth * 2D) -> (N, S, 2D)."""
        return None if kv is None else kv.chunk(len(self.blocks), dim=2)[block]

    def unpatchify(self, x: Tensor) -> Tensor:
        """(N, T, p * p * 2C) -> (N, 2C, h, w); the values of a token lie as (row, column, 2C)."""
        n, p, s = len(x), self.patch, self.grid
        x = x.reshape(n, s, s, p, p, 2 * self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, 2 * self.channels, s * p, s * p)


class Mask(NamedTuple):
    """Which tokens of each row the masked pass sees (as in MAE).

    Attributes:
        ids_keep: (N, K) grid positions of the kept tokens.
        ids_mask: (N, T - K) grid positions of the masked tokens.
        ids_restore: (N, T) where each grid position stands in [ids_keep, ids_mask].
    """

    ids_keep: Tensor
    ids_mask: Tensor
    ids_restore: Tensor

    @classmethod
    def random(cls, token_noise: Tensor, mask_ratio: float) -> Mask:
        """token_noise (N, T), uniform in [0, 1): the int(T (1 - mask_ratio)) smallest are kept."""
        shuffle = token_noise.argsort(dim=1, stable=True)
        kept = int(token_noise.shape[1] * (1 - mask_ratio))
        return cls(shuffle[:, :kept], shuffle[:, kept:], shuffle.argsort(dim=1))


class MIPNet(nn.Module):
    """Mask-based inter-prediction network (paper sec. 3), for training only: the masked tokens are
    predicted from the kept ones by self-attention, then from the source by cross-attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        grid: int,
        predictor: str = "self-cross",
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.order = PREDICTORS[predictor]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.sideblocks = _blocks(
            Block(width, heads, grid, qk_norm=qk_norm) for k in self.order if k == "self"
        )
        self.sideblocks_cross = _blocks(
            Block(width, heads, grid, cross=True, qk_norm=qk_norm)
            for k in self.order
            if k == "cross"
        )

    def fill(self, x: Tensor, mask: Mask, decoder_pos_embed: Tensor) -> Tensor:
        """Kept tokens (N, K, D) -> (N, T, D): mask tokens in the gaps, plus the position."""
        gaps = self.mask_token.to(x.dtype).expand(*mask.ids_mask.shape, -1)
        return gather_tokens(torch.cat([x, gaps], dim=1), mask.ids_restore) + decoder_pos_embed

    def forward(
        self, x: Tensor, mask: Mask, decoder_pos_embed: Tensor, c: Tensor, source: Tensor | None
    ) -> Tensor:
        """(N, K, D), (1, T, D), (N, D), source (N, T, D) -> (N, T, D)."""
        x = filled = self.fill(x, mask, decoder_pos_embed)
        for kind in self.order:
            if kind == "self":
                x = self.sideblocks[0](x, c)  # (N, T, D)
            else:
                x = self.sideblocks_cross[0](x, c, context=source)  # (N, T, D)
        is_masked = (mask.ids_restore >= mask.ids_keep.shape[1]).unsqueeze(2)  # (N, T, 1)
        return torch.where(is_masked, x, filled)


#: README.md of a folder with the network alone; ``XMDPTPipeline`` writes the complete model card.
CARD = """---
{{ card_data }}
---

The network of X-MDPT ([Cross-view Masked Diffusion Transformers](https://arxiv.org/abs/2402.01516),
ICML 2024), without its encoders.
`XMDPTPipeline.from_pretrained("FOLDER").save_pretrained("OTHER")` writes both with a model card.
"""


class XMDPT(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="xmdpt",
    tags=["pose-guided-person-image-synthesis", "diffusion"],
    model_card_template=CARD,
):
    """CANet, TDNet and, for training, MIPNet.

    Every argument is a plain value, so ``config.json`` rebuilds the model. Parameters have their
    published names, with the part in front: ``tdnet.blocks.0.attn.qkv.weight``.
    """

    def __init__(
        self,
        *,
        depth: int = 12,  # number of transformer blocks
        width: int = 384,  # D
        heads: int = 6,  # H
        latent_size: int = 32,  # h: 32 at 256 px, 64 at 512 px with an f = 8 VAE
        latent_channels: int = 4,  # C
        patch: int = 2,  # p
        decode_layers: int = 2,  # number of blocks after MIPNet
        pose_length: int = 257,  # L: DINOv2 on 224 px with patch 14, CLS and 16 x 16 patches
        pose_width: int = 768,  # DINOv2-B
        source_length: int = 257,
        source_width: int = 1536,  # DINOv2-G
        predictor: str = "self-cross",  # a key of PREDICTORS; none: no MIPNet, for inference
        mask_ratio: float = 0.3,  # share of masked tokens in training
        condition_parts: str = "local+global+pose",  # some of CONDITION_PARTS
        aggregation: str = "add",  # one of AGGREGATIONS
        backbone: str = "plain",  # plain: published; mdtv2: long skips
        conditioning: str = "vector",  # vector: the paper; tokens: our extension, beside the vector
        vae_factor: int = 8,  # tokens: pixels of the pose map per latent
        repa_width: int = 0,  # REPA: width of the tokens to align with; 0: no projector
        repa_layer: int = 4,  # REPA: number of the block, from 1, whose output is projected
        repa_projection: str = "mlp",  # REPA: one of PROJECTIONS
        guidance_embed: bool = False,  # distilled: the guidance scale is an input
        positions: str = "bias",  # in TDNet's attention; bias: published; rope: rotary
        qk_norm: bool = False,  # RMSNorm of queries and keys
    ) -> None:
        super().__init__()
        parts, grid = condition_parts.split("+"), latent_size // patch
        check_sizes(depth, width, heads, latent_size, patch, decode_layers, mask_ratio)
        check_choices(predictor, parts, aggregation, backbone, conditioning, positions)
        check_rotary(positions, width // heads)
        check_blocks(depth - decode_layers, backbone, repa_layer if repa_width else 1)
        check_choice("repa_projection", repa_projection, PROJECTIONS)
        self.width, self.conditioning, self.mask_ratio = width, conditioning, mask_ratio
        self.latent_shape = (latent_channels, latent_size, latent_size)
        self.pose_pixels = latent_size * vae_factor
        self.repa_layer = repa_layer if repa_width else 0
        pose, source = (pose_length, pose_width), (source_length, source_width)
        self.canet = CANet(width, grid * grid, pose, source, parts, aggregation)
        self.tdnet = TDNet(
            width, depth, heads, grid, patch, latent_channels, decode_layers, backbone,
            rotary=positions == "rope", qk_norm=qk_norm,
        )  # fmt: skip
        self.mipnet = (
            None if predictor == "none" else MIPNet(width, heads, grid, predictor, qk_norm)
        )
        self.tokens: TokenConditioner | None = None
        if conditioning == "tokens":
            self.tokens = TokenConditioner(width, depth, latent_channels, patch, vae_factor * patch)
        self.guidance_embed = GuidanceEmbedder(width) if guidance_embed else None
        self.predict = predict  # of sampling; denoiser.compile_sampling replaces it
        initialise(self)
        self.repa_projector = (
            repa_projector(repa_projection, width, repa_width) if repa_width else None
        )

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> XMDPT:
        """``XMDPT.from_size("S", latent_size=64)``: a key of ``SIZES``; the rest: ``__init__``.
        ConfigError for another size."""
        if size not in SIZES:
            raise ConfigError(f"no such size: {size!r}", f"choose one of {', '.join(SIZES)}")
        depth, width, heads = SIZES[size]
        return cls(**{"depth": depth, "width": width, "heads": heads, **overrides})

    def condition(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_latents: Tensor
    ) -> Tensor:
        """CANet: (N, L, 768), (N, L, 1536), (N, C, h, w) -> the condition vector (N, D)."""
        check_latents(source_latents, self.latent_shape, "source_latents")
        return self.canet(pose_tokens, source_tokens, self.tdnet.embed(source_latents))

    def token_conditions(
        self, source_latents: Tensor, pose_map: Tensor, source_pose_map: Tensor
    ) -> TokenConditions:
        """What ``conditioning="tokens"`` takes besides the vector: (N, C, h, w) latents and, twice,
        (N, 3, H, W) pose maps in [0, 1], rendered from the target's and the source's keypoints."""
        if self.tokens is None:
            raise ConfigError("this model takes the condition vector only (conditioning='vector')")
        check_latents(source_latents, self.latent_shape, "source_latents")
        check_pose_maps(source_latents, self.pose_pixels, pose_map, source_pose_map)
        dtype = source_latents.dtype
        return self.tokens(
            source_latents, pose_map.to(dtype), source_pose_map.to(dtype), self.tdnet.pos_embed
        )

    def embed(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        tokens: TokenConditions | None,
        keep: Tensor | None,
        cfg_scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Embedded latents (N, T, D), keys and values of the source (N, S, depth * 2D) of
        ``conditioning="tokens"``, and what modulates the blocks: c (N, D)."""
        check_inputs(self, latents, condition, tokens, cfg_scales)
        c = self.tdnet.t_embedder(timesteps) + drop(condition, keep)
        if self.guidance_embed is not None:
            c = c + self.guidance_embed(cfg_scales)
        x = self.tdnet.embed(latents)
        if tokens is None:
            return x, None, c
        pose, kv = tokens.keep(keep)
        return x + pose, kv, c

    def forward(
        self,
        latents: Tensor,  # (N, C, h, w) noisy
        timesteps: Tensor,  # (N,)
        condition: Tensor,  # (N, D)
        tokens: TokenConditions | None = None,
        keep: Tensor | None = None,  # (N,) bool: rows that keep their conditions; None: all
        cfg_scales: Tensor | None = None,  # (N,), of a model with ``guidance_embed``
    ) -> Tensor:
        """The unmasked pass: (N, 2C, h, w), the prediction, then the variance."""
        x, kv, c = self.embed(  # (N, T, D), ..., (N, D)
            latents, timesteps, condition, tokens, keep, cfg_scales
        )
        encoded = self.tdnet.encode(x, c, None, kv) + self.tdnet.decoder_pos_embed  # (N, T, D)
        return self.tdnet.decode(encoded, c, x, kv)  # (N, 2C, h, w)

    if TYPE_CHECKING:  # nn.Module declares it as Any
        __call__ = forward

    def forward_masked(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        source_latents: Tensor,  # (N, C, h, w)
        mask: Mask,
        tokens: TokenConditions | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The masked pass of training; shapes as in ``forward``."""
        mipnet = check_mipnet(self, source_latents)
        x, kv, c = self.embed(latents, timesteps, condition, tokens, keep)  # (N, T, D), ..., (N, D)
        visible = gather_tokens(x, mask.ids_keep)  # (N, K, D)
        visible = self.tdnet.encode(visible, c, mask.ids_keep, kv)  # (N, K, D)
        with torch.no_grad():  # published: the source passes the same blocks without a gradient
            source = self.tdnet.encode(self.tdnet.embed(source_latents), c, None, kv)  # (N, T, D)
        encoded = mipnet(visible, mask, self.tdnet.decoder_pos_embed, c, source)  # (N, T, D)
        return self.tdnet.decode(encoded, c, x, kv)  # (N, 2C, h, w)

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: TokenConditions | None = None,
        cache: int = 1,
    ) -> Callable[[Tensor, int], Tensor]:
        """Guided predictions for the steps of a sampler: (x (N, C, h, w), number of the step) ->
        (N, 2C, h, w). ``timesteps`` and ``cfg_scales`` have one value for each step. ``cache``: as
        in ``sample``."""
        return Denoiser(self, condition, timesteps, cfg_scales, tokens, cache)

    @property
    def size(self) -> str:
        """Its key in SIZES, or "custom"."""
        shape = (len(self.tdnet.blocks), self.width, self.tdnet.heads)
        return next((name for name, size in SIZES.items() if size == shape), "custom")
