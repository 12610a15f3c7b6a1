"""XMDPT: one module that holds CANet, TDNet and MIPNet (Cross-view Masked Diffusion Transformers,
ICML 2024), with the three calls that training and sampling need.

    condition = model.condition(pose_tokens, source_tokens, source_latents)   # CANet, once an image
    out = model(latents, timesteps, condition)                                # the unmasked pass
    out = model.forward_masked(latents, timesteps, condition, source_latents, token_noise)

Legend: N batch, C latent channels (4), h = w latent side, T = (h/p)(w/p) tokens, D width,
L DINOv2 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model.layers import RelativeBias
from xmdpt_cli.model.networks import CANet, Context, MIPNet, TDNet, initialise

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


class XMDPT(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="xmdpt",
    tags=["pose-guided-person-image-synthesis", "diffusion"],
    repo_url="https://arxiv.org/abs/2402.01516",
):
    """The whole model. Every argument is a plain number, so ``config.json`` rebuilds it.

    ``latent_size`` is the side of the (square) latents: 32 at 256 px, 64 at 512 px with an f = 8
    VAE. ``pose_length``/``source_length`` and ``pose_width``/``source_width`` describe the DINOv2
    tokens. ``mask_ratio`` is the share r of tokens hidden in the masked pass. ``conditioning`` is
    "vector" (the paper) or "tokens" (our extension); the latter needs ``vae_factor`` to lay the
    pose map on the latent grid. ``mipnet=False`` builds what inference needs and no more.
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
        conditioning: str = "vector",
        vae_factor: int = 8,
        mipnet: bool = True,
    ) -> None:
        super().__init__()
        if conditioning not in ("vector", "tokens"):
            raise ConfigError(f"conditioning is 'vector' or 'tokens', not {conditioning!r}")
        if latent_size % patch or width % heads or width % 4:
            raise ConfigError(
                f"sizes do not fit: latents {latent_size}, patch {patch}, width {width}, "
                f"heads {heads}"
            )
        if not 0 <= mask_ratio < 1 or not 0 < decode_layers < depth:
            raise ConfigError("mask_ratio lies in [0, 1), decode_layers between 1 and depth - 1")
        grid = latent_size // patch
        self.latent_shape = (latent_channels, latent_size, latent_size)
        self.mask_ratio, self.conditioning, self.width = mask_ratio, conditioning, width
        joined = conditioning == "tokens"
        self.canet = CANet(
            width, grid * grid, (pose_length, pose_width), (source_length, source_width)
        )
        self.tdnet = TDNet(
            width=width,
            depth=depth,
            heads=heads,
            grid=grid,
            patch=patch,
            channels=latent_channels,
            decode_layers=decode_layers,
            joined=joined,
            pose_patch=vae_factor * patch,
        )
        self.mipnet = MIPNet(width, heads, grid) if mipnet else None
        initialise(self.canet, self.tdnet, self.mipnet)

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> XMDPT:
        """``XMDPT.from_size("S", latent_size=64)``: a named size, the rest as in __init__."""
        if size not in SIZES:
            raise ConfigError(f"no such size: {size!r}", f"choose one of {', '.join(SIZES)}")
        depth, width, heads = SIZES[size]
        return cls(**{"depth": depth, "width": width, "heads": heads, **overrides})

    def condition(
        self, pose_tokens: Tensor, source_tokens: Tensor, source_latents: Tensor
    ) -> Tensor:
        """CANet (paper sec. 3): the condition vector (N, D).

        pose_tokens (N, L, 768): DINOv2-B tokens of the target's pose picture; source_tokens
        (N, L, 1536): DINOv2-G tokens of the source; source_latents (N, C, h, w), scaled.
        """
        self._check(source_latents, "source_latents")
        embedded = self.tdnet.embed(source_latents)
        return self.canet(pose_tokens, source_tokens, embedded)

    def context(self, source_latents: Tensor, pose_map: Tensor, source_pose_map: Tensor) -> Context:
        """What ``conditioning="tokens"`` passes besides the vector; made once a picture.

        source_latents (N, C, h, w); pose_map and source_pose_map (N, 3, H, W) in [0, 1], drawn
        from the target's and the source's keypoints, H = h times the VAE's factor. The source's
        pose tells the tokens of one body part in both views that they belong together.
        """
        if self.conditioning != "tokens":
            raise ConfigError("this model takes the condition vector only (conditioning='vector')")
        self._check(source_latents, "source_latents")
        pixels = self.tdnet.grid * self.tdnet.pose_patch
        for drawn in (pose_map, source_pose_map):
            if drawn.shape != (len(source_latents), 3, pixels, pixels):
                raise ConfigError(
                    f"a pose map {tuple(drawn.shape)} does not lie on the latent grid "
                    f"{tuple(source_latents.shape)}: expected "
                    f"{(len(source_latents), 3, pixels, pixels)}"
                )
        dtype = source_latents.dtype
        return self.tdnet.context(source_latents, pose_map.to(dtype), source_pose_map.to(dtype))

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
        x, c, source = self._begin(latents, timesteps, condition, context)
        net = self.tdnet
        return net.decode(net.encode(x, c, source) + net.decoder_position, c, source)

    def forward_masked(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        source_latents: Tensor,
        token_noise: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """The masked pass of training (MIPNet): shapes as in forward.

        token_noise (N, T), uniform in [0, 1): the int(T (1 - r)) smallest of a row are kept.
        """
        if self.mipnet is None:
            raise ConfigError("this model was built without MIPNet: it cannot run the masked pass")
        self._check(source_latents, "source_latents")
        x, c, source = self._begin(latents, timesteps, condition, context)
        net, tokens = self.tdnet, x.shape[1]
        if token_noise.shape != x.shape[:2]:
            raise ConfigError(
                f"token_noise is {tuple(token_noise.shape)}, not {tuple(x.shape[:2])}"
            )
        count = int(tokens * (1 - self.mask_ratio))
        kept = token_noise.argsort(dim=1, stable=True)[:, :count]  # (N, K)
        x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[2]))  # (N, K, D)
        x = net.encode(x, c, source, kept)
        # The source view through the same blocks, unmasked, with the same c and no gradient.
        with torch.no_grad():
            view = net.encode(net.embed(source_latents), c, source)
        return net.decode(self.mipnet(x, kept, net.decoder_position, view, c), c, source)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters three ways: held in training, read in inference, and as the paper counts.

        The paper leaves out MIPNet's two blocks, both position embeddings and the bias tables of
        the main blocks, but counts the mask token.
        """
        training = sum(p.numel() for p in self.parameters())
        mipnet = sum(p.numel() for p in self.mipnet.parameters()) if self.mipnet else 0
        blocks = mipnet - (self.mipnet.mask_token.numel() if self.mipnet else 0)
        positions = self.tdnet.position.numel() + self.tdnet.decoder_position.numel()
        tables = sum(m.table.numel() for m in self.tdnet.modules() if isinstance(m, RelativeBias))
        return {
            "training": training,
            "inference": training - mipnet,
            "paper": training - blocks - positions - tables,
        }

    def _begin(
        self, latents: Tensor, timesteps: Tensor, condition: Tensor, context: Context | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None]:
        """Embedded noisy tokens (N, T, D), c = t_emb + c_cond (N, D), and the source's keys and
        values (N, T, 2D) for each block, or None."""
        self._check(latents, "latents")
        if condition.shape != (latents.shape[0], self.width):
            expected = (latents.shape[0], self.width)
            raise ConfigError(f"condition is {tuple(condition.shape)}, not {expected}")
        if (context is not None) != (self.conditioning == "tokens"):
            raise ConfigError(
                f"conditioning={self.conditioning!r} does not fit context={context!r:.60}"
            )
        x = self.tdnet.embed(latents)
        c = self.tdnet.timestep(timesteps) + condition
        if context is None:
            return x, c, None
        known = (condition != 0).any(dim=1)[:, None, None].to(x.dtype)
        source = (known * context.source).chunk(len(self.tdnet.blocks), dim=2)
        return x + known * context.pose, c, source

    def _check(self, latents: Tensor, name: str) -> None:
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise ConfigError(
                f"{name} are {tuple(latents.shape)}, this model was built for "
                f"(N, {', '.join(map(str, self.latent_shape))})",
                "use data prepared at the resolution the model was made for",
            )
